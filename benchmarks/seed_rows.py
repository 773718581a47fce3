"""Synthetic rows for `python -m benchmarks results`: results with masks and history, and items of jobs of all sizes."""

import json
import math
from collections.abc import Iterator

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from car.presets import PRESETS
from car.vocabulary import Vocabulary
from cli.errors import UsageError
from db import session as sessions

LABELS = 200
JOBS = 50
_TABLES = ("image", "result", "mask", "query_step", "item")
# A label's frequency falls with its rank (Zipf): the first is in half of all images, the last in one of 300.
_LABEL = f"'label ' || floor(exp(random() * {math.log(LABELS + 1)}))::int"
_STEPS = (
    (
        "words and scores",
        f"""
        CREATE UNLOGGED TABLE bench_drawn AS
        SELECT n, {_LABEL} AS l1, {_LABEL} AS l2, {_LABEL} AS l3,
            {_LABEL} AS d1, {_LABEL} AS d2, {_LABEL} AS d3,
            power(random(), 0.3) AS s1, power(random(), 0.3) AS s2, power(random(), 0.3) AS s3,
            2 + floor(-ln(1 - random()) * 1.2)::int AS steps, random() AS chance,
            (lpad(to_hex(1750000000000 + n), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8'
                || substr(md5(n::text), 4, 15))::uuid AS id
        FROM generate_series(1, :results) AS n
        """,
    ),
    (
        "images",
        """
        INSERT INTO image (id, sha256, width, height, format, notes) OVERRIDING SYSTEM VALUE
        SELECT n, encode(sha256(n::text::bytea), 'hex'), 640, 480, 'JPEG', '{}' FROM bench_drawn ORDER BY n
        """,
    ),
    (
        "results",
        """
        INSERT INTO result (id, run_key, image_id, vocabulary_id, recipe_id, model_version, weights, code_version,
            device, worker, stop_reason, steps, top_score, timings, work, masks_key, labelmap_key)
        SELECT drawn.id, encode(sha256(('run ' || n)::bytea), 'hex'), n, vocabulary.id, recipe.id,
            'car-0.1.0+bench.' || floor(power(chance, 3) * 6)::int, '{"proposal": "a", "classifier": "b"}', '0.1.0',
            'cpu', 'bench:1:a', 'unchanged', steps, greatest(s1, s2, s3),
            '{"proposal_ms": 12.5, "classifier_ms": 80.1, "crf_ms": 30.7}', '{"proposal_forwards": 1}',
            'car/masks/' || n || '.json', 'car/masks/' || n || '.png'
        FROM bench_drawn AS drawn
        JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM vocabulary) AS vocabulary
            ON vocabulary.place = 1 + floor(power(chance, 2) * 3)::int
        CROSS JOIN (SELECT id FROM recipe LIMIT 1) AS recipe
        ORDER BY n
        """,
    ),
    (
        "masks",
        """
        INSERT INTO mask (result_id, position, label, score, x, y, width, height, area, source)
        SELECT id, position, label, score, 10, 20, 200, 150, 21000, 'crf'
        FROM bench_drawn
        CROSS JOIN LATERAL (VALUES (1, l1, s1), (2, l2, s2), (3, l3, s3)) AS mask(position, label, score)
        WHERE (position = 1 OR label <> l1) AND (position < 3 OR label <> l2)
        ORDER BY n, position
        """,
    ),
    (
        "history",
        """
        INSERT INTO query_step (result_id, pass_kind, step, position, label, query, score, kept, area, iou_previous)
        SELECT id, 'things', turn.step, position, label, 'a photo of ' || label, score, kept, 12000, 0.9
        FROM bench_drawn CROSS JOIN LATERAL (VALUES
            (1, 1, l1, s1, true), (1, 2, l2, s2, true), (1, 3, l3, s3, true), (1, 4, d1, 0.1, false),
            (1, 5, d2, 0.2, false), (steps, 1, l1, s1, true), (steps, 2, l2, s2, true), (steps, 3, d3, 0.3, false)
        ) AS turn(step, position, label, score, kept)
        ORDER BY n, turn.step, position
        """,
    ),
    (
        "items",
        # The first job has half of all results and the others share the rest; a sixth of the results has two items.
        f"""
        INSERT INTO item (job_id, priority, uri, etag, state, result_id, reused, finished_at)
        SELECT job.id, 1, 's3://bench/' || drawn.n || '.jpg', '', 'done', drawn.id, again, now()
        FROM (
            SELECT n, id, false AS again, CASE WHEN n <= :results / 2 THEN 1
                ELSE 2 + floor({JOBS - 1} * power((n - :results / 2)::float / :results * 1.99, 2))::int END AS place
            FROM bench_drawn
            UNION ALL
            SELECT n, id, true, 2 + floor(power(random(), 3) * {JOBS - 1})::int FROM bench_drawn WHERE n % 6 = 0
        ) AS drawn
        JOIN (SELECT id, row_number() OVER (ORDER BY id) AS place FROM job) AS job ON job.place = drawn.place
        ORDER BY again, drawn.n
        ON CONFLICT DO NOTHING
        """,
    ),
)


def fill(engine: Engine, results: int) -> Iterator[str]:
    """Insert the rows of `results` results into empty tables; yield the name of each step before it runs.

    Raises: UsageError, if the database contains results.
    """
    with sessions.transaction(engine) as session:
        if session.scalar(text("SELECT EXISTS (SELECT 1 FROM result)")):
            raise UsageError("--database-url: the database already contains results; use an empty one")
        _insert_jobs(session)
    indexes = _drop_indexes(engine)
    for name, sql in _STEPS:
        yield name
        with sessions.transaction(engine) as session:
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(text(sql), {"results": results} if ":results" in sql else {})
    for name, sql in indexes.items():
        yield f"index {name}"
        with sessions.transaction(engine) as session:
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(text("SET LOCAL maintenance_work_mem = '512MB'"))
            session.execute(text(sql))
    yield "vacuum and statistics"
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP TABLE bench_drawn"))
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text(f"VACUUM ANALYZE {', '.join(_TABLES)}, job, vocabulary"))


def _insert_jobs(session: Session) -> None:
    """Insert vocabularies, a recipe and the jobs."""
    for number in range(3):
        words = Vocabulary.from_words([f"label {n}" for n in range(1, LABELS + 1)] + [f"only in {number}"])
        session.execute(
            text("INSERT INTO vocabulary (id, digest, document) VALUES (gen_random_uuid(), :digest, :document)"),
            {"digest": words.digest, "document": json.dumps(words.to_json())},
        )
    recipe = PRESETS["voc"]
    session.execute(
        text("INSERT INTO recipe (id, digest, document) VALUES (gen_random_uuid(), :digest, :document)"),
        {"digest": recipe.digest, "document": json.dumps(recipe.to_json())},
    )
    session.execute(
        text(f"""
            INSERT INTO job (id, kind, priority, source, vocabulary_id, recipe_id, attempt, listed_at, finished_at)
            SELECT gen_random_uuid(), 'bulk', 'bulk', '{{"kind": "prefix", "bucket": "bench", "key": ""}}',
                vocabulary.id, recipe.id, 1, now(), now()
            FROM generate_series(1, {JOBS}), (SELECT id FROM vocabulary LIMIT 1) AS vocabulary,
                (SELECT id FROM recipe LIMIT 1) AS recipe
        """)
    )


def _drop_indexes(engine: Engine) -> dict[str, str]:
    """Drop the indexes that no constraint needs and return their definitions: indexing full tables is faster."""
    with sessions.transaction(engine) as session:
        rows = session.execute(
            text("""
                SELECT indexname, indexdef FROM pg_indexes
                WHERE schemaname = current_schema() AND tablename = ANY(:tables)
                    AND indexname NOT IN (SELECT conname FROM pg_constraint)
            """),
            {"tables": list(_TABLES)},
        )
        indexes = dict(rows.tuples().all())
        for name in indexes:
            session.execute(text(f'DROP INDEX "{name}"'))
    return indexes
