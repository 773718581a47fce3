"""What the terminal shows while files are segmented."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Timer

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from cli.output.history_table import HistoryTable
from cli.output.result_files import Result

_PATIENCE_S = 2.0
"""A single picture gets a progress bar only if it takes longer."""


@dataclass
class Report:
    """Tables on stdout (on stderr where stdout carries JSON), progress and faults on stderr."""

    quiet: bool
    verbose: bool
    stdout_is_json: bool
    out: Console = field(init=False)
    faults: Console = field(init=False)

    def __post_init__(self) -> None:
        # Words and file names may hold what a terminal's encoding does not; that must not stop a batch.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self.faults = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self.out = Console(stderr=self.stdout_is_json, highlight=False, markup=False)

    def show(self, result: Result, notes: tuple[str, ...]) -> None:
        if not self.quiet:
            table = HistoryTable(every=self.verbose)
            self.out.print(table.build(str(result.path), result.segmentation, notes, self.out))

    def fail(self, reason: str) -> None:
        self.faults.print(Text.assemble(("failed: ", "bold red"), reason))

    def note(self, text: str) -> None:
        if not self.quiet:
            self.faults.print(Text.assemble(("note: ", "bold yellow"), text))

    def total(self, done: int, failed: list[str]) -> None:
        """The last line of a batch."""
        if self.quiet or done + len(failed) <= 1:
            return
        line = Text(f"{done} of {done + len(failed)} files done", style="bold")
        if failed:
            line.append(f"; {len(failed)} failed, named above", style="red")
        self.out.print(line)

    @contextmanager
    def waiting(self, reason: str) -> Iterator[None]:
        """A sign of life on a terminal while nothing can be counted yet."""
        console = self._lively
        if self.quiet or not console.is_terminal:
            yield
            return
        with console.status(Text(reason)):
            yield

    @property
    def _lively(self) -> Console:
        """Where things may move: the console of the tables, so that they scroll above, if it is a terminal."""
        return self.out if self.out.is_terminal else Console(stderr=True)

    @contextmanager
    def progress(self, files: int) -> Iterator["FileProgress"]:
        """A bar with rate and remaining time, on a terminal; tables scroll above it."""
        bar = self._bar()
        advance = FileProgress(bar, files)
        timer = Timer(0 if files > 1 else _PATIENCE_S, bar.start)
        timer.daemon = True
        if not bar.disable:
            timer.start()
        try:
            yield advance
        finally:
            timer.cancel()
            timer.join() if timer.is_alive() else None
            bar.stop()

    def _bar(self) -> Progress:
        console = self._lively
        # A bar and JSON on one terminal would write over each other.
        clash = self.stdout_is_json and sys.stdout.isatty()
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Rate("file"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=self.quiet or clash or not console.is_terminal,
        )


@dataclass
class FileProgress:
    """Moves the bar of one run."""

    bar: Progress
    files: int

    def __post_init__(self) -> None:
        self._task = self.bar.add_task("", total=self.files)

    def begin(self, name: str) -> None:
        self.bar.update(self._task, description=name)

    def done(self) -> None:
        self.bar.advance(self._task)


@contextmanager
def counting(thing: str) -> Iterator[Callable[[int], Callable[[], None]]]:
    """A bar on stderr, on a terminal, for things that are counted: give it their number, and call what it gives after
    each.
    """
    bar = Progress(
        SpinnerColumn(),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(thing),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )

    def begin(number: int) -> Callable[[], None]:
        task = bar.add_task("", total=number)
        return lambda: bar.advance(task)

    bar.disable = not bar.console.is_terminal
    with bar:
        yield begin


class Rate(TextColumn):
    """Things a second, or seconds a thing where that reads better."""

    def __init__(self, thing: str) -> None:
        super().__init__("")
        self._thing = thing

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate_text(speed, self._thing) if speed else "", style="cyan")


def rate_text(speed: float, thing: str) -> str:
    return f"{speed:.1f} {thing}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{thing}"
