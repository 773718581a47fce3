"""Parse a result of the API as a Segmentation."""

from car.rle import CocoRle
from car.segmentation import Mask, MaskSource, Pass, QueryScore, Segmentation, Step, StopReason
from cli.service.api_types import Mask as MaskDocument
from cli.service.api_types import ResultDetail


def segmentation_of(detail: ResultDetail) -> Segmentation:
    """Return masks, steps and timings equal to those that the worker stored."""
    return Segmentation(
        width=detail["image"]["width"],
        height=detail["image"]["height"],
        masks=tuple(_mask(mask) for mask in detail["masks"]),
        steps=tuple(
            Step(step["step"], tuple(QueryScore(**query) for query in step["queries"]), Pass(step["pass"]))
            for step in detail["steps"]
        ),
        stop_reason=StopReason(detail["stop_reason"]),
        timings=detail["timings"],
    )


def _mask(document: MaskDocument) -> Mask:
    x, y, width, height = document["bbox"]
    rle = document["rle"]
    return Mask(
        label=document["label"],
        score=document["score"],
        area=document["area"],
        bbox=(x, y, width, height),
        rle=CocoRle(size=rle["size"], counts=rle["counts"]),
        source=MaskSource(document["source"]),
    )
