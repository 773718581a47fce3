"""Jobs and their pictures on the terminal."""

from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from cli.output.job_progress import STATE_STYLES, summary
from cli.service.api_types import Item, Job

_STATUS_STYLES = {"done": "green", "failed": "red", "cancelled": "yellow"}
_LABELS_SHOWN = 8
_UNBOUNDED = 10_000


def print_table(table: RenderableType) -> None:
    """On stdout; where that is no terminal, as wide as it needs, so that scripts cut nothing off."""
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = _UNBOUNDED
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        console.print(line.rstrip(), soft_wrap=True)


def jobs_table(jobs: Iterable[Job]) -> Table:
    table = new_table("id", "name", "status", "done", "total", "not done", "made", "source")
    for job in jobs:
        counts = job["counts"]
        faults = counts.get("failed", 0) + counts.get("dead", 0)
        table.add_row(
            job["id"],
            Text(job["name"] or ""),
            Text(job["status"], _STATUS_STYLES.get(job["status"], "bold")),
            f"{counts.get('done', 0):,}",
            f"{job['total']:,}",
            Text(f"{faults:,}" if faults else "", "red"),
            moment(job["created_at"]),
            Text(job["source_text"]),
        )
    return table


def job_page(job: Job) -> Table:
    """What was asked and how far it is, a line each."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("job", Text(" ".join(filter(None, [job["id"], job["name"]])), "bold"))
    table.add_row("source", Text(job["source_text"]))
    table.add_row("words", Text(_words(job)))
    table.add_row("recipe", Text(job["recipe"]["preset"]))
    table.add_row("state", summary(job))
    table.add_row("made", moment(job["created_at"]))
    if job["finished_at"]:
        table.add_row("ended", moment(job["finished_at"]))
    if job["error"]:
        table.add_row("error", Text(f"{job['error']['detail']} ({job['error']['code']})", "red"))
    return table


def items_table(items: Iterable[Item]) -> Table:
    table = new_table("picture", "state", "tries", "result, or why not")
    for item in items:
        fault = item["error"]
        why = Text(f"{fault['detail']} ({fault['code']})", "red") if fault else Text(item["result"] or "")
        state = Text(item["state"], STATE_STYLES.get(item["state"], ""))
        table.add_row(Text(item["uri"]), state, str(item["attempt"]), why)
    return table


def new_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name == "id")
    return table


def moment(iso: str) -> str:
    """To the second, in this machine's time zone."""
    from datetime import datetime

    return f"{datetime.fromisoformat(iso).astimezone():%Y-%m-%d %H:%M:%S}"


def _words(job: Job) -> str:
    words = job["vocabulary"]
    labels = words["labels"]
    named = f"{words['name']}@{words['version']}: " if words["name"] else ""
    more = f" and {len(labels) - _LABELS_SHOWN} more" if len(labels) > _LABELS_SHOWN else ""
    return f"{named}{', '.join(labels[:_LABELS_SHOWN])}{more}"
