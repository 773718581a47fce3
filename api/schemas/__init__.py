"""Requests and answers, as the OpenAPI document describes them."""

from api.schemas.common import Alive, Page, Problem, Ready, ResponseModel
from api.schemas.jobs import ErrorView, ItemEntry, JobRequest, JobView, LabelRequest, Retried
from api.schemas.keys import KeyCreated, KeyRequest, KeyView, WorkerView
from api.schemas.results import HistoryView, ResultDetailView, ResultSummary, RleView
from api.schemas.vocabularies import PresetView, RecipeView, VocabularyRequest, VocabularyView

__all__ = [
    "Alive",
    "ErrorView",
    "HistoryView",
    "ItemEntry",
    "JobRequest",
    "JobView",
    "KeyCreated",
    "KeyRequest",
    "KeyView",
    "LabelRequest",
    "Page",
    "PresetView",
    "Problem",
    "Ready",
    "RecipeView",
    "ResponseModel",
    "ResultDetailView",
    "ResultSummary",
    "Retried",
    "RleView",
    "VocabularyRequest",
    "VocabularyView",
    "WorkerView",
]
