"""Images of a result, drawn on request from its objects, its rows and the preview of its image."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from api.errors import ObjectsLostError, ObjectsUnavailableError
from car.object_store import ObjectStore
from car.rle import CocoRle, bbox, decode_coco, encode_coco
from car.segmentation import Mask, MaskSource, Segmentation, Step, StopReason
from db.errors import AccessDeniedError, BucketMissingError, NotFoundError, ObjectMissingError
from db.results.details import Stored

_BLANK = (128, 128, 128)
_BLANK_SIDE = 1024


def own(objects: ObjectStore, key: str) -> bytes:
    """Return an object of the service's own bucket.

    Raises:
        ObjectsLostError: it was deleted, but its row still exists.
        ObjectsUnavailableError: the bucket is missing or denied.
        StoreUnreachableError: S3 does not answer.

    """
    try:
        return objects.get(key)
    except ObjectMissingError as error:
        raise ObjectsLostError(
            f"{key} of this result is no longer in the bucket; retry its job or create one with its image, which "
            "computes it again"
        ) from error
    except (BucketMissingError, AccessDeniedError) as error:
        raise ObjectsUnavailableError("the bucket of the results is not available; /readyz has the reason") from error


def masks(objects: ObjectStore, stored: Stored) -> list[dict[str, Any]]:
    """Return all masks with their RLE, as the worker wrote them."""
    document = json.loads(own(objects, stored.row.masks_key))
    return document["masks"]  # type: ignore[no-any-return] # the worker's own document


def mask_named(objects: ObjectStore, stored: Stored, label: str) -> CocoRle:
    """Raises: NotFoundError."""
    rles = {mask["label"]: mask["rle"] for mask in masks(objects, stored)}
    if label not in rles:
        labels = ", ".join(map(repr, rles)) or "none"
        raise NotFoundError(f"result {stored.row.id} has no mask of {label!r}; it has {labels}")
    return rles[label]  # type: ignore[no-any-return] # see masks


def mask_png(rle: CocoRle) -> bytes:
    """Return the mask at full size, 255 on 0, as `car segment --masks` writes it."""
    return _png(Image.fromarray(decode_coco(rle)).convert("L"))


def fetch(objects: ObjectStore, stored: Stored) -> tuple[list[dict[str, Any]], bytes | None]:
    """Return the masks and the preview, if there is one. Raises: see `own`."""
    key = stored.image.preview_key
    return masks(objects, stored), own(objects, key) if key is not None else None


def draw(
    draw_image: Callable[[NDArray[np.uint8], Segmentation], Image.Image],
    stored: Stored,
    steps: tuple[Step, ...],
    masks: list[dict[str, Any]],
    preview: bytes | None,
) -> bytes:
    """Return a PNG drawn from the preview, or from gray without one, and the masks scaled to its size."""
    image = stored.image
    if preview is not None:
        with Image.open(BytesIO(preview), formats=["JPEG"]) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    else:
        scale = min(1.0, _BLANK_SIDE / max(image.width, image.height))
        size = (max(1, round(image.height * scale)), max(1, round(image.width * scale)))
        pixels = np.full((*size, 3), _BLANK, np.uint8)
    height, width = pixels.shape[:2]
    segmentation = Segmentation(
        width=width,
        height=height,
        masks=tuple(_scaled(mask, width, height) for mask in masks),
        steps=steps,
        stop_reason=StopReason(stored.row.stop_reason),
    )
    return _png(draw_image(pixels, segmentation))


def _png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def _scaled(mask: dict[str, Any], width: int, height: int) -> Mask:
    """Scale masks one by one, so that memory holds only one at full size."""
    rle: CocoRle = mask["rle"]
    full_height, full_width = rle["size"]
    x, y, across, down = mask["bbox"]
    original = Mask(mask["label"], mask["score"], mask["area"], (x, y, across, down), rle, MaskSource(mask["source"]))
    if (full_height, full_width) == (height, width):
        return original
    pixels = decode_coco(rle)[np.ix_(_nearest(full_height, height), _nearest(full_width, width))]
    if not pixels.any():  # thinner than a pixel of the preview: shown as one pixel
        pixels[min(y * height // full_height, height - 1), min(x * width // full_width, width - 1)] = True
    scale = width * height / (full_width * full_height)
    left, top, right, bottom = bbox(scaled := encode_coco(pixels))
    area = max(1, round(original.area * scale))
    return replace(original, rle=scaled, bbox=(left, top, right, bottom), area=area)


def _nearest(full: int, small: int) -> Sequence[int]:
    """Return for each row of the small image the row of the full one under its center."""
    return ((np.arange(small) + 0.5) * full / small).astype(int).tolist()  # type: ignore[no-any-return] # numpy's tolist
