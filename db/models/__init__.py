"""The tables. Only the other modules of db change the state of their rows.

    vocabulary ─┐                     ┌─ query_step  one row for each label and step: the query history
    recipe ─────┼─ job ── item ── result ── mask
    image ──────┘           └──────────┴─ prediction  the outbox to Label Studio

A result belongs to (image content, vocabulary, recipe, weights, code); any number of items refer to it. Masks are
objects in S3; the rows have what queries need.
"""

from car.label_studio.agreement import Outcome as Outcome
from db.models.base import Base as Base
from db.models.label_studio import Annotation as Annotation
from db.models.label_studio import AnnotationState as AnnotationState
from db.models.label_studio import Feedback as Feedback
from db.models.label_studio import Prediction as Prediction
from db.models.label_studio import PredictionState as PredictionState
from db.models.label_studio import Project as Project
from db.models.label_studio import Task as Task
from db.models.results import Image as Image
from db.models.results import Mask as Mask
from db.models.results import QueryStep as QueryStep
from db.models.results import Reservation as Reservation
from db.models.results import Result as Result
from db.models.work import PRIORITY_ORDER as PRIORITY_ORDER
from db.models.work import Item as Item
from db.models.work import ItemState as ItemState
from db.models.work import Job as Job
from db.models.work import JobKind as JobKind
from db.models.work import Priority as Priority
from db.models.work import Recipe as Recipe
from db.models.work import Vocabulary as Vocabulary
from db.models.work import VocabularyVersion as VocabularyVersion
from db.models.workers import ApiKey as ApiKey
from db.models.workers import WeightsCard as WeightsCard
from db.models.workers import Worker as Worker
from db.models.workers import WorkerModel as WorkerModel
