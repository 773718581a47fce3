"""Results are looked up before computing, reserved while computing, and stored once."""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import delete, text
from sqlalchemy.orm import Session
from uuid_utils.compat import uuid7

from car.segmentation import Segmentation
from db.bulk_insert import copy_rows
from db.models import Mask, QueryStep, Reservation


@dataclass(frozen=True)
class NewResult:
    """The masks and history of one image, whose objects are stored already."""

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


# The texts never change, so PostgreSQL plans each once per connection, for any number of rows. One order everywhere, so
# that two workers with the same images wait for each other and do not deadlock.
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
    RETURNING run_key, id
""")

_MARK_LOST = text("UPDATE result SET objects_lost_at = now() WHERE id = :id AND objects_lost_at IS NULL")

_MARK_FOUND = text("""
    UPDATE result SET objects_lost_at = NULL
    WHERE run_key = ANY(CAST(:keys AS text[])) AND objects_lost_at IS NOT NULL
""")

_KNOWN = text("SELECT run_key, id FROM result WHERE run_key = ANY(CAST(:keys AS text[]))")

_OBJECT_KEYS = text("SELECT run_key, masks_key, labelmap_key FROM result WHERE run_key = ANY(CAST(:keys AS text[]))")

_PREVIEWS = text("""
    SELECT sha256, preview_key FROM image
    WHERE sha256 = ANY(CAST(:sha256s AS text[])) AND preview_key IS NOT NULL
""")

_RESERVE = text("""
    INSERT INTO reservation (run_key, worker, lease_expires_at)
    SELECT key, :worker, now() + make_interval(secs => :lease) FROM unnest(CAST(:keys AS text[])) AS requested(key)
    WHERE NOT EXISTS (
        SELECT 1 FROM reservation WHERE run_key = key AND worker <> :worker AND lease_expires_at >= now()
    )
    ORDER BY key
    ON CONFLICT (run_key) DO UPDATE SET worker = excluded.worker, lease_expires_at = excluded.lease_expires_at
    WHERE reservation.lease_expires_at < now() OR reservation.worker = excluded.worker
    RETURNING run_key
""")


_EXTEND = text("""
    UPDATE reservation SET lease_expires_at = now() + make_interval(secs => :lease) WHERE run_key IN (
        SELECT run_key FROM reservation WHERE worker = :worker ORDER BY run_key FOR UPDATE SKIP LOCKED
    )
""")

_RELEASE = text("""
    WITH released AS (
        SELECT run_key FROM reservation WHERE worker = :worker AND run_key = ANY(CAST(:keys AS text[]))
        ORDER BY run_key FOR UPDATE
    )
    DELETE FROM reservation USING released WHERE reservation.run_key = released.run_key
""")

_EXPIRE = text("""
    DELETE FROM reservation WHERE run_key IN (
        SELECT run_key FROM reservation WHERE lease_expires_at < now() FOR UPDATE SKIP LOCKED
    ) RETURNING 1
""")


def mark_lost(session: Session, result_id: UUID) -> None:
    """Record that objects of a result are gone: a retry of its jobs computes it again."""
    session.execute(_MARK_LOST, {"id": result_id})


def existing(session: Session, run_keys: Collection[str]) -> dict[str, UUID]:
    """Return the ids of existing results by run key."""
    return dict(session.execute(_KNOWN, {"keys": list(run_keys)}).tuples().all()) if run_keys else {}


def object_keys(session: Session, run_keys: Collection[str]) -> dict[str, tuple[str, str]]:
    """Return the keys of masks and label map of existing results by run key."""
    rows = session.execute(_OBJECT_KEYS, {"keys": list(run_keys)}).all() if run_keys else []
    return {row.run_key: (row.masks_key, row.labelmap_key) for row in rows}


def previews(session: Session, sha256s: Collection[str]) -> dict[str, str]:
    """Return the keys of existing previews by the sha256 of their images."""
    return dict(session.execute(_PREVIEWS, {"sha256s": list(sha256s)}).tuples().all()) if sha256s else {}


def reserve(session: Session, worker: str, run_keys: Collection[str], lease: timedelta) -> set[str]:
    """Return the keys that this worker may compute now; other workers compute the rest. Rows of those are not locked,
    so that a reservation does not wait for a worker that is storing its result.
    """
    values = {"worker": worker, "keys": sorted(run_keys), "lease": lease.total_seconds()}
    return set(session.scalars(_RESERVE, values)) if run_keys else set()


def extend(session: Session, worker: str, lease: timedelta) -> None:
    """Heartbeat of this worker's reservations, except those that another of its threads has locked."""
    session.execute(_EXTEND, {"worker": worker, "lease": lease.total_seconds()})


def release(session: Session, run_keys: Collection[str], worker: str) -> None:
    """Drop reservations of runs that are stored, or will not be computed."""
    if run_keys:
        session.execute(_RELEASE, {"worker": worker, "keys": list(run_keys)})


def release_all(session: Session, worker: str) -> None:
    """Drop all reservations of a worker that stops."""
    session.execute(delete(Reservation).where(Reservation.worker == worker))


def expire(session: Session) -> int:
    """Drop reservations of silent workers and return their count."""
    return len(session.execute(_EXPIRE).all())


def store(session: Session, worker: str, new: Sequence[NewResult]) -> dict[str, UUID]:
    """Store results with their masks and history, and return ids by run key. Results that exist already stay."""
    by_key = {result.run_key: result for result in new}
    if not by_key:
        return {}
    rows = json.dumps([_document(result, worker) for result in by_key.values()], default=str)
    session.execute(_ADD_IMAGES, {"rows": rows})
    ids = dict(session.execute(_ADD_RESULTS, {"rows": rows}).tuples().all())
    results = [(ids[key], by_key[key].segmentation) for key in by_key if key in ids]
    copy_rows(session, Mask, _MASK, (row for result in results for row in _masks(*result)))
    copy_rows(session, QueryStep, _QUERY_STEP, (row for result in results for row in _history(*result)))
    release(session, by_key, worker)
    session.execute(_MARK_FOUND, {"keys": list(by_key.keys() - ids.keys())})
    return ids | existing(session, by_key.keys() - ids.keys())


def _document(result: NewResult, worker: str) -> dict[str, Any]:
    """Return the columns of the result and of its image."""
    segmentation = result.segmentation
    return {name: value for name, value in vars(result).items() if name != "segmentation"} | {
        "id": uuid7(),
        "worker": worker,
        "width": segmentation.width,
        "height": segmentation.height,
        "stop_reason": segmentation.stop_reason,
        "steps": len(segmentation.steps),
        "top_score": max((mask.score for mask in segmentation.masks), default=None),
        "timings": dict(segmentation.timings),
        "work": asdict(segmentation.work),
    }


_MASK = ("result_id", "position", "label", "score", "x", "y", "width", "height", "area", "source")


def _masks(result_id: UUID, segmentation: Segmentation) -> Iterator[tuple[Any, ...]]:
    for position, mask in enumerate(segmentation.masks, start=1):
        yield (result_id, position, mask.label, mask.score, *mask.bbox, mask.area, str(mask.source))


_QUERY_STEP = (
    "result_id", "pass_kind", "step", "position", "label", "query", "score", "kept", "area",
    "iou_previous", "rival", "rival_score",
)  # fmt: skip


def _history(result_id: UUID, segmentation: Segmentation) -> Iterator[tuple[Any, ...]]:
    for step in segmentation.steps:
        key = (result_id, str(step.pass_kind), step.step)
        for position, query in enumerate(step.queries, start=1):
            scores = (query.label, query.text, query.score, query.kept, query.area, query.iou_previous)
            yield (*key, position, *scores, query.rival, query.rival_score)
