"""`car bench results`: how long pages of GET /results take among a million results, filter by filter."""

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from cli.bench.record import CompareFile, FailAbove, JsonFile, Record
from cli.bench.rows import LABELS, fill
from db import result_pages
from db.result_pages import ResultFilter
from db.schema import migrate
from db.session import make_engine, transaction

GOAL_MS = 50.0
_PAGE = 50
_DEPTH = 3
"""Every so many questions, the page so far behind the first is asked for: cursors must not be slower."""
LARGE = frozenset({"result", "mask", "query_step", "item", "image"})


@dataclass
class Timing:
    """One kind of question and what it took."""

    name: str
    milliseconds: list[float] = field(default_factory=list)
    worst: ResultFilter = field(default_factory=ResultFilter)
    scans: set[str] = field(default_factory=set)
    """Large tables that a plan read from end to end."""
    server_milliseconds: list[float] = field(default_factory=list)
    """PostgreSQL's own time for some of the questions: less at the mercy of what else the machine does."""
    blocks: list[int] = field(default_factory=list)
    """Pages of 8 KiB that each of those looked at: the same on every machine."""

    @property
    def p50(self) -> float:
        return _quantile(self.milliseconds, 0.5)

    @property
    def p99(self) -> float:
        return _quantile(self.milliseconds, 0.99)

    @property
    def server_p99(self) -> float:
        return _quantile(self.server_milliseconds, 0.99)


def _quantile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def results(
    context: typer.Context,
    *,
    database_url: Annotated[
        str, typer.Option(help="An empty PostgreSQL database that may be thrown away; it is filled.")
    ],
    count: Annotated[int, typer.Option("--results", min=1_000, help="How many to fill in.")] = 1_000_000,
    filled: Annotated[bool, typer.Option("--filled", help="This command has filled the database before.")] = False,
    questions: Annotated[int, typer.Option(min=10, help="Pages asked for of each kind.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the values asked for.")] = 1,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Measure pages of GET /results among a million results: every filter, and filters together."""
    record = Record.begin(context, json_file, compare, fail_above)
    console = Console(stderr=True)
    engine = make_engine(database_url)
    migrate(engine)
    if not filled:
        begun = time.monotonic()
        with console.status("filling") as status:
            for step in fill(engine, count):
                status.update(f"filling {count:,} results: {step}")
        console.print(f"{count:,} results filled in, in {time.monotonic() - begun:.0f} s")
    timings = measure(engine, questions, random.Random(seed), console)
    Console().print(_table(timings))
    record.end(_figures(timings))
    engine.dispose()


def measure(engine: Engine, questions: int, rng: random.Random, console: Console) -> list[Timing]:
    """Each kind of question so often, with other values each time."""
    with transaction(engine) as session:
        asked = kinds(session, rng)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    timings = []
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("asking", total=len(asked) * questions)
        for name, draw in asked.items():
            timing = Timing(name)
            progress.update(task, description=name)
            for number in range(questions):
                _ask(engine, timing, draw(), depth=_DEPTH if number % _DEPTH == 0 else 1)
                progress.advance(task)
            timings.append(timing)
    return timings


def _ask(engine: Engine, timing: Timing, wanted: ResultFilter, *, depth: int) -> None:
    cursor = None
    for _ in range(depth):
        with transaction(engine) as session:
            begun = time.perf_counter()
            _, cursor = result_pages.page(session, wanted, cursor=cursor, limit=_PAGE)
            took = 1000 * (time.perf_counter() - begun)
        if took >= max(timing.milliseconds, default=0.0):
            timing.worst = wanted
        timing.milliseconds.append(took)
        if cursor is None:
            break
    explain(engine, wanted, timing)


def explain(engine: Engine, wanted: ResultFilter, timing: Timing) -> None:
    """Ask for the first page once more and note what PostgreSQL says of it."""
    sql, values = result_pages.statement(wanted, after=None, limit=_PAGE + 1)
    with transaction(engine) as session:
        result_pages.plan_for_pages(session)
        told = session.scalar(text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}"), values)[0]
    timing.server_milliseconds.append(told["Planning Time"] + told["Execution Time"])
    timing.blocks.append(told["Plan"]["Shared Hit Blocks"] + told["Plan"]["Shared Read Blocks"])
    read = {node["Relation Name"] for node in _nodes(told["Plan"]) if node["Node Type"] == "Seq Scan"}
    timing.scans |= read & LARGE


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def kinds(session: Session, rng: random.Random) -> dict[str, Callable[[], ResultFilter]]:
    """What is asked: labels from the commonest to the rarest alike, jobs of every size."""
    jobs = list(session.scalars(text("SELECT id FROM job ORDER BY id")))
    versions = list(session.scalars(text("SELECT DISTINCT model_version FROM result")))
    vocabularies = list(session.scalars(text("SELECT id FROM vocabulary ORDER BY id")))
    images = list(session.scalars(text("SELECT sha256 FROM image ORDER BY id LIMIT 1000")))
    draws: dict[str, Callable[[], Any]] = {
        "label": lambda: f"label {rng.randint(1, LABELS)}",
        "min_score": lambda: rng.choice((0.2, 0.5, 0.9, 0.99, 0.9999)),
        "job": lambda: rng.choice((jobs[0], rng.choice(jobs))),
        "image": lambda: rng.choice(images),
        "model_version": lambda: rng.choice(versions),
        "dropped": lambda: f"label {rng.randint(1, LABELS)}",
        "dropped_at": lambda: rng.randint(1, 12),
        "vocabulary": lambda: rng.choice(vocabularies),
    }
    together = (
        ("label", "min_score"),
        ("label", "job"),
        ("label", "min_score", "job"),
        ("label", "dropped"),
        ("label", "model_version"),
        ("label", "vocabulary"),
        ("min_score", "job"),
        ("min_score", "model_version"),
        ("min_score", "vocabulary"),
        ("dropped", "dropped_at"),
        ("dropped", "job"),
        ("dropped_at", "job"),
        ("dropped", "min_score"),
        ("dropped_at", "label"),
        ("model_version", "job"),
        ("vocabulary", "job"),
        ("label", "dropped", "dropped_at", "job", "min_score"),
        tuple(draws),
    )

    def drawer(names: tuple[str, ...]) -> Callable[[], ResultFilter]:
        return lambda: ResultFilter(**{name: draws[name]() for name in names})

    return {"no filter": ResultFilter} | {
        " + ".join(names): drawer(names) for names in (*((name,) for name in draws), *together)
    }


def _table(timings: list[Timing]) -> Table:
    table = Table(
        "filter",
        "p50 ms",
        "p99 ms",
        "PostgreSQL p99 ms",
        "most blocks",
        "reads whole",
        title=f"pages of {_PAGE} results",
    )
    for one in timings:
        p99 = f"[red]{one.p99:.1f}[/]" if one.p99 > GOAL_MS else f"{one.p99:.1f}"
        read = ", ".join(sorted(one.scans)) or "no table"
        table.add_row(one.name, f"{one.p50:.1f}", p99, f"{one.server_p99:.1f}", f"{max(one.blocks):,}", read)
    return table


def _figures(timings: list[Timing]) -> dict[str, Any]:
    document = [
        {
            "filter": one.name,
            "p50_ms": one.p50,
            "p99_ms": one.p99,
            "server_p99_ms": one.server_p99,
            "most_blocks": max(one.blocks),
            "worst_ms": max(one.milliseconds),
            "worst": {k: str(v) if isinstance(v, UUID) else v for k, v in vars(one.worst).items() if v is not None},
            "reads_whole_tables": sorted(one.scans),
        }
        for one in timings
    ]
    return {"goal_ms": GOAL_MS, "filters": document}
