"""Progress of a job, shown until it ends."""

import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from car.errors import CarError
from cli.output.terminal import Terminal
from cli.service.api_types import ENDED, Job

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient

POLL_SECONDS = 0.5
LINE_SECONDS = 5.0
"""Pause between lines where there is no terminal."""
_PATIENCE_SECONDS = 300.0
"""Time for the API to restart."""
_MAX_PAUSE = 10.0
STATE_STYLES = {"done": "green", "failed": "red", "dead": "red", "cancelled": "yellow"}
"""The states in which an item ends."""
_MINUTE, _HOUR = 60, 3600
_RATES = 21
"""Polls whose median rate is shown: about ten seconds."""

ResponseT = TypeVar("ResponseT")


@dataclass
class JobWatch:
    """Shows one job on stderr: a progress bar on a terminal, otherwise a line every few seconds."""

    jobs: "ApiClient"
    console: Console = field(default_factory=lambda: Terminal(stderr=True, highlight=False, markup=False))
    patience: float = _PATIENCE_SECONDS
    deadline: float | None = None
    """Seconds after which an unfinished job is an error; none: no limit."""
    check: Callable[[], None] = lambda: None
    """Called between polls; raises if there is no point in waiting any longer."""

    def until_end(self, job_id: str) -> Job:
        """Return the job when it has ended.

        Raises:
            CarError: the API refuses, or has not answered for `patience` seconds, or `deadline` has passed.

        """
        start = time.monotonic()
        rates: deque[float] = deque(maxlen=_RATES)
        with sentence_bar(self.console) as bar:
            task = bar.add_task("", total=None, said="")
            printed_at, printed = 0.0, ""
            while True:
                job = retry_while_busy(
                    lambda: self.jobs.job(job_id), bar.console, patience=self.patience, check=self.check
                )
                sentence, ended = summary(steady(job, rates)), job["status"] in ENDED
                bar.update(task, total=job["total"] or None, completed=_ended_items(job), said=sentence)
                line, now = sentence.plain, time.monotonic()
                if bar.disable and line != printed and (ended or now - printed_at >= LINE_SECONDS):
                    self.console.print(line)
                    printed_at, printed = now, line
                if ended:
                    return job
                if self.deadline is not None and now - start > self.deadline:
                    raise CarError(f"the job {job_id} has not ended after {self.deadline:.0f} s: {line}")
                time.sleep(POLL_SECONDS)


def sentence_bar(console: Console) -> Progress:
    """Return a progress bar followed by the task's field `said`; disabled where there is no terminal."""
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
    request: Callable[[], ResponseT],
    console: Console,
    *,
    patience: float = _PATIENCE_SECONDS,
    check: Callable[[], None] = lambda: None,
) -> ResponseT:
    """Repeat a request for up to `patience` seconds while the API is unreachable or busy; report that once."""
    start, pause, reported = time.monotonic(), POLL_SECONDS, False
    while True:
        check()
        try:
            return request()
        except CarError as error:
            if not error.retryable or time.monotonic() - start + pause > patience:
                raise
            if not reported:
                console.print(Text.assemble(("waiting: ", "bold yellow"), str(error)))
                reported = True
        time.sleep(pause)
        pause = min(2 * pause, _MAX_PAUSE)


def steady(job: Job, rates: deque[float]) -> Job:
    """Return the job at the median of its last rates, of which this one is added: its time left does not jump."""
    if not job["rate"]:
        return job
    rates.append(job["rate"])
    rate = statistics.median(rates)
    eta = job["eta"] and job["eta"] * job["rate"] / rate
    return {**job, "rate": rate, "eta": eta}


def summary(job: Job) -> Text:
    """Return a line such as `listing · 12 of 40 · 11 done · 1 failed · 3.2 images/s · 9 s left`."""
    total, listing = job["total"], job["status"] == "listing"
    parts = [Text(job["status"], "bold")]
    if total or not listing:
        parts.append(Text(f"{_ended_items(job):,} of {total:,}" + ("+" if listing else "")))
    for state, count in job["counts"].items():
        if count and state in STATE_STYLES:
            parts.append(Text(f"{count:,} {state}", STATE_STYLES[state]))
    if job["reused"]:
        parts.append(Text(f"{job['reused']:,} reused", "cyan"))
    if job["status"] not in ENDED:
        if job["rate"]:
            parts.append(Text(rate_text(job["rate"], "image"), "cyan"))
        if job["eta"] is not None:
            parts.append(Text(f"{duration(job['eta'])} left"))
    return Text(" · ").join(parts)


def all_done(job: Job) -> bool:
    """Whether the job ended and every one of its images has a result."""
    return job["status"] == "done" and job["counts"].get("done", 0) == job["total"]


def rate_text(speed: float, unit: str) -> str:
    """Return `3.2 images/s`, or `2.5 s/image` below one per second."""
    return f"{speed:.1f} {unit}s/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}"


def duration(seconds: float) -> str:
    """Return seconds, minutes or hours, whichever fits."""
    if seconds < _MINUTE:
        return f"{seconds:.0f} s"
    if seconds < _HOUR:
        return f"{seconds / _MINUTE:.0f} min"
    return f"{seconds / _HOUR:.1f} h"


def _ended_items(job: Job) -> int:
    return sum(count for state, count in job["counts"].items() if state in STATE_STYLES)
