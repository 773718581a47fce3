"""What annotators say: each annotation is kept until an io worker has compared it with the prediction that they saw.

record ──> pending ──claim──> pending, leased ──save_comparison──> done      one row of feedback a label
  ^                             │  └──fail─────> failed, or pending again after a wait
  └──(changed: recorded again)──┴─────────────────────────────────── done
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from car.label_studio.agreement import LabelAgreement
from db import leases, models
from db.leases import storable
from db.models import Outcome

MAX_ATTEMPTS = 6
"""Claims after which an annotation is given up: it cannot be compared, or ends its workers."""

ANNOTATIONS = leases.LeasedTable(
    name="annotation",
    due="state = 'pending'",
    held="state = 'pending'",
    may_retry=f"attempt < {MAX_ATTEMPTS}",
    on_failure="state = CASE WHEN {again} THEN 'pending' ELSE 'failed' END, error_code = mine.code, "
    "error_detail = mine.detail",
)


@dataclass(frozen=True, slots=True)
class SentPrediction:
    """The prediction that was in Label Studio when the annotation came."""

    model_version: str
    result_id: UUID
    run_key: str
    masks_key: str
    vocabulary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ClaimedAnnotation:
    """An annotation that is this worker's to compare until its lease expires."""

    id: int
    attempt: int
    result: list[dict[str, Any]]
    label_config: str
    extra_params: dict[str, Any]
    predicted: SentPrediction | None
    """None: nobody predicted anything for its task."""


@dataclass(frozen=True, slots=True)
class LabelFeedback:
    """What annotators made of one label, asked for in one way."""

    label: str
    prompts: str
    outcomes: dict[Outcome, int]
    acceptance: float | None
    """Share of our masks that were kept; none where we had none."""
    mean_iou: float | None
    """Of our masks with those that were kept or changed."""


# A NUL in JSON text, after an even number of backslashes: Postgres holds none.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")

_RECORD = text(f"""
    INSERT INTO annotation AS known (project_id, ls_task_id, ls_annotation_id, result)
    VALUES (:project, :task, :annotation, CAST(:result AS jsonb))
    ON CONFLICT (project_id, ls_annotation_id) DO UPDATE
    SET ls_task_id = excluded.ls_task_id, result = excluded.result, state = 'pending', attempt = 0,
        {leases.RESET}, error_code = NULL, error_detail = NULL, seen_at = now()
""")  # noqa: S608 - made of its own constants

_GIVE_UP = """
    state = 'failed', error_code = coalesce(error_code, 'lost_worker'),
    error_detail = coalesce(error_detail, 'workers died while they compared it')
"""

_CLAIM = leases.claim_statement(ANNOTATIONS, leases.choose(ANNOTATIONS, "available_at, id"), "annotation.id")

# What went out after the person had drawn was not seen by them.
_CLAIMED = text("""
    SELECT annotation.id, annotation.attempt, annotation.result, project.label_config, project.extra_params,
        prediction.model_version, prediction.result_id, result.run_key, result.masks_key,
        vocabulary.document AS vocabulary
    FROM annotation
    JOIN project ON project.id = annotation.project_id
    LEFT JOIN LATERAL (
        SELECT model_version, result_id FROM prediction
        WHERE instance = project.instance AND ls_project_id = project.ls_project_id
            AND ls_task_id = annotation.ls_task_id
            AND state = 'sent' AND sent_at <= annotation.seen_at
        ORDER BY sent_at DESC, id DESC LIMIT 1
    ) AS prediction ON true
    LEFT JOIN result ON result.id = prediction.result_id
    LEFT JOIN vocabulary ON vocabulary.id = result.vocabulary_id
    WHERE annotation.id = ANY(CAST(:ids AS bigint[])) ORDER BY annotation.id
""")

_INSERT = text("""
    INSERT INTO feedback (annotation_id, label, prompts, model_version, result_id, outcome, iou, score)
    SELECT :annotation, said.label, said.prompts, :model_version, :result, said.outcome, said.iou, said.score
    FROM jsonb_to_recordset(CAST(:said AS jsonb))
        AS said(label text, prompts text, outcome text, iou double precision, score double precision)
""")

_REPORT = text("""
    SELECT feedback.label, feedback.prompts, feedback.outcome, count(*) AS number, sum(feedback.iou) AS iou,
        count(feedback.iou) AS compared
    FROM feedback JOIN annotation ON annotation.id = feedback.annotation_id
    WHERE annotation.project_id = :project
    GROUP BY feedback.label, feedback.prompts, feedback.outcome
    ORDER BY feedback.label, feedback.prompts, feedback.outcome
""")


def record(
    session: Session, project: models.Project, task: int, annotation: int, result: Sequence[Mapping[str, Any]]
) -> None:
    """Keep an annotation, new or changed, to be compared. Recorded twice, it is compared twice, with one outcome."""
    document = _NUL.sub(r"\1", json.dumps(list(result)))
    session.execute(_RECORD, {"project": project.id, "task": task, "annotation": annotation, "result": document})


def forget(session: Session, project: models.Project, annotations: Collection[int]) -> int:
    """Annotations that were deleted in Label Studio, and what they said. How many were known."""
    gone = session.scalars(
        text(
            "DELETE FROM annotation WHERE project_id = :project "
            "AND ls_annotation_id = ANY(CAST(:annotations AS bigint[])) RETURNING id"
        ),
        {"project": project.id, "annotations": sorted(annotations)},
    )
    return len(gone.all())


def claim(session: Session, worker: str, *, limit: int, lease: timedelta) -> list[ClaimedAnnotation]:
    """Claim annotations that wait, the oldest first. Those that ended their workers too often are given up before."""
    leases.reclaim(session, ANNOTATIONS, _GIVE_UP, "id", where="attempt >= :most", most=MAX_ATTEMPTS)
    ids = [row.id for row in leases.claim(session, _CLAIM, worker, lease, limit=limit)]
    return [_claimed(row) for row in session.execute(_CLAIMED, {"ids": ids})] if ids else []


def save_comparison(
    session: Session,
    worker: str,
    one: ClaimedAnnotation,
    opinions: Sequence[LabelAgreement],
    prompts: Mapping[str, str],
) -> bool:
    """What it says; its regions are not needed any more. False where it is not this worker's any more: changed, or
    deleted, or taken over after its lease.
    """
    change = f"state = 'done', result = '[]', error_code = NULL, error_detail = NULL, {leases.LET_GO}"
    if not leases.change_owned(session, ANNOTATIONS, worker, [one], change):
        return False
    session.execute(text("DELETE FROM feedback WHERE annotation_id = :id"), {"id": one.id})
    if one.predicted is not None and opinions:
        said = [
            {
                "label": storable(opinion.label),
                "prompts": storable(prompts.get(opinion.label, opinion.label)),
                "outcome": opinion.outcome,
                "iou": opinion.iou,
                "score": opinion.score,
            }
            for opinion in opinions
        ]
        given = {"model_version": one.predicted.model_version, "result": one.predicted.result_id}
        session.execute(_INSERT, {"annotation": one.id, "said": json.dumps(said)} | given)
    return True


def fail(session: Session, worker: str, one: ClaimedAnnotation, *, code: str, detail: str, retryable: bool) -> bool:
    """It cannot be compared: now, where that may pass by itself, and a few times; else for good."""
    ours = leases.fail(session, ANNOTATIONS, worker, [one], codes=[code], details=[detail], retryable=[retryable])
    return bool(ours)


def release(session: Session, worker: str, claimed: Collection[ClaimedAnnotation]) -> None:
    """Leave them to another worker, as if never claimed."""
    leases.release(session, ANNOTATIONS, worker, claimed)


def waiting(session: Session) -> bool:
    """Whether a worker would find an annotation to compare."""
    return leases.has_available(session, ANNOTATIONS)


def report(session: Session, project: models.Project) -> list[LabelFeedback]:
    """By label and the prompts that it was asked with."""
    found: dict[tuple[str, str], dict[Outcome, int]] = {}
    overlaps: dict[tuple[str, str], list[float]] = {}
    for row in session.execute(_REPORT, {"project": project.id}):
        key = (row.label, row.prompts)
        found.setdefault(key, {})[Outcome(row.outcome)] = row.number
        sums = overlaps.setdefault(key, [0.0, 0.0])
        sums[0] += row.iou or 0.0
        sums[1] += row.compared
    return [
        LabelFeedback(label, prompts, outcomes, _acceptance(outcomes), total / number if number else None)
        for (label, prompts), outcomes in found.items()
        for total, number in [overlaps[label, prompts]]
    ]


def _acceptance(outcomes: Mapping[Outcome, int]) -> float | None:
    ours = sum(outcomes.get(one, 0) for one in (Outcome.ACCEPTED, Outcome.CHANGED, Outcome.REJECTED))
    return outcomes.get(Outcome.ACCEPTED, 0) / ours if ours else None


def _claimed(row: Any) -> ClaimedAnnotation:  # noqa: ANN401 - a row
    predicted = None
    if row.result_id is not None:
        predicted = SentPrediction(row.model_version, row.result_id, row.run_key, row.masks_key, row.vocabulary)
    return ClaimedAnnotation(row.id, row.attempt, row.result, row.label_config, row.extra_params, predicted)
