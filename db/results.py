"""Results: looked up before computing, reserved while computing, stored once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from car.segmentation import Segmentation
from db.models import Image, Mask, QueryStep, Result


@dataclass(frozen=True)
class NewResult:
    """One picture's masks and history, whose objects are stored already."""

    run_key: str
    sha256: str
    format: str
    notes: tuple[str, ...]
    segmentation: Segmentation
    vocabulary_id: UUID
    recipe_id: UUID
    model_version: str
    weights: dict[str, str]
    code_version: str
    device: str
    masks_key: str
    labelmap_key: str
    preview_key: str | None


def known(session: Session, run_keys: Collection[str]) -> dict[str, UUID]:
    """The results there are, by run key."""
    rows = session.execute(select(Result.run_key, Result.id).where(Result.run_key.in_(run_keys)))
    return dict(rows.tuples().all())


def reserve(session: Session, worker: str, run_keys: Collection[str], lease: timedelta) -> set[str]:
    """Keys that this worker may compute now; the others are being computed by another one. Their rows are not touched,
    so that nobody waits for the one who is about to store them.
    """
    rows = session.execute(
        text("""
            INSERT INTO reservation (run_key, worker, until)
            SELECT key, :worker, now() + make_interval(secs => :lease) FROM unnest(CAST(:keys AS text[])) AS wanted(key)
            WHERE NOT EXISTS (
                SELECT 1 FROM reservation WHERE run_key = key AND worker <> :worker AND until >= now()
            )
            ON CONFLICT (run_key) DO UPDATE SET worker = excluded.worker, until = excluded.until
            WHERE reservation.until < now() OR reservation.worker = excluded.worker
            RETURNING run_key
        """),
        {"worker": worker, "keys": sorted(run_keys), "lease": lease.total_seconds()},
    )
    return set(rows.scalars())


def extend(session: Session, worker: str, lease: timedelta) -> None:
    """The heartbeat of this worker's reservations. One that another of its threads holds right now is left to it."""
    session.execute(
        text("""
            UPDATE reservation SET until = now() + make_interval(secs => :lease) WHERE run_key IN (
                SELECT run_key FROM reservation WHERE worker = :worker ORDER BY run_key FOR UPDATE SKIP LOCKED
            )
        """),
        {"worker": worker, "lease": lease.total_seconds()},
    )


def release(session: Session, run_keys: Collection[str], worker: str) -> None:
    """What will not be computed after all, or is stored by now."""
    session.execute(
        text("""
            WITH mine AS (
                SELECT run_key FROM reservation WHERE worker = :worker AND run_key = ANY(CAST(:keys AS text[]))
                ORDER BY run_key FOR UPDATE
            )
            DELETE FROM reservation USING mine WHERE reservation.run_key = mine.run_key
        """),
        {"worker": worker, "keys": list(run_keys)},
    )


def release_all(session: Session, worker: str) -> None:
    """When a worker stops."""
    session.execute(text("DELETE FROM reservation WHERE worker = :worker"), {"worker": worker})


def expire(session: Session) -> int:
    """Reservations of silent workers; how many."""
    expired = text("""
        DELETE FROM reservation WHERE run_key IN (
            SELECT run_key FROM reservation WHERE until < now() FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    """)
    return len(session.execute(expired).all())


def store(session: Session, worker: str, new: Sequence[NewResult]) -> dict[str, UUID]:
    """Rows of each result, its masks and its history; ids by run key. One that is there already stays as it is."""
    # In one order everywhere, so that two workers with the same pictures wait for each other and do not deadlock.
    ordered = sorted({one.run_key: one for one in new}.values(), key=lambda one: one.run_key)
    if not ordered:
        return {}
    images = _images(session, ordered)
    rows = [_result(one, images[one.sha256], worker) for one in ordered]
    added = upsert(Result).values(rows).on_conflict_do_nothing(index_elements=["run_key"]).returning(Result.run_key)
    fresh = set(session.scalars(added))
    ids = known(session, [one.run_key for one in ordered])
    mine = [one for one in ordered if one.run_key in fresh]
    masks = [row for one in mine for row in _masks(ids[one.run_key], one.segmentation)]
    if masks:
        session.execute(insert(Mask), masks)
    history = [row for one in mine for row in _history(ids[one.run_key], one.segmentation)]
    if history:
        session.execute(insert(QueryStep), history)
    release(session, [one.run_key for one in ordered], worker)
    return ids


def _images(session: Session, new: Sequence[NewResult]) -> dict[str, int]:
    rows = {
        one.sha256: {
            "sha256": one.sha256,
            "width": one.segmentation.width,
            "height": one.segmentation.height,
            "format": one.format,
            "notes": list(one.notes),
            "preview_key": one.preview_key,
        }
        for one in sorted(new, key=lambda one: one.sha256)
    }
    session.execute(upsert(Image).values(list(rows.values())).on_conflict_do_nothing(index_elements=["sha256"]))
    return dict(session.execute(select(Image.sha256, Image.id).where(Image.sha256.in_(rows))).tuples().all())


def _result(one: NewResult, image_id: int, worker: str) -> dict[str, Any]:
    found = one.segmentation
    return {
        "id": uuid7(),
        "run_key": one.run_key,
        "image_id": image_id,
        "vocabulary_id": one.vocabulary_id,
        "recipe_id": one.recipe_id,
        "model_version": one.model_version,
        "weights": one.weights,
        "code_version": one.code_version,
        "device": one.device,
        "worker": worker,
        "stop_reason": str(found.stop_reason),
        "steps": len(found.steps),
        "top_score": max((mask.score for mask in found.masks), default=None),
        "timings": dict(found.timings),
        "work": found.to_json()["work"],
        "masks_key": one.masks_key,
        "labelmap_key": one.labelmap_key,
    }


def _masks(result_id: UUID, found: Segmentation) -> list[dict[str, Any]]:
    rows = []
    for position, mask in enumerate(found.masks, start=1):
        x, y, width, height = mask.bbox
        box = {"x": x, "y": y, "width": width, "height": height}
        row = {"result_id": result_id, "position": position, "label": mask.label, "score": mask.score}
        rows.append(row | box | {"area": mask.area, "source": str(mask.source)})
    return rows


def _history(result_id: UUID, found: Segmentation) -> list[dict[str, Any]]:
    return [
        {
            "result_id": result_id,
            "within": str(step.within),
            "step": step.step,
            "position": position,
            "label": query.label,
            "query": query.text,
            "score": query.score,
            "kept": query.kept,
            "area": query.area,
            "iou_previous": query.iou_previous,
            "rival": query.rival,
            "rival_score": query.rival_score,
        }
        for step in found.steps
        for position, query in enumerate(step.queries, start=1)
    ]
