"""Tables of jobs and their items."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from car.printable import printable
from cli.options import car_command
from cli.output.job_progress import STATE_STYLES, summary
from cli.output.terminal import Terminal, echo
from cli.service.api_types import Item, Job

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient

DEAD_MEANING = "the worker was lost three times while it computed the image; `car jobs retry` queues it again"

_LABELS_SHOWN = 8
_FAILURES_SHOWN = 5
_UNBOUNDED = 10_000


def print_table(table: RenderableType) -> None:
    """Print on stdout; without a terminal as wide as needed, so that scripts get whole values."""
    console = Terminal(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _UNBOUNDED
    with console.capture() as captured:
        console.print(table)
    echo("\n".join(line.rstrip() for line in captured.get().splitlines()))


def jobs_table(jobs: Iterable[Job]) -> Table:
    table = new_table("id", "name", "status", "done", "total", "failed or dead", "created", "source")
    for job in jobs:
        counts = job["counts"]
        failures = counts.get("failed", 0) + counts.get("dead", 0)
        table.add_row(
            job["id"],
            Text(printable(job["name"] or "")),
            Text(job["status"], STATE_STYLES.get(job["status"], "bold")),
            f"{counts.get('done', 0):,}",
            f"{job['total']:,}",
            Text(f"{failures:,}" if failures else "", "red"),
            moment(job["created_at"]),
            Text(printable(job["source_text"])),
        )
    return table


def job_page(job: Job) -> Table:
    """Return what was requested and the progress, one line each."""
    table = new_page()
    table.add_row("job", Text(printable(" ".join(filter(None, [job["id"], job["name"]]))), "bold"))
    table.add_row("source", Text(printable(job["source_text"])))
    table.add_row("labels", Text(printable(_labels(job))))
    table.add_row("recipe", Text(job["recipe"]["preset"]))
    table.add_row("state", summary(job))
    if job["counts"].get("dead"):
        table.add_row("dead", Text(DEAD_MEANING, "dim"))
    table.add_row("created", moment(job["created_at"]))
    if job["finished_at"]:
        table.add_row("finished", moment(job["finished_at"]))
    if job["error"]:
        table.add_row("error", Text(printable(f"{job['error']['detail']} ({job['error']['code']})"), "red"))
    return table


def report_failures(service: "ApiClient", job: Job) -> None:
    """Print the first failed and dead images and their errors on stderr."""
    printed = total = 0
    for state in ("failed", "dead"):
        total += job["counts"].get(state, 0)
        for item in service.items(job["id"], state, _FAILURES_SHOWN) if job["counts"].get(state) else ():
            error = item["error"]
            reason = f"{error['detail']} ({error['code']})" if error else "no reason is known"
            echo(printable(f"{state}: {item['uri']}: {reason}"), err=True)
            printed += 1
    if job["counts"].get("dead"):
        echo(f"dead: {DEAD_MEANING}", err=True)
    if total > printed:
        echo(f"and {total - printed:,} more: {car_command()} jobs show {job['id']} --items failed (or dead)", err=True)


def items_table(items: Iterable[Item]) -> Table:
    table = new_table("image", "state", "attempts", "result or error")
    for item in items:
        error = item["error"]
        outcome = (
            Text(printable(f"{error['detail']} ({error['code']})"), "red") if error else Text(item["result"] or "")
        )
        state = Text(item["state"], STATE_STYLES.get(item["state"], ""))
        table.add_row(Text(printable(item["uri"])), state, str(item["attempt"]), outcome)
    return table


def new_table(*columns: str) -> Table:
    """Return an empty table with these columns and without borders."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name == "id")
    return table


def new_page() -> Table:
    """Return an empty table of names and values, one line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def moment(iso: str) -> str:
    """Format a time to the second, in the local time zone."""
    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M:%S}"


def _labels(job: Job) -> str:
    vocabulary = job["vocabulary"]
    labels = vocabulary["labels"]
    name = f"{vocabulary['name']}@{vocabulary['version']}: " if vocabulary["name"] else ""
    hidden = f" and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    return f"{name}{', '.join(labels[:_LABELS_SHOWN])}{hidden}"
