"""Annotations against our predictions: what people kept, changed, took away and missed."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.label_studio.agreement import LabelAgreement, compare_annotations
from car.label_studio.annotation_masks import AnnotationMasks, decode_annotation
from car.label_studio.prediction import build_regions
from car.label_studio.project_config import ProjectConfig, build_project_config
from car.stored_masks import StoredMasks
from car.vocabulary import Vocabulary
from db.label_studio import feedback
from db.label_studio.feedback import ClaimedAnnotation, SentPrediction
from db.session import transaction

LEASE = timedelta(seconds=120)
_AT_ONCE = 4
"""An annotation may hold megabytes of brushes."""
_MOST_PROMPTS = 500
"""Characters of a label's prompts."""


class Readable(Protocol):
    """The part of db.objects.ObjectStore that comparing uses."""

    def get(self, key: str) -> bytes: ...


@dataclass
class FeedbackStats:
    """What one call did."""

    compared: int = 0
    failed: int = 0
    has_more: bool = False
    """It ended before its work did."""


def process_annotations(
    engine: Engine,
    objects: Readable,
    worker: str,
    *,
    preset: str,
    stop: Callable[[], bool] = lambda: False,
    seconds: float = float("inf"),
) -> FeedbackStats:
    """Compare what waits, for about so long. `preset` is the one of projects that name none."""
    done, deadline = FeedbackStats(), time.monotonic() + seconds
    while True:
        with transaction(engine) as session:
            held = feedback.claim(session, worker, limit=_AT_ONCE, lease=LEASE)
        if not held:
            return done
        while held:
            if stop() or time.monotonic() > deadline:
                with transaction(engine) as session:
                    feedback.release(session, worker, held)
                done.has_more = True
                return done
            _compare(engine, objects, worker, held.pop(0), preset, done)


def _compare(
    engine: Engine, objects: Readable, worker: str, one: ClaimedAnnotation, preset: str, done: FeedbackStats
) -> None:
    try:
        said, prompts = agreements_of(one, objects, preset=preset) if one.predicted else ([], {})
    except CarError as error:
        _fail(engine, worker, one, error.code, str(error), retryable=error.retryable)
        done.failed += 1
        return
    except Exception as error:  # noqa: BLE001 - the edge: what breaks this code must not be compared for ever
        structlog.get_logger().exception("annotation_not_compared", annotation=one.id)
        _fail(engine, worker, one, "internal", f"{type(error).__name__}: {error}", retryable=False)
        done.failed += 1
        return
    with transaction(engine) as session:
        done.compared += feedback.save_comparison(session, worker, one, said, prompts)


def agreements_of(
    one: ClaimedAnnotation, objects: Readable, *, preset: str
) -> tuple[list[LabelAgreement], dict[str, str]]:
    """What the annotation says about our prediction, and each label's prompts. Both sides are read from regions: what
    was kept as it is agrees to the pixel, whatever its shape.
    """
    if one.predicted is None:
        return [], {}
    plan = build_project_config(one.label_config, one.extra_params, preset=preset)
    found = StoredMasks.from_document(json.loads(objects.get(one.predicted.masks_key)))
    made = build_regions(plan, found, run_key=one.predicted.run_key)
    ours = decode_annotation(made.regions, found.width, found.height)
    theirs = decode_annotation(one.result, found.width, found.height)
    asked = {place.label for place in plan.mapping.by_name.values()}
    theirs = AnnotationMasks(theirs.masks, theirs.choices & asked)
    return compare_annotations(ours, theirs, _scores(plan, found)), _prompts(plan, one.predicted)


def _scores(plan: ProjectConfig, found: StoredMasks) -> dict[str, float]:
    scores: dict[str, float] = {}
    for mask in found.masks:
        place = plan.mapping.target_of(mask.label)
        if place is not None:
            scores[place.label] = max(mask.score, scores.get(place.label, 0.0))
    return scores


def _prompts(plan: ProjectConfig, predicted: SentPrediction) -> dict[str, str]:
    """As CLIP read each label then."""
    prompts: dict[str, list[str]] = {}
    for label in Vocabulary.from_json(predicted.vocabulary).labels:
        place = plan.mapping.target_of(label.name)
        if place is not None:
            prompts.setdefault(place.label, []).append(label.text)
    return {label: " | ".join(texts)[:_MOST_PROMPTS] for label, texts in prompts.items()}


def _fail(engine: Engine, worker: str, one: ClaimedAnnotation, code: str, detail: str, *, retryable: bool) -> None:
    with transaction(engine) as session:
        feedback.fail(session, worker, one, code=code, detail=detail, retryable=retryable)
