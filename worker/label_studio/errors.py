"""Errors of Label Studio's API.

LabelStudioError
├── LabelStudioUnreachableError   no answer, or a server error; nothing was changed; retryable
│   ├── LabelStudioBusyError      429 or 503; `wait` is its Retry-After in seconds
│   └── OutcomeUncertainError     a change was sent and not answered; it may have been made, or be made later
├── NotLabelStudioError           another server answers, or one that redirects
├── TokenRefusedError             the token is unknown
│   ├── LegacyTokenRefusedError   the organization has disabled legacy tokens
│   ├── TokenExpiredError         a personal access token has expired
│   └── TokenShortLivedError      a short-lived access token is configured instead of a personal one
├── ForbiddenError                the token's user lacks the permission
│   └── AddressBlockedError       Label Studio's SSRF protection blocks the address
├── NotFoundError
│   ├── ProjectNotFoundError      the user sees no such project
│   └── TaskNotFoundError         the task was deleted
└── RejectedError                 Label Studio's validation failed; `fields` holds its messages by field
"""

from collections.abc import Mapping
from typing import Any

from car.errors import CarError


class LabelStudioError(CarError):
    code = "label_studio_error"


class LabelStudioUnreachableError(LabelStudioError):
    code = "label_studio_unreachable"
    retryable = True


class LabelStudioBusyError(LabelStudioUnreachableError):
    code = "label_studio_busy"

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds, from Retry-After; 0 without one."""


class OutcomeUncertainError(LabelStudioUnreachableError):
    code = "outcome_uncertain"


class NotLabelStudioError(LabelStudioError):
    code = "not_label_studio"


class TokenRefusedError(LabelStudioError):
    code = "token_unknown"


class LegacyTokenRefusedError(TokenRefusedError):
    code = "token_legacy_disabled"


class TokenExpiredError(TokenRefusedError):
    code = "token_expired"


class TokenShortLivedError(TokenRefusedError):
    code = "token_short_lived"


class ForbiddenError(LabelStudioError):
    code = "label_studio_forbidden"


class AddressBlockedError(ForbiddenError):
    code = "backend_blocked"


class NotFoundError(LabelStudioError):
    code = "label_studio_missing"


class ProjectNotFoundError(NotFoundError):
    code = "project_missing"


class TaskNotFoundError(NotFoundError):
    code = "task_missing"


class RejectedError(LabelStudioError):
    code = "prediction_rejected"

    def __init__(self, message: str, fields: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.fields = fields
