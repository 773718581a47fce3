"""The demo images: `python -m demo.sample_images` writes demo/images, their ground truth and demo/labels.txt.

Their seeds are a split of their own, so no model has seen them in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int16, UInt8
from PIL import Image

from demo.scenes import WORDS, Scene, SceneStyle, Split, draw_scene, generator

IMAGES: Final = Path(__file__).parent / "images"
TRUTH: Final = Path(__file__).parent / "truth"
"""Not in `IMAGES`, so that `car segment demo/images` finds images only."""
LABELS: Final = Path(__file__).parent / "labels.txt"

_EXIF_ORIENTATION: Final = 0x0112
_TURNED_RIGHT: Final = 6
"""A viewer must rotate the stored image by 90 degrees clockwise."""

Save = Callable[[Image.Image, Path], None]
_jpeg = partial(Image.Image.save, quality=93, subsampling=0)
_webp = partial(Image.Image.save, quality=92)


def _palette(image: Image.Image, path: Path) -> None:
    image.quantize(256, dither=Image.Dither.NONE).save(path)


def _alpha(image: Image.Image, path: Path) -> None:
    image.putalpha(255)
    image.save(path)


def _sideways_jpeg(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _TURNED_RIGHT
    _jpeg(image.transpose(Image.Transpose.ROTATE_90), path, exif=exif)


@dataclass(frozen=True)
class SampleImage:
    """One demo image: how it is drawn and stored."""

    name: str
    seed: int
    size: tuple[int, int]
    """(width, height) as a viewer shows it."""
    style: SceneStyle = field(default_factory=SceneStyle)
    save: Save = Image.Image.save

    def scene(self) -> Scene:
        return draw_scene(generator(Split.IMAGES, self.seed), size=self.size, style=self.style)


_FOUR: Final = SceneStyle(objects=(4, 4))
SAMPLE_IMAGES: Final[tuple[SampleImage, ...]] = (
    SampleImage("several.png", 48, (160, 160), _FOUR),
    SampleImage("tiny-and-large.png", 13, (192, 192), _FOUR),
    SampleImage("overlap.jpg", 12, (224, 192), SceneStyle(objects=(4, 4), radius=(0.17, 0.3), overlap=1.0), _jpeg),
    SampleImage("odd-size.png", 3, (203, 151), SceneStyle(objects=(3, 3))),
    SampleImage("phone-upright.jpg", 55, (150, 200), SceneStyle(objects=(3, 3)), _sideways_jpeg),
    SampleImage("palette.png", 6, (160, 160), SceneStyle(objects=(3, 3)), _palette),
    SampleImage("alpha.png", 15, (176, 144), SceneStyle(objects=(2, 2)), _alpha),
    SampleImage("wide.webp", 40, (320, 240), _FOUR, _webp),
    SampleImage("one-tiny.png", 5, (128, 128), SceneStyle(objects=(1, 1), radius=(0.1, 0.11))),
    SampleImage("nothing-but-grass.webp", 6, (160, 160), SceneStyle(objects=(0, 0)), _webp),
)


def write_images(images: Path = IMAGES, truth: Path = TRUTH) -> None:
    """Write every image and its label map: 8-bit palette PNG, 0 background, k `WORDS[k - 1]`."""
    for folder in (images, truth):
        folder.mkdir(parents=True, exist_ok=True)
    for sample in SAMPLE_IMAGES:
        scene = sample.scene()
        sample.save(Image.fromarray(scene.image), images / sample.name)
        coloured(scene.labels).save(truth_path(sample, truth))


def truth_path(image: SampleImage, truth: Path = TRUTH) -> Path:
    """Return the path of an image's label map, which has the image's size after EXIF rotation."""
    return truth / f"{Path(image.name).stem}.png"


def coloured(labels: Int16[np.ndarray, "h w"]) -> Image.Image:
    """Return a label map with a palette: a colour for each word, black for the background."""
    image = Image.fromarray(labels.astype(np.uint8), mode=None).convert("P")
    image.putpalette(_colours().ravel().tolist())
    return image


def _colours() -> UInt8[np.ndarray, "256 3"]:
    """Return Pascal VOC's colour map: the bits of the class number, spread over the channels' high bits."""
    classes = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * bit % 24 + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


if __name__ == "__main__":
    write_images()
    LABELS.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
