"""Feedback of annotators: annotations wait until an io worker has compared them with the prediction they started from.

record ──> pending ──claim──> pending, leased ──save_comparison──> done      one feedback row for each label
  ^                             │  └──fail─────> failed, or pending again after a wait
  └──(changed: recorded again)──┴─────────────────────────────────── done
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import delete, text
from sqlalchemy.orm import Session

from car.label_studio.agreement import LabelAgreement
from db import leases, models
from db.leases import storable
from db.models import Outcome

MAX_ATTEMPTS = 6
"""Claims after which an annotation has failed: it cannot be compared, or it kills its workers."""

ANNOTATIONS = leases.LeasedTable(
    name="annotation",
    due="state = 'pending'",
    held="state = 'pending'",
    may_retry=f"attempt < {MAX_ATTEMPTS}",
    on_failure="state = CASE WHEN {again} THEN 'pending' ELSE 'failed' END, error_code = owned.code, "
    "error_detail = owned.detail",
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
    """An annotation that this worker compares before its lease expires."""

    id: int
    attempt: int
    result: list[dict[str, Any]]
    label_config: str
    extra_params: dict[str, Any]
    predicted: SentPrediction | None
    """None: its task had no prediction."""


@dataclass(frozen=True, slots=True)
class LabelFeedback:
    """How annotators corrected one label with one set of prompts."""

    label: str
    prompts: str
    outcomes: dict[Outcome, int]
    acceptance: float | None
    """Share of our masks that were accepted; None without masks of ours."""
    mean_iou: float | None
    """Of our masks with the annotators'."""


# A NUL in JSON text, after an even number of backslashes; Postgres cannot store it.
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
    error_detail = coalesce(error_detail, 'its workers died during the comparison')
"""

_CLAIM = leases.claim_statement(ANNOTATIONS, leases.choose(ANNOTATIONS, "available_at, id"), "annotation.id")

# The annotator did not see what was sent after the annotation.
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
    SELECT :annotation, compared.label, prompts, :model_version, :result, outcome, iou, score
    FROM jsonb_to_recordset(CAST(:agreements AS jsonb))
        AS compared(label text, prompts text, outcome text, iou double precision, score double precision)
""")

_REPORT = text("""
    SELECT feedback.label, feedback.prompts, feedback.outcome, count(*) AS number, sum(feedback.iou) AS iou,
        count(feedback.iou) AS compared
    FROM feedback JOIN annotation ON annotation.id = feedback.annotation_id
    WHERE annotation.project_id = :project
    GROUP BY feedback.label, feedback.prompts, feedback.outcome
    ORDER BY feedback.label, feedback.prompts, feedback.outcome
""")


release = partial(leases.release, table=ANNOTATIONS)
waiting = partial(leases.has_available, table=ANNOTATIONS)


def record(
    session: Session, project: models.Project, task: int, annotation: int, result: Sequence[Mapping[str, Any]]
) -> None:
    """Store a new or changed annotation for comparison. Recorded twice, it is compared twice, with one outcome."""
    document = _NUL.sub(r"\1", json.dumps(list(result)))
    session.execute(_RECORD, {"project": project.id, "task": task, "annotation": annotation, "result": document})


def forget(session: Session, project: models.Project, annotations: Collection[int]) -> int:
    """Delete annotations that were deleted in Label Studio, and their feedback; return how many were known."""
    annotation = models.Annotation
    known = delete(annotation).where(
        annotation.project_id == project.id, annotation.ls_annotation_id.in_(sorted(annotations))
    )
    return len(session.execute(known.returning(annotation.id)).all())


def claim(session: Session, worker: str, *, limit: int, lease: timedelta) -> list[ClaimedAnnotation]:
    """Claim pending annotations, the oldest first; those that killed their workers too often fail instead."""
    leases.reclaim(session, ANNOTATIONS, _GIVE_UP, "id", where="attempt >= :most", most=MAX_ATTEMPTS)
    ids = [row.id for row in leases.claim(session, _CLAIM, worker, lease, limit=limit)]
    return [_claimed(row) for row in session.execute(_CLAIMED, {"ids": ids})] if ids else []


def save_comparison(
    session: Session,
    worker: str,
    annotation: ClaimedAnnotation,
    agreements: Sequence[LabelAgreement],
    prompts: Mapping[str, str],
) -> bool:
    """Store the comparison and drop the annotation's regions. False: this worker lost it, because it was changed,
    deleted, or claimed again after its lease.
    """
    change = f"state = 'done', result = '[]', error_code = NULL, error_detail = NULL, {leases.LET_GO}"
    if not leases.change_owned(session, ANNOTATIONS, worker, [annotation], change):
        return False
    session.execute(delete(models.Feedback).where(models.Feedback.annotation_id == annotation.id))
    if annotation.predicted is not None and agreements:
        rows = [
            {
                "label": storable(each.label),
                "prompts": storable(prompts.get(each.label, each.label)),
                "outcome": each.outcome,
                "iou": each.iou,
                "score": each.score,
            }
            for each in agreements
        ]
        values = {"model_version": annotation.predicted.model_version, "result": annotation.predicted.result_id}
        session.execute(_INSERT, {"annotation": annotation.id, "agreements": json.dumps(rows)} | values)
    return True


def fail(
    session: Session, worker: str, annotation: ClaimedAnnotation, *, code: str, detail: str, retryable: bool
) -> bool:
    """Record why it cannot be compared; a retryable error is retried a few times. False: this worker lost it."""
    return bool(leases.fail(session, ANNOTATIONS, worker, [(annotation, code, detail, retryable)]))


def report(session: Session, project: models.Project) -> list[LabelFeedback]:
    """Return the feedback of a project by label and prompts."""
    reports = []
    for (label, prompts), group in groupby(session.execute(_REPORT, {"project": project.id}), lambda row: row[:2]):
        rows = list(group)
        outcomes = {Outcome(row.outcome): row.number for row in rows}
        masks = sum(outcomes.get(outcome, 0) for outcome in (Outcome.ACCEPTED, Outcome.CHANGED, Outcome.REJECTED))
        acceptance = outcomes.get(Outcome.ACCEPTED, 0) / masks if masks else None
        compared = sum(row.compared for row in rows)
        mean_iou = sum(row.iou or 0.0 for row in rows) / compared if compared else None
        reports.append(LabelFeedback(label, prompts, outcomes, acceptance, mean_iou))
    return reports


def _claimed(row: Any) -> ClaimedAnnotation:  # noqa: ANN401 - a row
    predicted = None
    if row.result_id is not None:
        predicted = SentPrediction(row.model_version, row.result_id, row.run_key, row.masks_key, row.vocabulary)
    return ClaimedAnnotation(row.id, row.attempt, row.result, row.label_config, row.extra_params, predicted)
