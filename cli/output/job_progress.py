"""A job's progress, shown until it ends."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from car.errors import CarError
from cli.output.report import rate_text
from cli.service.api_types import ENDED, Job

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
"""Between the lines of one that is not shown on a terminal."""
_PATIENCE_SECONDS = 300.0
"""An API that restarts is waited for; one that is gone for longer is not coming back."""
_LONGEST_PAUSE = 10.0
STATE_STYLES = {"done": "green", "failed": "red", "dead": "red", "cancelled": "yellow"}
_MINUTE, _HOUR = 60, 3600

Answer = TypeVar("Answer")


class Jobs(Protocol):
    """Where the state of a job is asked for: cli.service.Service."""

    def job(self, job_id: str) -> Job: ...


@dataclass
class JobWatch:
    """Shows one job on stderr: a bar on a terminal, else a line now and then."""

    jobs: Jobs
    console: Console = field(default_factory=lambda: Console(stderr=True, highlight=False, markup=False))
    patience: float = _PATIENCE_SECONDS
    deadline: float | None = None
    """Seconds after which even a job that moves is given up; none: never."""
    check: Callable[[], None] = lambda: None
    """Called between two looks; raises where watching has become pointless."""

    def until_end(self, job_id: str) -> Job:
        """The job when nothing works on it any more.

        Raises:
            CarError: the API refuses, or has been silent for `patience`; or `deadline` has passed.

        """
        began = time.monotonic()
        with sentence_bar(self.console) as bar:
            task = bar.add_task("", total=None, said="")
            said_at, said = 0.0, ""
            while True:
                job = self._job(job_id, bar)
                bar.update(task, total=job["total"] or None, completed=_finished(job), said=summary(job))
                ended = job["status"] in ENDED
                line = summary(job).plain
                if bar.disable and line != said and (ended or time.monotonic() - said_at >= LINE_SECONDS):
                    self.console.print(line)
                    said_at, said = time.monotonic(), line
                if ended:
                    return job
                if self.deadline is not None and time.monotonic() - began > self.deadline:
                    raise CarError(f"the job {job_id} has not ended after {self.deadline:.0f} s: {line}")
                time.sleep(POLL_SECONDS)

    def _job(self, job_id: str, bar: Progress) -> Job:
        return retry_while_busy(lambda: self.jobs.job(job_id), bar.console, patience=self.patience, check=self.check)


def sentence_bar(console: Console) -> Progress:
    """A bar with a sentence beside it, the task's field `said`; disabled where there is no terminal."""
    return Progress(
        SpinnerColumn(),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[said]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not console.is_terminal,
    )


def retry_while_busy(
    ask: Callable[[], Answer],
    console: Console,
    *,
    patience: float = _PATIENCE_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> Answer:
    """What the API answers; one that is away or busy is asked again for `patience` seconds, and that is said once."""
    began, pause, told = time.monotonic(), POLL_SECONDS, False
    while True:
        check()
        try:
            return ask()
        except CarError as error:
            if not error.retryable or time.monotonic() - began + pause > patience:
                raise
            if not told:
                console.print(Text.assemble(("waiting: ", "bold yellow"), str(error)))
                told = True
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def summary(job: Job) -> Text:
    """`listing · 12 of 40 · 11 done · 1 failed · 3.2 pictures/s · 9 s left`"""
    finished, total = _finished(job), job["total"]
    ended = job["status"] in ENDED
    listing = job["status"] == "listing"
    parts = [Text(job["status"], "bold")]
    if total or not listing:
        parts.append(Text(f"{finished:,} of {total:,}" + ("+" if listing else "")))
    for state, number in job["counts"].items():
        if number and state in STATE_STYLES:
            parts.append(Text(f"{number:,} {state}", STATE_STYLES[state]))
    if job["reused"]:
        parts.append(Text(f"{job['reused']:,} known before", "cyan"))
    if not ended and job["rate"]:
        parts.append(Text(rate_text(job["rate"], "picture"), "cyan"))
    if not ended and job["eta"] is not None:
        parts.append(Text(f"{duration(job['eta'])} left"))
    return Text(" · ").join(parts)


def all_done(job: Job) -> bool:
    """Whether the job ended and every one of its pictures has a result."""
    return job["status"] == "done" and job["counts"].get("done", 0) == job["total"]


def duration(seconds: float) -> str:
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def _finished(job: Job) -> int:
    return sum(number for state, number in job["counts"].items() if state in STATE_STYLES)
