"""The rows, and what they mean. States move in the other files of db/ alone.

    vocabulary ─┐                     ┌─ query_step  one row per label and step: the query history
    recipe ─────┼─ job ── item ── result ── mask
    image ──────┘           └──────────┴─ prediction  the outbox to Label Studio

A result belongs to (image content, vocabulary, recipe, weights, code); any number of items point to it. Masks are
objects in S3; the rows hold what questions are asked about.
"""

from car.label_studio.agreement import Outcome
from db.models.access import ApiKey
from db.models.base import Base
from db.models.label_studio import (
    Annotation,
    AnnotationState,
    Feedback,
    Prediction,
    PredictionState,
    Project,
    Task,
)
from db.models.results import Image, Mask, QueryStep, Reservation, Result
from db.models.work import (
    PRIORITY_ORDER,
    Item,
    ItemState,
    Job,
    JobKind,
    Priority,
    Recipe,
    Vocabulary,
    VocabularyVersion,
)
from db.models.workers import Worker, WorkerModel

__all__ = [
    "PRIORITY_ORDER",
    "Annotation",
    "AnnotationState",
    "ApiKey",
    "Base",
    "Feedback",
    "Image",
    "Item",
    "ItemState",
    "Job",
    "JobKind",
    "Mask",
    "Outcome",
    "Prediction",
    "PredictionState",
    "Priority",
    "Project",
    "QueryStep",
    "Recipe",
    "Reservation",
    "Result",
    "Task",
    "Vocabulary",
    "VocabularyVersion",
    "Worker",
    "WorkerModel",
]
