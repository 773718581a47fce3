"""A result as objects: all masks in one JSON document, one indexed label map, and the picture's preview."""

import json
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.rendering.palette import label_color
from car.rle import decode_coco
from car.segmentation import Segmentation
from worker.pipeline.types import FetchedItem, Objects

PREVIEW_SIDE = 1024
_INDEXED = 255
_NOTHING = (0, 0, 0)


def store_objects(objects: Objects, one: FetchedItem, found: Segmentation) -> tuple[str, str, str]:
    """Keys of masks, label map and preview. Names are made of digests: storing again changes nothing."""
    run_key, picture = one.run_key, one.image
    place = f"results/{run_key[:2]}/{run_key}"
    masks = objects.put(
        f"{place}/masks.json",
        masks_document(run_key, picture.sha256, found, one.spec.model_version),
        "application/json",
    )
    labels = objects.put(f"{place}/labelmap.png", label_map(found), "image/png")
    shown = one.preview_key or objects.put(
        f"images/{picture.sha256[:2]}/{picture.sha256}.jpg", preview(picture.pixels), "image/jpeg"
    )
    return masks, labels, shown


def masks_document(run_key: str, sha256: str, found: Segmentation, model_version: str) -> bytes:
    """Every mask as COCO RLE. The same run gives the same bytes, so nothing in it tells of time or machine."""
    document = {
        "run_key": run_key,
        "image": {"sha256": sha256, "width": found.width, "height": found.height},
        "model_version": model_version,
        "masks": found.masks_json(),
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def label_map(found: Segmentation) -> bytes:
    """An indexed PNG at full size: 0 where there is no label, k where the k-th mask is; 16-bit gray above 255 masks.
    Where masks overlap, as referring expressions may, the one of the higher score is on top.
    """
    many = len(found.masks) > _INDEXED
    labels = np.zeros((found.height, found.width), np.uint16 if many else np.uint8)
    for number, mask in sorted(enumerate(found.masks, start=1), key=lambda one: one[1].score):
        labels[decode_coco(mask.rle)] = number
    image = Image.fromarray(labels)
    if not many:
        image.putpalette([*_NOTHING, *(part for k in range(len(found.masks)) for part in label_color(k))])
    return _encoded(image, "PNG")


def preview(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of at most 1,024 pixels a side, for pages and overlays."""
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2.0)
    return _encoded(image, "JPEG", quality=85)


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    out = BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()
