"""Images of a disc and a bar on noise, in memory and as files."""

import numpy as np
import pytest
from PIL import Image


def paint(width=64, height=48, seed=0):
    """A picture (height, width, 3) of a disc and a bar on noise."""
    noise = np.random.default_rng(seed).integers(90, 120, (height, width, 3), dtype=np.uint8)
    ys, xs = np.mgrid[:height, :width]
    noise[(ys - height // 2) ** 2 + (xs - width // 3) ** 2 < (min(height, width) // 4) ** 2] = (200, 40, 30)
    noise[height // 5 : height // 3, width // 2 :] = (30, 60, 200)
    return noise


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three good pictures and a damaged one, in a folder."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        Image.fromarray(paint(64 + 9 * seed, seed=seed)).save(folder / f"{name}.png")
    (folder / "broken.png").write_bytes((folder / "alpha.png").read_bytes()[:200])
    return folder
