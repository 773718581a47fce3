"""`python -m benchmarks results`: latency of pages of GET /results among a million results, by filter."""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from benchmarks.display import timed
from benchmarks.seed_rows import LABELS, fill
from cli.commands.bench.display import number_table, progress_bar
from cli.commands.bench.environment import bench_environment
from cli.commands.bench.options import JsonOption
from cli.commands.bench.report import Report
from db.results import queries as result_queries
from db.results.queries import ResultFilter
from db.schema import migrate
from db.session import make_engine, transaction

GOAL_MS = 50.0
_PAGE = 50
_DEPTH = 3
"""Every third query also reads the next pages up to this one: cursors must not be slower."""
LARGE = frozenset({"result", "mask", "query_step", "item", "image"})


@dataclass
class Timing:
    """The latency of one combination of filters."""

    name: str
    milliseconds: list[float] = field(default_factory=list)
    worst: ResultFilter = field(default_factory=ResultFilter)
    scans: set[str] = field(default_factory=set)
    """Large tables that a plan read completely."""
    server_milliseconds: list[float] = field(default_factory=list)
    """PostgreSQL's own time, which depends less on the load of the machine."""
    blocks: list[int] = field(default_factory=list)
    """Pages of 8 KiB that each query read: the same on every machine."""

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
        str | None, typer.Option(help="A PostgreSQL database to fill and measure; the default is an embedded one.")
    ] = None,
    count: Annotated[int, typer.Option("--results", min=1_000, help="Number of results to fill in.")] = 1_000_000,
    filled: Annotated[bool, typer.Option("--filled", help="The database was filled by an earlier run.")] = False,
    questions: Annotated[int, typer.Option(min=10, help="Queries of each combination of filters.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the values in the filters.")] = 1,
    json_file: JsonOption = None,
) -> None:
    """Measure pages of GET /results among many results: every filter, and combinations of filters."""
    report = Report.start(context, json_file)
    with _database(database_url) as engine:
        if not filled:
            _fill(engine, count)
        timings = measure(engine, questions, random.Random(seed))
    Console().print(_table(timings))
    report.finish(_figures(timings))


@contextmanager
def _database(url: str | None) -> Iterator[Engine]:
    if url is None:
        with bench_environment(durable=False, which=("postgres",)) as environment:
            yield environment.engine
        return
    engine = make_engine(url)
    try:
        migrate(engine)
        yield engine
    finally:
        engine.dispose()


def _fill(engine: Engine, count: int) -> None:
    console = Console(stderr=True)
    with timed() as elapsed, console.status("filling") as status:
        for step in fill(engine, count):
            status.update(f"filling {count:,} results: {step}")
    console.print(f"{count:,} results filled in, in {elapsed.seconds:.0f} s")


def measure(engine: Engine, questions: int, rng: random.Random) -> list[Timing]:
    """Measure each combination of filters with other values in every query."""
    with transaction(engine) as session:
        combinations = filter_combinations(session, rng)
    timings = []
    with progress_bar() as progress:
        task = progress.add_task("querying", total=len(combinations) * questions)
        for name, draw in combinations.items():
            timing = Timing(name)
            progress.update(task, description=name)
            for number in range(questions):
                _query(engine, timing, draw(), depth=_DEPTH if number % _DEPTH == 0 else 1)
                progress.advance(task)
            timings.append(timing)
    return timings


def _query(engine: Engine, timing: Timing, result_filter: ResultFilter, *, depth: int) -> None:
    cursor = None
    for _ in range(depth):
        with transaction(engine) as session:
            begun = time.perf_counter()
            _, cursor = result_queries.page(session, result_filter, cursor=cursor, limit=_PAGE)
            took = 1000 * (time.perf_counter() - begun)
        if took >= max(timing.milliseconds, default=0.0):
            timing.worst = result_filter
        timing.milliseconds.append(took)
        if cursor is None:
            break
    explain(engine, result_filter, timing)


def explain(engine: Engine, result_filter: ResultFilter, timing: Timing) -> None:
    """Add PostgreSQL's own time, pages and plan of the first page to `timing`."""
    sql, values = result_queries.statement(result_filter, after=None, limit=_PAGE + 1)
    with transaction(engine) as session:
        result_queries.plan_for_pages(session)
        explained = session.scalar(text(f"EXPLAIN (ANALYZE, BUFFERS, TIMING OFF, FORMAT JSON) {sql}"), values)[0]
    timing.server_milliseconds.append(explained["Planning Time"] + explained["Execution Time"])
    timing.blocks.append(explained["Plan"]["Shared Hit Blocks"] + explained["Plan"]["Shared Read Blocks"])
    read = {node["Relation Name"] for node in _nodes(explained["Plan"]) if node["Node Type"] == "Seq Scan"}
    timing.scans |= read & LARGE


def _nodes(query_plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield query_plan
    for child in query_plan.get("Plans", ()):
        yield from _nodes(child)


def filter_combinations(session: Session, rng: random.Random) -> dict[str, Callable[[], ResultFilter]]:
    """Return filters and combinations, each with a function that draws values: labels of all frequencies, jobs of all
    sizes.
    """
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
    columns = ("p50 ms", "p99 ms", "PostgreSQL p99 ms", "most blocks", "tables read completely")
    table = number_table("filter", *columns, title=f"pages of {_PAGE} results")
    for timing in timings:
        p99 = f"[red]{timing.p99:.1f}[/]" if timing.p99 > GOAL_MS else f"{timing.p99:.1f}"
        read = ", ".join(sorted(timing.scans)) or "none"
        table.add_row(
            timing.name, f"{timing.p50:.1f}", p99, f"{timing.server_p99:.1f}", f"{max(timing.blocks):,}", read
        )
    return table


def _figures(timings: list[Timing]) -> dict[str, Any]:
    document = [
        {
            "filter": timing.name,
            "p50_ms": timing.p50,
            "p99_ms": timing.p99,
            "server_p99_ms": timing.server_p99,
            "most_blocks": max(timing.blocks),
            "worst_ms": max(timing.milliseconds),
            "worst": {k: str(v) if isinstance(v, UUID) else v for k, v in vars(timing.worst).items() if v is not None},
            "reads_whole_tables": sorted(timing.scans),
        }
        for timing in timings
    ]
    return {"goal_ms": GOAL_MS, "filters": document}
