"""Pictures for tasks, with the truth about them, and what a prediction says of a picture."""

from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from label_studio_sdk.converter.brush import decode_rle
from PIL import Image, ImageDraw

from demo.scenes import WORDS, Scene, held_out_scenes

_SERIES = 41
_OPAQUE = 127


@dataclass(frozen=True)
class Picture:
    name: str
    content: bytes
    scene: Scene

    def truth(self, word: str) -> np.ndarray:
        """Where it is, upright."""
        return np.asarray(self.scene.labels == WORDS.index(word) + 1)


def scenes(count: int) -> list[Picture]:
    """The first of one series, as PNG files: what several tests show has its masks computed once."""
    made = []
    for number, scene in enumerate(held_out_scenes(count, seed=_SERIES)):
        out = BytesIO()
        Image.fromarray(scene.image).save(out, "PNG")
        made.append(Picture(f"scene-{number}.png", out.getvalue(), scene))
    return made


def drawn(result: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """By label the pixels that the regions of a prediction or an annotation cover; read as Label Studio draws them."""
    masks: dict[str, np.ndarray] = {}
    for region in result:
        kind = region["type"]
        if kind == "choices":
            continue
        (label,) = region["value"][kind]
        mask = _DRAWN[kind](region["value"], region["original_width"], region["original_height"])
        masks[label] = masks.get(label, np.zeros_like(mask)) | mask
    return masks


def _brush(value: dict[str, Any], width: int, height: int) -> np.ndarray:
    return np.asarray(decode_rle(value["rle"]).reshape(height, width, 4)[..., 3] > _OPAQUE)


def _bitmask(value: dict[str, Any], width: int, height: int) -> np.ndarray:
    """Its alpha: the colours of the PNG are not looked at."""
    image = Image.open(BytesIO(b64decode(value["imageDataURL"].partition(",")[2])))
    assert image.size == (width, height)
    return np.asarray(image.convert("RGBA"))[..., 3] > _OPAQUE


def _polygon(value: dict[str, Any], width: int, height: int) -> np.ndarray:
    image = Image.new("1", (width, height))
    points = [(x * width / 100 - 0.5, y * height / 100 - 0.5) for x, y in value["points"]]
    ImageDraw.Draw(image).polygon(points, fill=1, outline=1)
    return np.asarray(image)


def _rectangle(value: dict[str, Any], width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    left, top = round(value["x"] * width / 100), round(value["y"] * height / 100)
    right = round((value["x"] + value["width"]) * width / 100)
    bottom = round((value["y"] + value["height"]) * height / 100)
    mask[top:bottom, left:right] = True
    return mask


_DRAWN = {
    "brushlabels": _brush,
    "bitmasklabels": _bitmask,
    "polygonlabels": _polygon,
    "rectanglelabels": _rectangle,
}


def box(mask: np.ndarray) -> np.ndarray:
    """The rectangle around a mask, as a mask."""
    full = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if rows.size:
        full[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return full


def iou(one: np.ndarray, other: np.ndarray) -> float:
    union = int((one | other).sum())
    return float((one & other).sum() / union) if union else 1.0
