"""Query traces: the query history of a segmentation by label instead of by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from car.segmentation import Mask, Pass, QueryScore, Segmentation


@dataclass(frozen=True)
class QueryTrace:
    """The query history of one label."""

    label: str
    index: int
    """Index of the label in the vocabulary; it determines the color."""
    pass_kind: Pass
    queries: Mapping[int, QueryScore]
    """By step, up to the step that dropped the label."""
    mask: Mask | None
    """None if the label was dropped, or was kept but got no pixels."""

    @property
    def last(self) -> QueryScore:
        return self.queries[self.last_step]

    @property
    def last_step(self) -> int:
        return max(self.queries)

    @property
    def survived(self) -> bool:
        return self.last.kept


def query_traces(segmentation: Segmentation) -> tuple[QueryTrace, ...]:
    """Return one trace per label, in the order of the vocabulary."""
    masks = {mask.label: mask for mask in segmentation.masks}
    passes: dict[str, Pass] = {}
    queries: dict[str, dict[int, QueryScore]] = {}
    for step in segmentation.steps:
        for query in step.queries:
            passes.setdefault(query.label, step.pass_kind)
            queries.setdefault(query.label, {})[step.step] = query
    return tuple(
        QueryTrace(label, index, passes[label], queries[label], masks.get(label)) for index, label in enumerate(queries)
    )


def sort_for_display(traces: Sequence[QueryTrace]) -> tuple[QueryTrace, ...]:
    """Sort traces for display: survivors in the order of the vocabulary, then dropped labels by last step and score."""
    return tuple(sorted(traces, key=lambda f: (False, 0, 0.0) if f.survived else (True, -f.last_step, -f.last.score)))


def format_area_share(area: int, segmentation: Segmentation) -> str:
    """Format an area as a share of its image; a mask is never empty, so never as 0.0 %."""
    share = 100 * area / (segmentation.width * segmentation.height)
    return f"{share:.1f} %" if share >= 0.05 else "<0.1 %"  # noqa: PLR2004 - what would round to nought


def select_steps(steps: int, room: int) -> tuple[int, ...]:
    """Return the steps to show if not all fit: the first and the last ones."""
    if steps <= room:
        return tuple(range(1, steps + 1))
    head = room // 2
    return (*range(1, head + 1), *range(steps - (room - head) + 1, steps + 1))
