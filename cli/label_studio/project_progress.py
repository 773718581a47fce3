"""Progress of a project, shown until all its tasks are finished."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.text import Text

from cli.output.job_progress import LINE_SECONDS, POLL_SECONDS, duration, rate_text, retry_while_busy, sentence_bar
from cli.output.terminal import Terminal
from cli.service.api_types import Project

_RATE_SECONDS = 30.0
_STALLED_SECONDS = 60.0
_ENDED_ITEMS = ("failed", "dead", "cancelled")
_ENDED_PREDICTIONS = ("sent", "failed", "orphaned")


class Projects(Protocol):
    """Returns a project's state; cli.service.api_client.ApiClient is one."""

    def project(self, number: int) -> Project: ...


@dataclass(frozen=True)
class ProgressSnapshot:
    """The progress of one stage."""

    done: int
    total: int | None
    parts: tuple[Text, ...]
    ended: bool


def of_sync(project: Project) -> ProgressSnapshot:
    """The sync of all tasks."""
    sync = project["sync"]
    parts = [Text(f"{sync['seen']:,} of {sync['total']:,} tasks" if sync["total"] else f"{sync['seen']:,} tasks")]
    if sync["error"]:
        parts.append(Text(sync["error"], "red"))
    return ProgressSnapshot(sync["seen"], sync["total"], tuple(parts), sync["wanted_at"] is None)


def of_backfill(project: Project) -> ProgressSnapshot:
    """The predictions of all known tasks: sent, or failed with a reason."""
    items, predictions = project["items"], project["predictions"]
    sent = sum(predictions.get(state, 0) for state in _ENDED_PREDICTIONS)
    failed = sum(items.get(state, 0) for state in _ENDED_ITEMS)
    known, looking = project["tasks"], project["sync"]["wanted_at"] is not None
    open_ = items.get("queued", 0) + items.get("running", 0) + predictions.get("pending", 0)
    total = max(known, project["sync"]["total"] or 0) if looking else known
    parts = [Text(f"{min(sent + failed, total):,} of {total:,} tasks"), Text(f"{items.get('done', 0):,} segmented")]
    parts += [Text(f"{predictions['failed']:,} refused", "red")] if predictions.get("failed") else []
    parts += [Text(f"{failed:,} failed", "red")] if failed else []
    parts += [Text(project["sync"]["error"], "red")] if project["sync"]["error"] else []
    return ProgressSnapshot(min(sent + failed, total), total, tuple(parts), not looking and open_ == 0)


@dataclass
class ProjectWatch:
    """Shows one project on stderr: a bar on a terminal, otherwise a line every few seconds."""

    projects: Projects
    measure: Callable[[Project], ProgressSnapshot]
    console: Console = field(default_factory=lambda: Terminal(stderr=True, highlight=False, markup=False))
    hint: str = ""
    """Said once where nothing has moved for a minute."""
    _seen: deque[tuple[float, int]] = field(default_factory=deque)

    def until_end(self, number: int) -> Project:
        """Return the project when all its tasks are finished.

        Raises:
            CarError: the API refuses, or has not responded for minutes.

        """
        with sentence_bar(self.console) as bar:
            task = bar.add_task("", total=None, said="")
            said_at, said, moved_at, hinted, last = 0.0, "", time.monotonic(), False, -1
            while True:
                project = retry_while_busy(lambda: self.projects.project(number), bar.console)
                stand = self.measure(project)
                line = self._line(stand)
                bar.update(task, total=stand.total or None, completed=stand.done, said=line)
                now = time.monotonic()
                if bar.disable and line.plain != said and (stand.ended or now - said_at >= LINE_SECONDS):
                    self.console.print(line)
                    said_at, said = now, line.plain
                if stand.ended:
                    return project
                moved_at, last = (now, stand.done) if stand.done != last else (moved_at, last)
                if self.hint and not hinted and now - moved_at > _STALLED_SECONDS:
                    bar.console.print(Text(self.hint, "yellow"))
                    hinted = True
                time.sleep(POLL_SECONDS)

    def _line(self, stand: ProgressSnapshot) -> Text:
        """`12 of 40 tasks · 14 segmented · 3.2 tasks/s · 9 s left`"""
        parts = list(stand.parts)
        rate = self._rate(stand.done)
        if rate and not stand.ended:
            parts.append(Text(rate_text(rate, "task"), "cyan"))
            if stand.total:
                parts.append(Text(f"{duration((stand.total - stand.done) / rate)} left"))
        return Text(" · ").join(parts)

    def _rate(self, done: int) -> float:
        """Return the tasks per second over the last half minute."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _RATE_SECONDS:
            self._seen.popleft()
        began, before = self._seen[0]
        return max(0.0, (done - before) / (now - began)) if now > began else 0.0
