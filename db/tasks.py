"""Tasks of Label Studio into items of their project's job, and what is known of them out again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from car.bulk_source import MAX_URI, cut
from car.errors import SourceError, VocabularyError
from car.model_version import label_studio_version
from db import answers, outbox
from db.errors import NotFound
from db.items import LONGEST_WAIT, MAX_FAILURES, storable
from db.models import LANES, Item, ItemState, Lane
from db.projects import Known


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A task whose picture is to be labelled."""

    task: int
    uri: str = ""
    vocabulary_id: UUID | None = None
    """Its own words; None: the project's."""
    refused: tuple[str, str] | None = None
    """Code and detail of why it cannot be labelled: kept as a failed item, so that it is explained."""


@dataclass(frozen=True)
class Answer:
    """What is known of a task's picture."""

    task: int
    document: str | None
    """The prediction as JSON text, taken: it counts as sent, and nobody else sends it."""
    state: ItemState
    result_id: UUID | None
    error_code: str | None
    error_detail: str | None


# One ask at a time for a job, so that many with the same tasks take turns. Job, items in the order of ids, tasks,
# predictions: whoever locks several kinds of rows does it in this order.
_LOCK_JOB = text("SELECT vocabulary_id FROM job WHERE id = :job FOR NO KEY UPDATE")

_ASKED = """
    asked AS (
        SELECT * FROM unnest(
            CAST(:tasks AS bigint[]), CAST(:uris AS text[]), CAST(:etags AS text[]), CAST(:vocabularies AS uuid[]),
            CAST(:codes AS text[]), CAST(:details AS text[])
        ) AS asked(task, uri, etag, vocabulary_id, code, detail)
    )
"""
_ITS_ITEM = """
    item.job_id = :job AND item.uri = asked.uri AND item.etag = asked.etag
    AND item.vocabulary_id IS NOT DISTINCT FROM asked.vocabulary_id
"""

_ADD_ITEMS = text(f"""
    WITH {_ASKED}
    INSERT INTO item (job_id, lane, uri, etag, vocabulary_id, task, state, error_code, error_detail, finished_at)
    SELECT DISTINCT ON (uri, etag, vocabulary_id) :job, :lane, uri, etag, vocabulary_id, task,
        CASE WHEN code IS NULL THEN 'queued' ELSE 'failed' END, code, detail, CASE WHEN code IS NOT NULL THEN now() END
    FROM asked WHERE NOT EXISTS (SELECT 1 FROM item WHERE {_ITS_ITEM})
    ORDER BY uri, etag, vocabulary_id, task
    ON CONFLICT DO NOTHING
    RETURNING state
""")  # noqa: S608 - made of its own constants

_EXPLAIN = text(f"""
    WITH {_ASKED}
    UPDATE item SET error_code = asked.code, error_detail = asked.detail
    FROM asked WHERE asked.code IS NOT NULL AND {_ITS_ITEM}
        AND (item.error_code, item.error_detail) IS DISTINCT FROM (asked.code, asked.detail)
""")  # noqa: S608

_LINK = text(f"""
    WITH {_ASKED}
    INSERT INTO task (job_id, task, item_id)
    SELECT :job, asked.task, item.id FROM asked JOIN item ON {_ITS_ITEM}
    WHERE NOT EXISTS (
        SELECT 1 FROM task AS known
        WHERE known.job_id = :job AND known.task = asked.task AND known.item_id = item.id
    )
    ORDER BY asked.task
    ON CONFLICT (job_id, task) DO UPDATE SET item_id = excluded.item_id
""")  # noqa: S608

_FIND_ITEM = text(f"WITH {_ASKED} SELECT item.id FROM asked JOIN item ON {_ITS_ITEM}")  # noqa: S608

_ITEMS_OF = text("""
    SELECT item_id, max(task) FROM task WHERE job_id = :job AND task = ANY(CAST(:tasks AS bigint[])) GROUP BY item_id
""")

# An open item is locked although nothing of it changes: whoever ends it meanwhile would not see our tasks, which are
# not committed yet, and owe them nothing.
_LOCK_OPEN = text(f"""
    SELECT item.id FROM item LEFT JOIN result ON result.id = item.result_id
    WHERE item.id = ANY(CAST(:ids AS bigint[])) AND (
        item.state IN ('queued', 'running', 'cancelled')
        OR item.state = 'done' AND {outbox.version_of(":words", ":regions")} <> CAST(:version AS text)
        OR item.state = 'failed' AND item.failures >= :max_failures AND item.finished_at < now() - :longest
    )
    ORDER BY item.id FOR NO KEY UPDATE OF item
""")  # noqa: S608

_AGAIN = text("""
    UPDATE item
    SET state = 'queued', lane = :lane, lost = 0, failures = 0, not_before = now(), finished_at = NULL,
        error_code = NULL, error_detail = NULL, result_id = NULL, reused = false, task = asked.task
    FROM unnest(CAST(:ids AS bigint[]), CAST(:tasks AS bigint[])) AS asked(id, task)
    WHERE item.id = asked.id AND state IN ('cancelled', 'failed', 'done')
    RETURNING 1
""")

_FORWARD = text("""
    UPDATE item SET lane = :lane WHERE id = ANY(CAST(:ids AS bigint[])) AND state = 'queued' AND lane > :lane
""")

_REOPEN = text("""
    UPDATE job SET finished_at = NULL, cancelled_at = NULL, tally = NULL, error_code = NULL, error_detail = NULL
    WHERE id = :job AND (finished_at IS NOT NULL OR cancelled_at IS NOT NULL)
""")

_ANSWERS = text("""
    SELECT task.task, item.state, item.result_id, item.error_code, item.error_detail
    FROM task JOIN item ON item.id = task.item_id
    WHERE task.job_id = :job AND task.task = ANY(CAST(:tasks AS bigint[]))
""")


def ask(
    session: Session,
    known: Known,
    asked: Sequence[Asked],
    *,
    weights: Mapping[str, str] | None,
    lane: Lane = Lane.BULK,
    answering: int = 0,
    missing: bool = False,
) -> list[Answer]:
    """Queue what is not known, and say what is, in the order asked. Ring for SEGMENT where a state is queued, and for
    PUBLISH where one is done without a document, after the commit.

    `weights`: results of others than these are made again; None: any will do. `answering`: bytes of documents that may
    be taken. `missing`: Label Studio says that it has no prediction of our version; what was sent longer ago than
    `db.predictions.JUST_NOW` was deleted there, and goes out again.

    Failed items stay so, unless what failed too often may have passed by now; cancelled ones are queued again.
    """
    if not asked:
        return []
    job, version = known.row.job_id, _version(known, weights)
    rows = _rows(known, asked) | {"job": job, "lane": LANES[lane]}
    session.execute(_LOCK_JOB, {"job": job})
    opened = "queued" in session.scalars(_ADD_ITEMS, rows).all()
    if any(code is not None for code in rows["codes"]):
        session.execute(_EXPLAIN, rows)
    session.execute(_LINK, rows)
    here = {"job": job, "tasks": rows["tasks"]}
    items = dict(session.execute(_ITEMS_OF, here).tuples().all())
    opened |= _again(session, known, items, version, lane)
    if opened:
        session.execute(_REOPEN, {"job": job})
    outbox.owe(session, items)
    if missing and version is not None:
        answers.revive(session, known.row, rows["tasks"], version)
    taken = answers.take(session, known.row, rows["tasks"], version, most=answering) if answering else {}
    standings = {row.task: row for row in session.execute(_ANSWERS, here)}
    # The same task twice in one request would be two predictions in Label Studio: the first one has it.
    return [_answer(standings[one.task], taken.pop(one.task, None)) for one in asked]


def ask_alone(session: Session, known: Known, asked: Asked, *, weights: Mapping[str, str] | None = None) -> int:
    """The id of an item for somebody who waits: nothing of it goes to Label Studio by itself. Ring for SEGMENT."""
    job = known.row.job_id
    rows = _rows(known, [asked]) | {"job": job, "lane": LANES[Lane.INTERACTIVE]}
    session.execute(_LOCK_JOB, {"job": job})
    opened = "queued" in session.scalars(_ADD_ITEMS, rows).all()
    item_id: int = session.scalars(_FIND_ITEM, rows).one()
    opened |= _again(session, known, {item_id: asked.task}, _version(known, weights), Lane.INTERACTIVE)
    if opened:
        session.execute(_REOPEN, {"job": job})
    return item_id


def standing(session: Session, item_id: int) -> Answer:
    """What has become of it; without a document, for its regions depend on the prompt.

    Raises:
        NotFound: there is no such item.

    """
    item = session.get(Item, item_id, populate_existing=True)
    if item is None:
        raise NotFound(f"there is no item {item_id}")
    return Answer(item.task or 0, None, ItemState(item.state), item.result_id, item.error_code, item.error_detail)


def _again(session: Session, known: Known, items: Mapping[int, int], version: str | None, lane: Lane) -> bool:
    """Queue what is to be done once more, in the name of its task, and move forward what somebody waits for; whether
    anything was queued.
    """
    wanted = {
        "ids": list(items),
        "words": known.row.words,
        "regions": known.row.regions,
        "version": version,
        "max_failures": MAX_FAILURES,
        "longest": LONGEST_WAIT,
    }
    locked = session.scalars(_LOCK_OPEN, wanted).all()
    if not locked:
        return False
    mine = {"ids": list(locked), "tasks": [items[one] for one in locked], "lane": LANES[lane]}
    again = session.execute(_AGAIN, mine).first() is not None
    if lane is Lane.INTERACTIVE:
        session.execute(_FORWARD, mine)
    return again


def _version(known: Known, weights: Mapping[str, str] | None) -> str | None:
    if weights is None:
        return None
    return label_studio_version(weights, known.plan.recipe, known.row.words, known.row.regions)


def _rows(known: Known, asked: Sequence[Asked]) -> dict[str, Any]:
    """Columns for `_ASKED`, each task once, in the order of tasks."""
    each = [_storable(known, one) for _, one in sorted({one.task: one for one in asked}.items())]
    return {
        "tasks": [one.task for one in each],
        "uris": [one.uri for one in each],
        # What was refused is an item of its own, whatever picture it shares with others.
        "etags": [f"task {one.task}" if one.refused else "" for one in each],
        "vocabularies": [one.vocabulary_id for one in each],
        "codes": [one.refused[0] if one.refused else None for one in each],
        "details": [cut(storable(one.refused[1])) if one.refused else None for one in each],
    }


def _storable(known: Known, one: Asked) -> Asked:
    """With an address that an index can hold; refused, where nobody could work on it."""
    refused = one.refused
    if refused is None and (not one.uri or "\0" in one.uri or cut(one.uri) != one.uri):
        detail = f"its picture's address is empty, not text, or longer than {MAX_URI:,} bytes"
        refused = (SourceError.code, detail)
    if refused is None and one.vocabulary_id is None and known.plan.vocabulary is None:
        refused = (VocabularyError.code, "the project's words are in its tasks, and this task has none")
    if refused is None:
        return one
    return Asked(task=one.task, uri=cut(storable(one.uri)) or f"task {one.task}", refused=refused)


def _answer(row: Any, document: str | None) -> Answer:  # noqa: ANN401 - a row of `_ANSWERS`
    return Answer(row.task, document, ItemState(row.state), row.result_id, row.error_code, row.error_detail)
