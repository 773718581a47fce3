"""Lists of results: filters in any combination, newest first, page by page.

One query finds the keys of a page on indexes alone and fetches their rows; a second one fetches their masks. The
planner chooses the leading table by its statistics of labels and jobs: these queries are planned for their values each
time, and joins are written so that every order is possible.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from car.model_version import results_version
from db.models import Mask
from db.pagination import Cursor


@dataclass(frozen=True, kw_only=True)
class ResultFilter:
    """Conditions that a result must meet; None means any."""

    label: str | None = None
    """The result has a mask of this label."""
    min_score: float | None = None
    """Score of that label's mask; without a label, of the best mask."""
    job: UUID | None = None
    """One entry for each of the job's images, in the reverse order of listing."""
    image: str | None = None
    """Sha256 of the image."""
    model_version: str | None = None
    """Of the results, or of their predictions in Label Studio."""
    vocabulary: UUID | None = None
    dropped: str | None = None
    """The recurrence dropped this label."""
    dropped_at: int | None = None
    """That label, or any, was dropped in this step."""


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
    """A result as a list shows it, with one of its image's sources."""

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
    models: dict[str, str]
    """Role to the name of the model that ran, or to the beginning of its digest."""
    masks: tuple[MaskView, ...]


_PLANNING = text("""
    SELECT set_config('plan_cache_mode', 'force_custom_plan', true),  -- labels differ too much for a generic plan
        set_config('random_page_cost', '1.1', true),  -- the indexes are in memory or on flash
        set_config('max_parallel_workers_per_gather', '0', true)  -- starting a worker takes longer than a page should
""")
_ITEM_OF_JOB = "JOIN item ON item.id = page.item_id"
# One of the result's items: the index gives one of the oldest job.
_ITEM_OF_RESULT = """LEFT JOIN LATERAL (
    SELECT id, job_id, uri, reused FROM item WHERE item.result_id = page.result_id
    ORDER BY item.job_id LIMIT 1
) AS item ON true"""
_ROWS = """
    WITH page AS MATERIALIZED ({keys})
    SELECT result.id, item.id AS item_id, item.job_id AS job, item.uri, coalesce(item.reused, false) AS reused,
        image.sha256, image.width, image.height, image.format,
        result.model_version, result.stop_reason, result.steps, result.created_at,
        (SELECT coalesce(jsonb_object_agg(role, coalesce(name, left(digest, 8))), '{{}}')
            FROM jsonb_each_text(result.weights) AS w(role, digest)
            LEFT JOIN weights_card ON weights_card.sha256 = digest) AS models
    FROM page JOIN result ON result.id = page.result_id JOIN image ON image.id = result.image_id {item}
    ORDER BY {order} DESC
"""


def page(
    session: Session, filters: ResultFilter, *, cursor: str | None, limit: int
) -> tuple[list[ResultView], str | None]:
    """Return results, the newest first, and the cursor of the next page."""
    at = Cursor(f"results {sorted(asdict(filters).items())}")
    after: UUID | int | None = None
    if cursor:
        after = at.read_id(cursor) if filters.job is None else at.read_number(cursor)
    sql, values = statement(filters, after=after, limit=limit + 1)
    plan_for_pages(session)
    rows = session.execute(text(sql), values).mappings().all()
    masks = masks_of(session, {row["id"] for row in rows[:limit]})
    entries = [ResultView(**row, masks=masks.get(row["id"], ())) for row in rows[:limit]]
    if len(rows) <= limit:
        return entries, None
    last = entries[-1]
    return entries, at.write(str(last.id) if filters.job is None or last.item_id is None else last.item_id)


def plan_for_pages(session: Session) -> None:
    """Set how the following queries of this transaction are planned."""
    session.execute(_PLANNING)


def statement(filters: ResultFilter, *, after: UUID | int | None, limit: int) -> tuple[str, dict[str, Any]]:
    """Return the query of a page and its values, which `page` runs and benchmarks.results explains."""
    tables, key, order = _tables(filters)
    where = _conditions(filters, key)
    values = {name: value for name, value in asdict(filters).items() if value is not None} | {"limit": limit}
    if filters.model_version is not None:
        values["model_version"] = results_version(filters.model_version)
    if after is not None:
        where.append(f"{order} < :after")
        values["after"] = after
    chosen = f"{key} AS result_id" + (", item.id AS item_id" if filters.job else "")
    filtered = f"WHERE {' AND '.join(where)}" if where else ""
    keys = f"SELECT {chosen} FROM {tables} {filtered} ORDER BY {order} DESC LIMIT :limit"  # noqa: S608 - no part of it is the user's
    item, page_order = (_ITEM_OF_JOB, "page.item_id") if filters.job else (_ITEM_OF_RESULT, "page.result_id")
    return _ROWS.format(keys=keys, item=item, order=page_order), values


def _tables(filters: ResultFilter) -> tuple[str, str, str]:
    """Return the tables that the conditions need, the result's id in them, and the order."""
    of_result = (filters.image, filters.model_version, filters.vocabulary)
    best_score = filters.min_score if filters.label is None else None
    names = ["item"] if filters.job else []
    names += ["mask"] if filters.label is not None else []
    names += ["result"] if not names or any(value is not None for value in (*of_result, best_score)) else []
    ids = {"item": "item.result_id", "mask": "mask.result_id", "result": "result.id"}
    tables = names[0] + "".join(f" JOIN {name} ON {ids[name]} = {ids[names[0]]}" for name in names[1:])
    return tables, ids[names[0]], "item.id" if filters.job else ids[names[0]]


def _conditions(filters: ResultFilter, key: str) -> list[str]:
    conditions = []
    if filters.job is not None:
        conditions.append("item.job_id = :job AND item.result_id IS NOT NULL")
    if filters.label is not None:
        conditions.append("mask.label = :label")
    if filters.min_score is not None:
        conditions.append("mask.score >= :min_score" if filters.label is not None else "result.top_score >= :min_score")
    if filters.image is not None:
        conditions.append("result.image_id = (SELECT id FROM image WHERE sha256 = :image)")
    if filters.model_version is not None:
        conditions.append("result.model_version = :model_version")
    if filters.vocabulary is not None:
        conditions.append("result.vocabulary_id = :vocabulary")
    if filters.dropped is not None or filters.dropped_at is not None:
        dropped = [f"query_step.result_id = {key} AND NOT query_step.kept"]
        dropped += ["query_step.label = :dropped"] if filters.dropped is not None else []
        dropped += ["query_step.step = :dropped_at"] if filters.dropped_at is not None else []
        conditions.append(f"EXISTS (SELECT 1 FROM query_step WHERE {' AND '.join(dropped)})")  # noqa: S608 - as above
    return conditions


def masks_of(session: Session, result_ids: Collection[UUID]) -> dict[UUID, tuple[MaskView, ...]]:
    """Return the masks of each result, in the order of the vocabulary."""
    if not result_ids:
        return {}
    rows = session.execute(
        select(Mask.result_id, Mask.label, Mask.score, Mask.area, Mask.source, Mask.x, Mask.y, Mask.width, Mask.height)
        .where(Mask.result_id.in_(result_ids))
        .order_by(Mask.result_id, Mask.position)
    )
    masks: dict[UUID, list[MaskView]] = {}
    for result_id, label, score, area, source, x, y, width, height in rows:
        masks.setdefault(result_id, []).append(MaskView(label, score, area, (x, y, width, height), source))
    return {result_id: tuple(views) for result_id, views in masks.items()}
