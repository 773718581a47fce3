"""Requests and answers, as the OpenAPI document describes them."""

from api.schemas.common import LivenessResponse, Page, Problem, ReadinessResponse, ResponseModel
from api.schemas.jobs import ErrorView, ItemEntry, JobRequest, JobView, LabelRequest, RetryResponse
from api.schemas.keys import KeyCreated, KeyRequest, KeyView, WorkerView
from api.schemas.results import HistoryView, ResultDetailView, ResultSummary, RleView
from api.schemas.vocabularies import PresetView, RecipeView, VocabularyRequest, VocabularyView

__all__ = [
    "ErrorView",
    "HistoryView",
    "ItemEntry",
    "JobRequest",
    "JobView",
    "KeyCreated",
    "KeyRequest",
    "KeyView",
    "LabelRequest",
    "LivenessResponse",
    "Page",
    "PresetView",
    "Problem",
    "ReadinessResponse",
    "RecipeView",
    "ResponseModel",
    "ResultDetailView",
    "ResultSummary",
    "RetryResponse",
    "RleView",
    "VocabularyRequest",
    "VocabularyView",
    "WorkerView",
]
