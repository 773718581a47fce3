"""What became of each word: a segmentation read label by label instead of step by step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from car.segmentation import Mask, Pass, QueryScore, Segmentation


@dataclass(frozen=True)
class QueryTrace:
    """One label's way through the recurrence."""

    label: str
    index: int
    """Place among the labels in the order in which they were first asked; colours go by it."""
    pass_kind: Pass
    queries: Mapping[int, QueryScore]
    """By step, as far as the label lived."""
    mask: Mask | None
    """None where the label was dropped, and where it was kept but no pixel fell to it."""

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
    """One fate a label, in the order in which the labels were first asked."""
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
    """Survivors as they were asked, then the dropped: those that lived longest first, of equals the best score."""
    return tuple(sorted(traces, key=lambda f: (False, 0, 0.0) if f.survived else (True, -f.last_step, -f.last.score)))


def format_area_share(area: int, segmentation: Segmentation) -> str:
    """An area as a share of its picture; never 0.0 %, for a mask is never empty."""
    share = 100 * area / (segmentation.width * segmentation.height)
    return f"{share:.1f} %" if share >= 0.05 else "<0.1 %"  # noqa: PLR2004 - what would round to nought


def select_steps(steps: int, room: int) -> tuple[int, ...]:
    """Which of the steps 1.. to show where there is room for so many: the first ones and the last ones."""
    if steps <= room:
        return tuple(range(1, steps + 1))
    head = room // 2
    return (*range(1, head + 1), *range(steps - (room - head) + 1, steps + 1))
