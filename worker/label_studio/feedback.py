"""Compare annotations with the predictions they replaced: what annotators kept, changed, removed and added."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.label_studio.agreement import LabelAgreement, compare_annotations
from car.label_studio.annotation_masks import AnnotationMasks, decode_annotation
from car.label_studio.prediction import build_regions
from car.label_studio.project_config import build_project_config
from car.object_store import ObjectStore
from car.stored_masks import StoredMasks
from car.vocabulary import Vocabulary
from db.errors import ObjectStoreError
from db.label_studio import feedback
from db.label_studio.feedback import ClaimedAnnotation
from db.session import transaction
from worker.errors import describe_error

LEASE = timedelta(seconds=120)
_BATCH = 4
"""Annotations claimed at a time: each may hold megabytes of brush masks."""
_MAX_PROMPT_LENGTH = 500
"""Characters of a label's prompts."""


@dataclass
class FeedbackStats:
    """What one call did."""

    compared: int = 0
    failed: int = 0
    has_more: bool = False
    """The call stopped before all annotations were compared."""


def process_annotations(
    engine: Engine,
    objects: ObjectStore,
    worker: str,
    *,
    preset: str,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = float("inf"),
) -> FeedbackStats:
    """Compare waiting annotations until there are none, `stop` or `seconds`.

    `preset` is the recipe of projects that name none.
    """
    stats, deadline = FeedbackStats(), time.monotonic() + seconds
    while True:
        with transaction(engine) as session:
            claimed = feedback.claim(session, worker, limit=_BATCH, lease=LEASE)
        if not claimed:
            return stats
        while claimed:
            if stop() or time.monotonic() > deadline:
                with transaction(engine) as session:
                    feedback.release(session, worker, claimed)
                stats.has_more = True
                return stats
            _process(engine, objects, worker, claimed.pop(0), preset, stats)


def _process(
    engine: Engine, objects: ObjectStore, worker: str, annotation: ClaimedAnnotation, preset: str, stats: FeedbackStats
) -> None:
    try:
        agreements, prompts = _compare(annotation, objects, preset=preset)
    except Exception as error:  # noqa: BLE001 - the edge: what breaks this code must not be compared for ever
        if not isinstance(error, CarError):
            structlog.get_logger().exception("comparison_failed", annotation=annotation.id)
        failure = describe_error(error)
        if isinstance(error, ObjectStoreError):  # the service's own bucket: no fault of the annotation
            failure = failure._replace(retryable=True)
        with transaction(engine) as session:
            feedback.fail(session, worker, annotation, **failure._asdict())
        stats.failed += 1
        return
    with transaction(engine) as session:
        stats.compared += feedback.save_comparison(session, worker, annotation, agreements, prompts)


def _compare(
    annotation: ClaimedAnnotation, objects: ObjectStore, *, preset: str
) -> tuple[list[LabelAgreement], dict[str, str]]:
    """Return each label's agreement with its prediction, and each label's prompts; nothing without a prediction.

    The prediction, too, is decoded from its regions, so that a region that was kept agrees to the pixel.
    """
    if annotation.predicted is None:
        return [], {}
    config = build_project_config(annotation.label_config, annotation.extra_params, preset=preset)
    stored = StoredMasks.from_document(json.loads(objects.get(annotation.predicted.masks_key)))
    draft = build_regions(config, stored, run_key=annotation.predicted.run_key)
    predicted = decode_annotation(draft.regions, stored.width, stored.height)
    annotated = decode_annotation(annotation.result, stored.width, stored.height)
    requested = {target.label for target in config.mapping.by_name.values()}
    annotated = AnnotationMasks(annotated.masks, annotated.choices & requested)

    scores: dict[str, float] = {}
    for mask in stored.masks:
        if (target := config.mapping.target_of(mask.label)) is not None:
            scores[target.label] = max(mask.score, scores.get(target.label, 0.0))
    prompts: dict[str, list[str]] = {}
    for label in Vocabulary.from_json(annotation.predicted.vocabulary).labels:
        if (target := config.mapping.target_of(label.name)) is not None:
            prompts.setdefault(target.label, []).append(label.text)
    return compare_annotations(predicted, annotated, scores), {
        label: " | ".join(texts)[:_MAX_PROMPT_LENGTH] for label, texts in prompts.items()
    }
