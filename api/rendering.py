"""Pictures of a result, drawn when asked for: from its objects, its rows and the small preview of its picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from api.errors import ObjectsUnavailableError
from car.rendering.history_image import draw_history
from car.rendering.overlay import draw_overlay
from car.rle import CocoRle, bbox, decode_coco, encode_coco
from car.segmentation import Mask, MaskSource, Segmentation, Step, StopReason
from db.errors import AccessDeniedError, BucketMissingError, NotFoundError, ObjectMissingError
from db.objects import ObjectStore
from db.results.details import Stored

_BLANK = (128, 128, 128)
_BLANK_SIDE = 1024


@dataclass(frozen=True)
class StoredObjects:
    """What a result has in the bucket, as far as it is drawn."""

    masks: list[dict[str, Any]]
    preview: bytes | None


@dataclass(frozen=True)
class RenderInput:
    """A result at the size of its preview, as the drawing functions take it."""

    pixels: NDArray[np.uint8]
    segmentation: Segmentation
    has_picture: bool
    """False where no preview was kept: the masks lie on plain gray."""


def own(objects: ObjectStore, key: str) -> bytes:
    """One of the service's own objects.

    Raises:
        NotFoundError: its row is there and it is not: somebody deleted it.
        ObjectsUnavailable: the bucket cannot be used.
        StoreUnreachableError: no answer.

    """
    try:
        return objects.get(key)
    except ObjectMissingError as error:
        raise NotFoundError(
            f"{key} of this result is not in the bucket any more; retry its picture to make it again"
        ) from error
    except (BucketMissingError, AccessDeniedError) as error:
        raise ObjectsUnavailableError("the bucket of the results cannot be used now; /readyz says more") from error


def masks(objects: ObjectStore, stored: Stored) -> list[dict[str, Any]]:
    """Every mask with its RLE, exactly as the worker wrote it."""
    document = json.loads(own(objects, stored.row.masks_key))
    return document["masks"]  # type: ignore[no-any-return] # the worker's own document


def mask_named(objects: ObjectStore, stored: Stored, label: str) -> CocoRle:
    """Raises: NotFoundError."""
    found = {mask["label"]: mask["rle"] for mask in masks(objects, stored)}
    if label not in found:
        known = ", ".join(map(repr, found)) or "none at all"
        raise NotFoundError(f"result {stored.row.id} has no mask of {label!r}; it has {known}")
    return found[label]  # type: ignore[no-any-return] # see masks


def mask_png(rle: CocoRle) -> bytes:
    """Full size, 255 where the mask is; the very file of `car segment --masks`."""
    return png(Image.fromarray(decode_coco(rle)).convert("L"))


def fetch(objects: ObjectStore, stored: Stored) -> StoredObjects:
    """Raises: see `own`."""
    key = stored.image.preview_key
    return StoredObjects(masks(objects, stored), own(objects, key) if key is not None else None)


def load_render_input(objects: StoredObjects, stored: Stored, steps: tuple[Step, ...]) -> RenderInput:
    """The preview with the masks made as small as it is."""
    image = stored.image
    if objects.preview is not None:
        with Image.open(BytesIO(objects.preview), formats=["JPEG"]) as opened:
            pixels = np.asarray(opened.convert("RGB"))
    else:
        share = min(1.0, _BLANK_SIDE / max(image.width, image.height))
        size = (max(1, round(image.height * share)), max(1, round(image.width * share)))
        pixels = np.full((*size, 3), _BLANK, np.uint8)
    height, width = pixels.shape[:2]
    segmentation = Segmentation(
        width=width,
        height=height,
        masks=tuple(_small(mask, width, height) for mask in objects.masks),
        steps=steps,
        stop_reason=StopReason(stored.row.stop_reason),
    )
    return RenderInput(pixels, segmentation, objects.preview is not None)


def overlay_png(drawn: RenderInput) -> bytes:
    return png(draw_overlay(drawn.pixels, drawn.segmentation))


def history_png(drawn: RenderInput) -> bytes:
    return png(draw_history(drawn.pixels, drawn.segmentation))


def png(image: Image.Image) -> bytes:
    out = BytesIO()
    image.save(out, format="PNG")
    return out.getvalue()


def _small(mask: dict[str, Any], width: int, height: int) -> Mask:
    """One at a time, so that memory holds one full-size mask however many there are."""
    rle: CocoRle = mask["rle"]
    full_height, full_width = rle["size"]
    x, y, across, down = mask["bbox"]
    whole = Mask(mask["label"], mask["score"], mask["area"], (x, y, across, down), rle, MaskSource(mask["source"]))
    if (full_height, full_width) == (height, width):
        return whole
    full = decode_coco(rle)
    small = full[np.ix_(_nearest(full_height, height), _nearest(full_width, width))]
    if not small.any():  # thinner than the preview's pixels: it is shown as one of them
        small[min(y * height // full_height, height - 1), min(x * width // full_width, width - 1)] = True
    share = width * height / (full_width * full_height)
    left, top, right, bottom = bbox(tiny := encode_coco(small))
    return replace(whole, rle=tiny, bbox=(left, top, right, bottom), area=max(1, round(whole.area * share)))


def _nearest(full: int, small: int) -> Sequence[int]:
    """For each row of the small picture, the one of the full picture under its middle."""
    return ((np.arange(small) + 0.5) * full / small).astype(int).tolist()  # type: ignore[no-any-return] # numpy's tolist
