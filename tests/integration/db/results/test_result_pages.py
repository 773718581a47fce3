"""Pages of results among many: the same as a plain search finds, and by indexes."""

import random

import pytest
from sqlalchemy import text

from benchmarks.results import Timing, explain, filter_combinations
from benchmarks.seed_rows import fill
from cli.errors import UsageError
from db.results import queries as result_queries
from db.session import transaction

RESULTS = 20_000
_PLAIN = {
    "label": "EXISTS (SELECT 1 FROM mask m WHERE m.result_id = r.id AND m.label = :label)",
    "min_score": "r.top_score >= :min_score",
    "image": "(SELECT sha256 FROM image WHERE image.id = r.image_id) = :image",
    "model_version": "r.model_version = :model_version",
    "vocabulary": "r.vocabulary_id = :vocabulary",
    "dropped": "EXISTS (SELECT 1 FROM query_step q WHERE q.result_id = r.id AND NOT q.kept AND q.label = :dropped)",
    "dropped_at": (
        "EXISTS (SELECT 1 FROM query_step q WHERE q.result_id = r.id AND NOT q.kept AND q.step = :dropped_at)"
    ),
    "job": "i.job_id = :job",
}
_TOGETHER = {
    frozenset({"label", "min_score"}): (
        "EXISTS (SELECT 1 FROM mask m WHERE m.result_id = r.id AND m.label = :label AND m.score >= :min_score)"
    ),
    frozenset({"dropped", "dropped_at"}): (
        "EXISTS (SELECT 1 FROM query_step q WHERE q.result_id = r.id AND NOT q.kept AND q.label = :dropped "
        "AND q.step = :dropped_at)"
    ),
}


def plainly(session, selected):
    """Ids of all entries, found by reading everything."""
    values = {name: value for name, value in vars(selected).items() if value is not None}
    left, where = set(values), ["true"]
    for names, condition in _TOGETHER.items():
        if names <= left:
            left -= names
            where.append(condition)
    where += [_PLAIN[name] for name in sorted(left)]
    tables = "result r JOIN item i ON i.result_id = r.id" if selected.job else "result r"
    order = "i.id" if selected.job else "r.id"
    sql = f"SELECT r.id FROM {tables} WHERE {' AND '.join(where)} ORDER BY {order} DESC LIMIT 300"  # noqa: S608 - constants
    return list(session.scalars(text(sql), values))


def paged(session, selected, limit):
    actual, cursor = [], None
    while len(actual) < 300:
        entries, cursor = result_queries.page(session, selected, cursor=cursor, limit=limit)
        assert len(entries) <= limit
        actual += [entry.id for entry in entries]
        if cursor is None:
            break
    return actual[:300]


def test_every_combination_of_filters_finds_what_a_plain_search_finds_by_indexes(database):
    for _ in fill(database, RESULTS):
        pass
    rng = random.Random(7)
    with transaction(database) as session:
        asked = filter_combinations(session, rng)
        actual = 0
        for name, draw in asked.items():
            for _ in range(4):
                selected = draw()
                expected = plainly(session, selected)
                assert paged(session, selected, rng.choice((50, 70, 300))) == expected, (name, selected)
                actual += len(expected)
    assert actual > 5_000
    for name, draw in asked.items():
        timing = Timing(name)
        for _ in range(5):
            explain(database, draw(), timing)
        assert timing.scans == set(), name
        assert max(timing.blocks) < 5_000, name
    with pytest.raises(UsageError, match="already contains results"):
        next(fill(database, 1_000))
