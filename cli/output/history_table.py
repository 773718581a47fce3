"""The query history of one image as a table: one row per label, one column per step."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from car.query_history import QueryTrace, format_area_share, query_traces, select_steps, sort_for_display
from car.segmentation import QueryScore, Segmentation, StopReason

_DROPPED_SHOWN = 8
_STEPS_SHOWN = 6

_STOP_REASONS = {
    StopReason.UNCHANGED: "stable: the last step dropped none",
    StopReason.ONE_LEFT: "stopped with one label left",
    StopReason.NONE_LEFT: "stopped with no label left",
    StopReason.STEP_LIMIT: "stopped by max_steps while labels were still being dropped",
}


@dataclass(frozen=True)
class HistoryTable:
    """Formats query histories: all labels, steps and numbers, or the kept labels and the first `dropped` others."""

    show_all: bool = False
    dropped: int = _DROPPED_SHOWN
    hint: str = "--verbose shows all"

    def build(self, title: str, segmentation: Segmentation, notes: Sequence[str], console: Console) -> Group:
        """Return the title line, the table, and a line with the stop reason."""
        traces = sort_for_display(query_traces(segmentation))
        survivors = [trace for trace in traces if trace.survived]
        dropped = [trace for trace in traces if not trace.survived]
        shown = dropped if self.show_all else dropped[: self.dropped]
        step_count = max((step.step for step in segmentation.steps), default=0)
        steps = select_steps(step_count, step_count if self.show_all else _STEPS_SHOWN)
        marks = _marks(console)

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("label", overflow="fold")
        for previous, step in zip((0, *steps), steps, strict=False):
            gap = "" if step == previous + 1 else f"{marks[2]} "
            table.add_column(f"{gap}step {step}", justify="right", no_wrap=True)
        table.add_column("mask", justify="right", no_wrap=True)
        if self.show_all:
            table.add_column("box x,y,w,h", no_wrap=True)
        if shown:
            table.add_column("looks like", overflow="fold")
        for trace in (*survivors, *shown):
            row = self._row(trace, steps, marks, segmentation)
            table.add_row(*row, *([_rival(trace)] if shown else []))

        size = f"  {segmentation.width} x {segmentation.height}"
        head = Text.assemble((title, "bold"), size, *((f"  {note}", "yellow") for note in notes if note))
        foot = self._foot(segmentation, f"{len(survivors)} of {len(traces)} kept", len(dropped) - len(shown))
        return Group(head, table, foot, Text())

    def _row(
        self, trace: QueryTrace, steps: tuple[int, ...], marks: tuple[str, str, str], segmentation: Segmentation
    ) -> list[Text]:
        mask = trace.mask
        cells = [Text(trace.label, style="bold" if mask else "" if trace.survived else "dim")]
        cells += [self._score(trace.queries.get(step), marks) for step in steps]
        if mask is not None:
            cells.append(Text(format_area_share(mask.area, segmentation), "bold"))
        else:
            cells.append(Text("no pixels" if trace.survived else "", style="dim"))
        if self.show_all:
            cells.append(Text(",".join(map(str, mask.bbox)) if mask else ""))
        return cells

    def _score(self, query: QueryScore | None, marks: tuple[str, str, str]) -> Text:
        if query is None:
            return Text()
        mark, style = (marks[0], "green") if query.kept else (marks[1], "red")
        area = f" {query.area} px" if self.show_all else ""
        return Text(f"{query.score:.2f}{area} {mark}", style=style)

    def _foot(self, segmentation: Segmentation, kept: str, hidden: int) -> Text:
        foot = Text(style="dim")
        if hidden:
            foot.append(f"and {hidden} more dropped ({self.hint})\n")
        step_count = len(segmentation.steps)
        foot.append(f"{kept} after {step_count} step{'' if step_count == 1 else 's'}")
        foot.append(f"; {_STOP_REASONS[segmentation.stop_reason]}")
        if segmentation.timings:
            foot.append(f"; {sum(segmentation.timings.values()) / 1000:.1f} s")
        if self.show_all:
            stages = ", ".join(f"{stage.removesuffix('_ms')} {ms:.0f}" for stage, ms in segmentation.timings.items())
            foot.append(f"\nmilliseconds: {stages}")
        return foot


def _rival(trace: QueryTrace) -> Text:
    if trace.survived or trace.last.rival is None:
        return Text()
    return Text(f"{trace.last.rival!r} {trace.last.rival_score:.2f}", style="red")


def _marks(console: Console) -> tuple[str, str, str]:
    """Return the marks for kept, dropped and skipped steps, distinct without color; ASCII if the terminal needs it."""
    try:
        "✓✗…".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return "+", "x", "..."
    return "✓", "✗", "…"
