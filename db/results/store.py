"""Results: looked up before computing, reserved while computing, stored once."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from car.segmentation import Segmentation
from db.bulk_insert import copy_rows
from db.models import Mask, QueryStep


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


# The texts never change, so PostgreSQL plans each once a connection, however many rows it is given. One order
# everywhere, so that two workers with the same pictures wait for each other and do not deadlock.
_ADD_IMAGES = text("""
    INSERT INTO image (sha256, width, height, format, notes, preview_key)
    SELECT sha256, width, height, format, notes, preview_key
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS new(sha256 text, width int, height int, format text, notes text[], preview_key text)
    ORDER BY sha256
    ON CONFLICT (sha256) DO NOTHING
""")

_ADD_RESULTS = text("""
    INSERT INTO result (id, run_key, image_id, vocabulary_id, recipe_id, model_version, weights, code_version, device,
        worker, stop_reason, steps, top_score, timings, work, masks_key, labelmap_key)
    SELECT new.id, run_key, image.id, vocabulary_id, recipe_id, model_version, weights, code_version, device,
        worker, stop_reason, steps, top_score, timings, work, masks_key, labelmap_key
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
        AS new(id uuid, run_key text, sha256 text, vocabulary_id uuid, recipe_id uuid, model_version text,
               weights jsonb, code_version text, device text, worker text, stop_reason text, steps int,
               top_score double precision, timings jsonb, work jsonb, masks_key text, labelmap_key text)
    JOIN image USING (sha256)
    ORDER BY run_key
    ON CONFLICT (run_key) DO NOTHING
    RETURNING run_key
""")

_KNOWN = text("SELECT run_key, id FROM result WHERE run_key = ANY(CAST(:keys AS text[]))")

_PREVIEWS = text("""
    SELECT sha256, preview_key FROM image
    WHERE sha256 = ANY(CAST(:sha256s AS text[])) AND preview_key IS NOT NULL
""")

_RESERVE = text("""
    INSERT INTO reservation (run_key, worker, lease_expires_at)
    SELECT key, :worker, now() + make_interval(secs => :lease) FROM unnest(CAST(:keys AS text[])) AS wanted(key)
    WHERE NOT EXISTS (
        SELECT 1 FROM reservation WHERE run_key = key AND worker <> :worker AND lease_expires_at >= now()
    )
    ORDER BY key
    ON CONFLICT (run_key) DO UPDATE SET worker = excluded.worker, lease_expires_at = excluded.lease_expires_at
    WHERE reservation.lease_expires_at < now() OR reservation.worker = excluded.worker
    RETURNING run_key
""")


def known(session: Session, run_keys: Collection[str]) -> dict[str, UUID]:
    """The results there are, by run key."""
    if not run_keys:
        return {}
    return dict(session.execute(_KNOWN, {"keys": list(run_keys)}).tuples().all())


def previews(session: Session, sha256s: Collection[str]) -> dict[str, str]:
    """Keys of the previews there are, by their pictures' sha256."""
    if not sha256s:
        return {}
    return dict(session.execute(_PREVIEWS, {"sha256s": list(sha256s)}).tuples().all())


def reserve(session: Session, worker: str, run_keys: Collection[str], lease: timedelta) -> set[str]:
    """Keys that this worker may compute now; the others are being computed by another one. Their rows are not touched,
    so that nobody waits for the one who is about to store them.
    """
    if not run_keys:
        return set()
    rows = session.execute(_RESERVE, {"worker": worker, "keys": sorted(run_keys), "lease": lease.total_seconds()})
    return set(rows.scalars())


def extend(session: Session, worker: str, lease: timedelta) -> None:
    """The heartbeat of this worker's reservations. One that another of its threads holds right now is left to it."""
    session.execute(
        text("""
            UPDATE reservation SET lease_expires_at = now() + make_interval(secs => :lease) WHERE run_key IN (
                SELECT run_key FROM reservation WHERE worker = :worker ORDER BY run_key FOR UPDATE SKIP LOCKED
            )
        """),
        {"worker": worker, "lease": lease.total_seconds()},
    )


def release(session: Session, run_keys: Collection[str], worker: str) -> None:
    """What will not be computed after all, or is stored by now."""
    if not run_keys:
        return
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
            SELECT run_key FROM reservation WHERE lease_expires_at < now() FOR UPDATE SKIP LOCKED
        ) RETURNING 1
    """)
    return len(session.execute(expired).all())


def store(session: Session, worker: str, new: Sequence[NewResult]) -> dict[str, UUID]:
    """Rows of each result, its masks and its history; ids by run key. One that is there already stays as it is."""
    one_each = {one.run_key: one for one in new}
    if not one_each:
        return {}
    rows = {key: _result(one, worker) for key, one in one_each.items()}
    session.execute(_ADD_IMAGES, {"rows": json.dumps([_image(one) for one in one_each.values()])})
    fresh = set(session.scalars(_ADD_RESULTS, {"rows": json.dumps(list(rows.values()))}))
    ids = {key: UUID(rows[key]["id"]) for key in fresh}
    mine = [(ids[key], one_each[key].segmentation) for key in one_each if key in fresh]
    copy_rows(session, Mask, _MASK, (row for place, found in mine for row in _masks(place, found)))
    copy_rows(session, QueryStep, _QUERY_STEP, (row for place, found in mine for row in _history(place, found)))
    release(session, one_each, worker)
    return ids | known(session, one_each.keys() - fresh)


def _image(one: NewResult) -> dict[str, Any]:
    return {
        "sha256": one.sha256,
        "width": one.segmentation.width,
        "height": one.segmentation.height,
        "format": one.format,
        "notes": one.notes,
        "preview_key": one.preview_key,
    }


def _result(one: NewResult, worker: str) -> dict[str, Any]:
    found = one.segmentation
    return {
        "id": str(uuid7()),
        "run_key": one.run_key,
        "sha256": one.sha256,
        "vocabulary_id": str(one.vocabulary_id),
        "recipe_id": str(one.recipe_id),
        "model_version": one.model_version,
        "weights": one.weights,
        "code_version": one.code_version,
        "device": one.device,
        "worker": worker,
        "stop_reason": str(found.stop_reason),
        "steps": len(found.steps),
        "top_score": max((mask.score for mask in found.masks), default=None),
        "timings": dict(found.timings),
        "work": asdict(found.work),
        "masks_key": one.masks_key,
        "labelmap_key": one.labelmap_key,
    }


_MASK = ("result_id", "position", "label", "score", "x", "y", "width", "height", "area", "source")


def _masks(result_id: UUID, found: Segmentation) -> Iterator[tuple[Any, ...]]:
    for position, mask in enumerate(found.masks, start=1):
        yield (result_id, position, mask.label, mask.score, *mask.bbox, mask.area, str(mask.source))


_QUERY_STEP = (
    "result_id", "pass_kind", "step", "position", "label", "query", "score", "kept", "area",
    "iou_previous", "rival", "rival_score",
)  # fmt: skip


def _history(result_id: UUID, found: Segmentation) -> Iterator[tuple[Any, ...]]:
    for step in found.steps:
        for position, one in enumerate(step.queries, start=1):
            yield (
                *(
                    result_id,
                    str(step.pass_kind),
                    step.step,
                    position,
                    one.label,
                    one.text,
                    one.score,
                    one.kept,
                    one.area,
                ),
                *(one.iou_previous, one.rival, one.rival_score),
            )
