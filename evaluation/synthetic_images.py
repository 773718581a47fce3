"""Images, CAMs and masks from seeds, for measurements and tests."""

import numpy as np
from jaxtyping import Bool, Float, UInt8


def tiled_image(height: int, width: int, seed: int = 0) -> UInt8[np.ndarray, "height width 3"]:
    """Return RGB tiles of random colours with noise: images with edges."""
    rng = np.random.default_rng(seed)
    tiles = rng.integers(32, 224, (-(-height // 64), -(-width // 64), 3)).repeat(64, 0).repeat(64, 1)
    grain = rng.integers(-8, 9, (height, width, 3))
    return (tiles[:height, :width] + grain).astype(np.uint8)


def photograph(height: int, width: int, noise: float = 2.0) -> UInt8[np.ndarray, "height width 3"]:
    """Return RGB with smooth colours and a camera's noise: the number of colours sizes the CRF's lattices."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + y / 91), np.cos(y / 53 - x / 120), np.sin((x + y) / 77)]
    image = 128 + 80 * np.stack(waves, -1) + np.random.default_rng(0).normal(0, noise, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8)


def spots(count: int, rows: int, columns: int) -> Float[np.ndarray, "count rows columns"]:
    """Return CAMs of one soft spot each, 0..1 in float32."""
    rng = np.random.default_rng(count)
    y, x = np.mgrid[:rows, :columns]
    centers = rng.uniform((0, 0), (rows, columns), (count, 2))
    return np.stack([np.exp(-25 * (((y - r) / rows) ** 2 + ((x - c) / columns) ** 2)) for r, c in centers]).astype("f4")


def blobs(side: int, blur: float, seed: int = 0) -> Bool[np.ndarray, "side side"]:
    """Return a mask of smooth noise above its mean; `blur` is in pixels."""
    noise = np.random.default_rng(seed).standard_normal((side, side))
    frequency = np.fft.fftfreq(side)
    gain = np.exp(-2 * (np.pi * blur) ** 2 * (frequency[:, None] ** 2 + frequency**2))
    return np.asarray(np.fft.ifft2(np.fft.fft2(noise) * gain).real > 0)
