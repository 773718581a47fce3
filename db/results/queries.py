"""Results by what is asked about them: filters in any combination, newest first, page by page.

One query finds the keys of a page on indexes alone, and fetches the rows of those keys; one more fetches their masks.
Which table leads is the planner's choice, by its statistics of labels and jobs: so these queries are planned for their
values each time, and joins are written so that every order is open to it.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, select, text
from sqlalchemy.orm import Session

from car.model_version import results_version
from db.models import Mask
from db.pagination import Cursor


@dataclass(frozen=True, kw_only=True)
class ResultFilter:
    """What a result must be like; nothing means all."""

    label: str | None = None
    """It has a mask of this label."""
    min_score: float | None = None
    """Of that label's mask; without a label, of its best mask."""
    job: UUID | None = None
    """One entry for each of the job's pictures, in the reverse order of listing."""
    image: str | None = None
    """Sha256 of its picture."""
    model_version: str | None = None
    """As results have it, or as Label Studio knows their predictions."""
    vocabulary: UUID | None = None
    dropped: str | None = None
    """The recurrence let this label fall."""
    dropped_at: int | None = None
    """In this step: that label, or any."""


@dataclass(frozen=True)
class MaskView:
    """A mask without its pixels."""

    label: str
    score: float
    area: int
    bbox: tuple[int, int, int, int]
    source: str


@dataclass(frozen=True, kw_only=True)
class ResultView:
    """A result as a list shows it, with one of the places its picture lies in."""

    id: UUID
    item_id: int | None
    job: UUID | None
    uri: str | None
    reused: bool
    sha256: str
    width: int
    height: int
    format: str
    model_version: str
    stop_reason: str
    steps: int
    created_at: datetime
    masks: tuple[MaskView, ...]


_PLANNING = text("""
    SELECT set_config('plan_cache_mode', 'force_custom_plan', true),  -- a plan for any label is right for few of them
        set_config('random_page_cost', '1.1', true),  -- the indexes that are asked are in memory, or on flash
        set_config('max_parallel_workers_per_gather', '0', true)  -- starting one takes longer than a page should
""")
_ITEM_OF_JOB = "JOIN item ON item.id = page.item_id"
# Any of its items will do: the index gives one of the oldest job.
_ITEM_OF_RESULT = """LEFT JOIN LATERAL (
    SELECT id, job_id, uri, reused FROM item WHERE item.result_id = page.result_id
    ORDER BY item.job_id LIMIT 1
) AS item ON true"""
_ROWS = """
    WITH page AS MATERIALIZED ({keys})
    SELECT result.id, item.id AS item_id, item.job_id AS job, item.uri, coalesce(item.reused, false) AS reused,
        image.sha256, image.width, image.height, image.format,
        result.model_version, result.stop_reason, result.steps, result.created_at
    FROM page JOIN result ON result.id = page.result_id JOIN image ON image.id = result.image_id {item}
    ORDER BY {order} DESC
"""


def page(
    session: Session, wanted: ResultFilter, *, cursor: str | None, limit: int
) -> tuple[list[ResultView], str | None]:
    """Entries newest first, with the cursor of the next page."""
    at = Cursor(f"results {sorted(asdict(wanted).items())}")
    after: UUID | int | None = None
    if cursor:
        after = at.read_id(cursor) if wanted.job is None else at.read_number(cursor)
    sql, values = statement(wanted, after=after, limit=limit + 1)
    plan_for_pages(session)
    rows = session.execute(text(sql), values).mappings().all()
    shown = views(session, rows[:limit])
    if len(rows) <= limit:
        return shown, None
    last = shown[-1]
    return shown, at.write(str(last.id) if wanted.job is None or last.item_id is None else last.item_id)


def plan_for_pages(session: Session) -> None:
    """How this transaction's queries are planned from here on."""
    session.execute(_PLANNING)


def statement(wanted: ResultFilter, *, after: UUID | int | None, limit: int) -> tuple[str, dict[str, Any]]:
    """The query of a page and its values: what `page` runs and benchmarks.results explains."""
    tables, key, order = _tables(wanted)
    where = _conditions(wanted, key)
    values = {name: value for name, value in asdict(wanted).items() if value is not None} | {"limit": limit}
    if wanted.model_version is not None:
        values["model_version"] = results_version(wanted.model_version)
    if after is not None:
        where.append(f"{order} < :after")
        values["after"] = after
    chosen = f"{key} AS result_id" + (", item.id AS item_id" if wanted.job else "")
    filtered = f"WHERE {' AND '.join(where)}" if where else ""
    keys = f"SELECT {chosen} FROM {tables} {filtered} ORDER BY {order} DESC LIMIT :limit"  # noqa: S608 - no part of it is the user's
    of_page = (_ITEM_OF_JOB, "page.item_id") if wanted.job else (_ITEM_OF_RESULT, "page.result_id")
    return _ROWS.format(keys=keys, item=of_page[0], order=of_page[1]), values


def _tables(wanted: ResultFilter) -> tuple[str, str, str]:
    """What to select from, the result's id in it, and what it is ordered by. No table that no condition asks for."""
    of_result = (wanted.image, wanted.model_version, wanted.vocabulary)
    best_score = wanted.min_score if wanted.label is None else None
    names = ["item"] if wanted.job else []
    names += ["mask"] if wanted.label is not None else []
    names += ["result"] if not names or any(one is not None for one in (*of_result, best_score)) else []
    ids = {"item": "item.result_id", "mask": "mask.result_id", "result": "result.id"}
    tables = names[0] + "".join(f" JOIN {name} ON {ids[name]} = {ids[names[0]]}" for name in names[1:])
    return tables, ids[names[0]], "item.id" if wanted.job else ids[names[0]]


def _conditions(wanted: ResultFilter, key: str) -> list[str]:
    found = []
    if wanted.job is not None:
        found.append("item.job_id = :job AND item.result_id IS NOT NULL")
    if wanted.label is not None:
        found.append("mask.label = :label")
    if wanted.min_score is not None:
        found.append("mask.score >= :min_score" if wanted.label is not None else "result.top_score >= :min_score")
    if wanted.image is not None:
        found.append("result.image_id = (SELECT id FROM image WHERE sha256 = :image)")
    if wanted.model_version is not None:
        found.append("result.model_version = :model_version")
    if wanted.vocabulary is not None:
        found.append("result.vocabulary_id = :vocabulary")
    if wanted.dropped is not None or wanted.dropped_at is not None:
        fell = [f"query_step.result_id = {key} AND NOT query_step.kept"]
        fell += ["query_step.label = :dropped"] if wanted.dropped is not None else []
        fell += ["query_step.step = :dropped_at"] if wanted.dropped_at is not None else []
        found.append(f"EXISTS (SELECT 1 FROM query_step WHERE {' AND '.join(fell)})")  # noqa: S608 - as above
    return found


def views(session: Session, rows: Collection[RowMapping]) -> list[ResultView]:
    """Rows with their masks, which one query brings for all of them."""
    masks = masks_of(session, {row["id"] for row in rows})
    return [ResultView(**row, masks=masks.get(row["id"], ())) for row in rows]


def masks_of(session: Session, result_ids: Collection[UUID]) -> dict[UUID, tuple[MaskView, ...]]:
    """Masks by result, in the order of the vocabulary."""
    if not result_ids:
        return {}
    rows = session.execute(
        select(Mask.result_id, Mask.label, Mask.score, Mask.area, Mask.x, Mask.y, Mask.width, Mask.height, Mask.source)
        .where(Mask.result_id.in_(result_ids))
        .order_by(Mask.result_id, Mask.position)
    )
    found: dict[UUID, list[MaskView]] = {}
    for result_id, label, score, area, x, y, width, height, source in rows:
        found.setdefault(result_id, []).append(MaskView(label, score, area, (x, y, width, height), source))
    return {result_id: tuple(masks) for result_id, masks in found.items()}
