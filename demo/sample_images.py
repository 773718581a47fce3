"""The demo pictures: `python -m demo.sample_images` writes demo/images, their ground truth and demo/labels.txt again.

Their seeds belong to a split of their own, so no model has met them in training.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Int16, UInt8
from PIL import Image

from demo.scenes import WORDS, Scene, SceneStyle, Split, draw_scene, generator

IMAGES: Final = Path(__file__).parent / "images"
TRUTH: Final = Path(__file__).parent / "truth"
"""Beside the pictures and not among them, so that `car segment demo/images` finds pictures alone."""
LABELS: Final = Path(__file__).parent / "labels.txt"

_EXIF_ORIENTATION: Final = 0x0112
_TURNED_RIGHT: Final = 6
"""The camera was held upright: a viewer must turn the stored picture by 90 degrees clockwise."""

Save = Callable[[Image.Image, Path], None]


def _plain(image: Image.Image, path: Path) -> None:
    image.save(path)


def _jpeg(image: Image.Image, path: Path) -> None:
    image.save(path, quality=93, subsampling=0)


def _webp(image: Image.Image, path: Path) -> None:
    image.save(path, quality=92)


def _palette(image: Image.Image, path: Path) -> None:
    image.quantize(256, dither=Image.Dither.NONE).save(path)


def _alpha(image: Image.Image, path: Path) -> None:
    image.putalpha(255)
    image.save(path)


def _sideways_jpeg(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[_EXIF_ORIENTATION] = _TURNED_RIGHT
    image.transpose(Image.Transpose.ROTATE_90).save(path, quality=93, subsampling=0, exif=exif)


@dataclass(frozen=True)
class SampleImage:
    """One demo picture: how it is drawn and stored."""

    name: str
    seed: int
    size: tuple[int, int]
    """(width, height) as a viewer shows it."""
    style: SceneStyle = field(default_factory=SceneStyle)
    save: Save = _plain

    def scene(self) -> Scene:
        return draw_scene(generator(Split.PICTURES, self.seed), size=self.size, style=self.style)


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
    """Write every picture and its label map: 8-bit palette PNG, 0 background, k `WORDS[k - 1]`."""
    for folder in (images, truth):
        folder.mkdir(parents=True, exist_ok=True)
    for picture in SAMPLE_IMAGES:
        scene = picture.scene()
        picture.save(Image.fromarray(scene.image), images / picture.name)
        coloured(scene.labels).save(truth_path(picture, truth))


def truth_path(picture: SampleImage, truth: Path = TRUTH) -> Path:
    """Where the label map of a picture lies; it has the size that a viewer shows, whatever the file's EXIF rotation."""
    return truth / f"{Path(picture.name).stem}.png"


def coloured(labels: Int16[np.ndarray, "h w"]) -> Image.Image:
    """A label map whose palette lets people see it: each word in a colour of its own, the background black."""
    image = Image.fromarray(labels.astype(np.uint8), mode=None).convert("P")
    image.putpalette(_colours().ravel().tolist())
    return image


def _colours() -> UInt8[np.ndarray, "256 3"]:
    """Pascal VOC's colour map: the bits of the class number, spread over the channels' high bits."""
    classes = np.arange(256)
    colours = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((classes >> (3 * bit % 24 + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colours


if __name__ == "__main__":
    write_images()
    LABELS.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
