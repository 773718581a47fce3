"""Terminal output while files are processed: tables, failures and progress bars."""

import io
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import Timer

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Task as ProgressTask
from rich.text import Text

from cli.output.history_table import HistoryTable
from cli.output.job_progress import rate_text
from cli.output.result_files import Result
from cli.output.terminal import Terminal

_PATIENCE_SECONDS = 2.0
"""A single image gets a progress bar only if it takes longer."""


@dataclass
class Report:
    """Prints tables on stdout (stderr if stdout carries JSON), and failures and progress on stderr."""

    quiet: bool
    verbose: bool
    stdout_is_json: bool

    def __post_init__(self) -> None:
        # A character that the terminal's encoding lacks must not stop a batch.
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")
        self._errors = Terminal(stderr=True, soft_wrap=True, highlight=False, markup=False)
        self._out = Terminal(stderr=self.stdout_is_json, highlight=False, markup=False)
        # The tables' console if it is a terminal, so that they scroll above a progress bar.
        self._progress_console = self._out if self._out.is_terminal else Terminal(stderr=True)

    def show(self, result: Result, notes: tuple[str, ...]) -> None:
        if not self.quiet:
            table = HistoryTable(show_all=self.verbose)
            self._out.print(table.build(str(result.path), result.segmentation, (*notes, result.note), self._out))

    def fail(self, reason: str) -> None:
        self._errors.print(Text.assemble(("failed: ", "bold red"), reason))

    def note(self, text: str) -> None:
        if not self.quiet:
            self._errors.print(Text.assemble(("note: ", "bold yellow"), text))

    def total(self, done: int, failed: list[str]) -> None:
        """Print the last line of a batch."""
        if self.quiet or done + len(failed) <= 1:
            return
        line = Text(f"{done} of {done + len(failed)} files done", style="bold")
        if failed:
            line.append(f"; {len(failed)} failed (see above)", style="red")
        self._out.print(line)

    def waiting(self, reason: str) -> AbstractContextManager[object]:
        """Show a spinner while there is nothing to count yet; without a terminal a line."""
        if self.quiet:
            return nullcontext()
        if not self._progress_console.is_terminal:
            self._errors.print(reason)
        return self._progress_console.status(Text(reason))

    @contextmanager
    def progress(self, files: int) -> Iterator[Progress]:
        """Show a progress bar with one task on a terminal."""
        # A bar and JSON on one terminal would overwrite each other.
        json_on_terminal = self.stdout_is_json and sys.stdout.isatty()
        console = self._progress_console
        bar = Progress(
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
            disable=self.quiet or json_on_terminal or not console.is_terminal,
        )
        bar.add_task("", total=files)
        timer = Timer(0 if files > 1 else _PATIENCE_SECONDS, bar.start)
        timer.daemon = True
        if not bar.disable:
            timer.start()
        try:
            yield bar
        finally:
            timer.cancel()
            if timer.is_alive():
                timer.join()
            bar.stop()


@contextmanager
def count_progress(unit: str) -> Iterator[Callable[[int], Callable[[], None]]]:
    """Show a progress bar on stderr if it is a terminal.

    Yields a function that takes the total and returns a function that advances the bar by one.
    """
    console = Terminal(stderr=True)
    columns = (SpinnerColumn(), BarColumn(), MofNCompleteColumn(), Rate(unit), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:

        def begin(total: int) -> Callable[[], None]:
            task = bar.add_task("", total=total)
            return lambda: bar.advance(task)

        yield begin


class Rate(TextColumn):
    """Units per second, or seconds per unit if it is slower."""

    def __init__(self, unit: str) -> None:
        super().__init__("")
        self._unit = unit

    def render(self, task: ProgressTask) -> Text:
        speed = task.finished_speed or task.speed
        return Text(rate_text(speed, self._unit) if speed else "", style="cyan")
