"""The query history of one picture as a table: a row a word, a column a step."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from car.query_history import QueryTrace, format_area_share, query_traces, select_steps, sort_for_display
from car.segmentation import QueryScore, Segmentation, StopReason

_DROPPED_SHOWN = 8
_STEPS_SHOWN = 6

STOPS = {
    StopReason.UNCHANGED: "stable: a step kept every word",
    StopReason.ONE_LEFT: "one word was left",
    StopReason.NONE_LEFT: "no word was left",
    StopReason.STEP_LIMIT: "stopped by max_steps while words were still falling",
}


@dataclass(frozen=True)
class HistoryTable:
    """How histories are shown: `every` word and number, or the ones that matter, with so many `dropped` words."""

    every: bool = False
    dropped: int = _DROPPED_SHOWN
    hint: str = "--verbose shows all"

    def build(self, title: str, segmentation: Segmentation, notes: Sequence[str], console: Console) -> Group:
        """The table with what was found on its first line and why it ended on its last."""
        lives = sort_for_display(query_traces(segmentation))
        kept = [life for life in lives if life.survived]
        dropped = [life for life in lives if not life.survived]
        shown = dropped if self.every else dropped[: self.dropped]
        steps = self._steps(segmentation)
        marks = _marks(console)
        table = self._head(steps, marks, shown=bool(shown))
        for life in (*kept, *shown):
            table.add_row(*self._row(life, steps, marks, segmentation, rivals=bool(shown)))
        head = Text.assemble((title, "bold"), f"  {segmentation.width} x {segmentation.height}")
        for note in notes:
            head.append(f"  {note}", style="yellow")
        return Group(head, table, self._foot(segmentation, lives, len(dropped) - len(shown)), Text())

    def _steps(self, segmentation: Segmentation) -> tuple[int, ...]:
        longest = max((step.step for step in segmentation.steps), default=0)
        return select_steps(longest, longest if self.every else _STEPS_SHOWN)

    def _head(self, steps: tuple[int, ...], marks: tuple[str, str, str], *, shown: bool) -> Table:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("word", overflow="fold")
        for before, step in zip((0, *steps), steps, strict=False):
            gap = "" if step == before + 1 else f"{marks[2]} "
            table.add_column(f"{gap}step {step}", justify="right", no_wrap=True)
        table.add_column("mask", justify="right", no_wrap=True)
        if self.every:
            table.add_column("box x,y,w,h", no_wrap=True)
        if shown:
            table.add_column("looks like", overflow="fold")
        return table

    def _row(
        self,
        life: QueryTrace,
        steps: tuple[int, ...],
        marks: tuple[str, str, str],
        segmentation: Segmentation,
        *,
        rivals: bool,
    ) -> list[Text]:
        cells = [Text(life.label, style="bold" if life.mask else "" if life.survived else "dim")]
        cells += [self._score(life.queries.get(step), marks) for step in steps]
        if life.mask is not None:
            cells.append(Text(format_area_share(life.mask.area, segmentation), "bold"))
        else:
            cells.append(Text("no pixels" if life.survived else "", style="dim"))
        if self.every:
            cells.append(Text(",".join(map(str, life.mask.bbox)) if life.mask else ""))
        if rivals:
            lost = not life.survived and life.last.rival is not None
            cells.append(Text(f"{life.last.rival!r} {life.last.rival_score:.2f}" if lost else "", style="red"))
        return cells

    def _score(self, query: QueryScore | None, marks: tuple[str, str, str]) -> Text:
        if query is None:
            return Text()
        kept, dropped, _ = marks
        area = f" {query.area} px" if self.every else ""
        return Text(
            f"{query.score:.2f}{area} {kept if query.kept else dropped}", style="green" if query.kept else "red"
        )

    def _foot(self, segmentation: Segmentation, lives: Sequence[QueryTrace], hidden: int) -> Text:
        kept = sum(life.survived for life in lives)
        foot = Text(style="dim")
        if hidden:
            foot.append(f"and {hidden} more dropped ({self.hint})\n")
        turns = f"{len(segmentation.steps)} step{'' if len(segmentation.steps) == 1 else 's'}"
        foot.append(f"{kept} of {len(lives)} kept after {turns}; {STOPS[segmentation.stop_reason]}")
        if segmentation.timings:
            foot.append(f"; {sum(segmentation.timings.values()) / 1000:.1f} s")
        if self.every:
            stages = ", ".join(f"{stage.removesuffix('_ms')} {ms:.0f}" for stage, ms in segmentation.timings.items())
            foot.append(f"\nmilliseconds: {stages}")
        return foot


def _marks(console: Console) -> tuple[str, str, str]:
    """Kept, dropped (to be told apart without colour) and left out; in ASCII where the terminal knows no others."""
    try:
        "✓✗…".encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return "+", "x", "..."
    return "✓", "✗", "…"
