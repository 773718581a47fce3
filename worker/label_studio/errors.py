"""What can go wrong with Label Studio's API. The root is car.errors.CarError.

LabelStudioError
├── LabelStudioUnreachable     no answer, or an answer of a server in trouble; nothing was changed by it; retryable
│   ├── LabelStudioBusy        429 or 503: `wait` seconds were asked for
│   └── OutcomeUncertain       a change was sent and its answer never came: it may have been made, or be made yet
├── NotLabelStudio             something answers that is no Label Studio, or a redirect to where it is
├── TokenRefused               the token is not known
│   ├── LegacyTokenRefused     legacy tokens are switched off in the organization
│   ├── TokenExpired           a personal access token past its day
│   └── TokenShortLived        an access token, which lives for minutes, where a personal one belongs
├── Forbidden                  the token's user may not do this
│   └── AddressBlocked         SSRF protection does not let Label Studio call the address
├── Missing                    what was asked for is not there
│   ├── ProjectMissing         no project of this number that the user sees
│   └── TaskMissing            the task was deleted
└── Rejected                   what was sent breaks a rule of Label Studio; `fields` says by field what it said
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
        """Seconds that the server asked for; 0: it did not say."""


class OutcomeUncertainError(LabelStudioUnreachableError):
    code = "outcome_uncertain"


class NotLabelStudioError(LabelStudioError):
    code = "label_studio_other"


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
