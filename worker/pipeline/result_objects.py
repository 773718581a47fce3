"""The objects of a result: all masks in one JSON document, an indexed label map, and a preview of the image."""

import json
from io import BytesIO
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from car.object_store import ObjectStore
from car.rendering.palette import label_color
from car.rle import decode_coco
from car.segmentation import Segmentation
from worker.pipeline.types import FetchedItem

PREVIEW_SIDE = 1024
_MAX_INDEXED = 255
_BACKGROUND_COLOR = (0, 0, 0)


def store_objects(objects: ObjectStore, fetched: FetchedItem, segmentation: Segmentation) -> tuple[str, str, str]:
    """Store masks, label map and preview, and return their keys. The keys are digests, so storing is idempotent."""
    run_key, sha256 = fetched.run_key, fetched.image.sha256
    prefix = f"results/{run_key[:2]}/{run_key}"
    document = masks_document(run_key, sha256, segmentation, fetched.spec.model_version)
    masks_key = objects.put(f"{prefix}/masks.json", document, "application/json")
    labelmap_key = objects.put(f"{prefix}/labelmap.png", label_map(segmentation), "image/png")
    preview_key = fetched.preview_key or objects.put(
        f"images/{sha256[:2]}/{sha256}.jpg", preview(fetched.image.pixels), "image/jpeg"
    )
    return masks_key, labelmap_key, preview_key


def masks_document(run_key: str, sha256: str, segmentation: Segmentation, model_version: str) -> bytes:
    """Return every mask as COCO RLE. The same run gives the same bytes: neither time nor machine is in them."""
    document = {
        "run_key": run_key,
        "image": {"sha256": sha256, "width": segmentation.width, "height": segmentation.height},
        "model_version": model_version,
        "masks": segmentation.masks_json(),
    }
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def label_map(segmentation: Segmentation) -> bytes:
    """Return an indexed PNG at full size: 0 without a label, k for the k-th mask; 16-bit gray above 255 masks.

    Where masks overlap, as those of referring expressions may, the higher score is on top.
    """
    masks = segmentation.masks
    is_indexed = len(masks) <= _MAX_INDEXED
    labels = np.zeros((segmentation.height, segmentation.width), np.uint8 if is_indexed else np.uint16)
    for number, mask in sorted(enumerate(masks, start=1), key=lambda numbered: numbered[1].score):
        labels[decode_coco(mask.rle)] = number
    image = Image.fromarray(labels)
    if is_indexed:
        colors = (label_color(number, mask.label) for number, mask in enumerate(masks))
        image.putpalette([*_BACKGROUND_COLOR, *chain.from_iterable(colors)])
    return _encode(image, "PNG")


def preview(pixels: NDArray[np.uint8]) -> bytes:
    """Return a JPEG of at most 1,024 pixels a side, for pages and overlays."""
    image = Image.fromarray(pixels)
    image.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), reducing_gap=2.0)
    return _encode(image, "JPEG", quality=85)


def _encode(image: Image.Image, image_format: str, **options: int) -> bytes:
    out = BytesIO()
    image.save(out, format=image_format, **options)
    return out.getvalue()
