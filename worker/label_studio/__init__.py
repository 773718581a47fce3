"""Label Studio's API from our side: both kinds of token, typed errors, and certainty about what a POST has done."""

from worker.label_studio.client import LabelStudio, Project, StoredPrediction, TaskPage
from worker.label_studio.errors import LabelStudioError
from worker.label_studio.tokens import TokenKind

__all__ = ["LabelStudio", "LabelStudioError", "Project", "StoredPrediction", "TaskPage", "TokenKind"]
