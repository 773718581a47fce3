"""`python -m benchmarks rle`: run-length encoding of masks beside Label Studio's SDK and pycocotools.

Both sides are timed in alternation, so a busy machine slows both; the least of the turns counts.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import numpy as np
import typer
from label_studio_sdk.converter import brush
from numpy.typing import NDArray
from pycocotools import mask as coco
from rich.console import Console

from car.rle import decode_brush, decode_coco, encode_brush, encode_coco
from cli.commands.bench.display import number_table
from cli.commands.bench.options import JsonOption
from cli.commands.bench.report import Report
from evaluation.stopwatch import Stopwatch
from evaluation.synthetic_images import blobs

BLURS = {"11k runs": 23.5, "41k runs": 5.6}
"""Number of runs of a 1024 x 1024 mask, approximately, to its blur."""


@dataclass(frozen=True)
class Comparison:
    """Milliseconds of one operation in the reference library and in car.rle."""

    operation: str
    runs: int
    reference_ms: float
    ours_ms: float
    ratio: float


def rle(
    context: typer.Context,
    *,
    turns: Annotated[int, typer.Option(min=1, help="Repeat the measurement; the least counts.")] = 7,
    json_file: JsonOption = None,
) -> None:
    """Compare run-length encoding and decoding of 1024 x 1024 masks with Label Studio's SDK and pycocotools."""
    report = Report.start(context, json_file)
    rows = {name: compare(blobs(1024, blur), turns) for name, blur in BLURS.items()}
    table = number_table("1024 x 1024 mask", "runs", "SDK / pycocotools, ms", "ours, ms", "ratio")
    for row in (row for mask in rows.values() for row in mask):
        table.add_row(
            row.operation, f"{row.runs:,}", f"{row.reference_ms:.2f}", f"{row.ours_ms:.2f}", f"{row.ratio:.1f}"
        )
    Console().print(table)
    report.finish({"cases": {name: {row.operation: asdict(row) for row in mask} for name, mask in rows.items()}})


def compare(mask: NDArray[np.bool_], turns: int) -> list[Comparison]:
    """Time every operation on `mask`."""
    grey, watch = mask.astype(np.uint8) * 255, Stopwatch(time.perf_counter)
    stream, counts = encode_brush(mask), encode_coco(mask)
    height, width = mask.shape
    operations: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "brush encode": (lambda: brush.mask2rle(grey), lambda: encode_brush(mask)),
        "brush decode": (lambda: brush.decode_rle(stream), lambda: decode_brush(stream, height, width)),
        "COCO encode": (lambda: coco.encode(np.asfortranarray(grey)), lambda: encode_coco(mask)),
        "COCO decode": (lambda: coco.decode(counts), lambda: decode_coco(counts)),
    }
    runs = 1 + int(np.count_nonzero(np.diff(mask.ravel())))
    for _ in range(turns):
        for operation, sides in operations.items():
            for side, call in zip(("reference", "ours"), sides, strict=True):
                with watch.stage(operation + side):
                    call()
        watch.end_turn()
    comparisons = []
    for operation in operations:
        reference_ms, ours_ms = (1000 * watch.least[operation + side] for side in ("reference", "ours"))
        comparisons.append(Comparison(operation, runs, reference_ms, ours_ms, reference_ms / ours_ms))
    return comparisons
