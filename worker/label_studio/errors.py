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


class LabelStudioUnreachable(LabelStudioError):  # noqa: N818 - the name is the sentence
    code = "label_studio_unreachable"
    retryable = True


class LabelStudioBusy(LabelStudioUnreachable):
    code = "label_studio_busy"

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds that the server asked for; 0: it did not say."""


class OutcomeUncertain(LabelStudioUnreachable):
    code = "outcome_uncertain"


class NotLabelStudio(LabelStudioError):  # noqa: N818
    code = "label_studio_other"


class TokenRefused(LabelStudioError):  # noqa: N818
    code = "token_unknown"


class LegacyTokenRefused(TokenRefused):
    code = "token_legacy_disabled"


class TokenExpired(TokenRefused):
    code = "token_expired"


class TokenShortLived(TokenRefused):
    code = "token_short_lived"


class Forbidden(LabelStudioError):  # noqa: N818
    code = "label_studio_forbidden"


class AddressBlocked(Forbidden):
    code = "backend_blocked"


class Missing(LabelStudioError):  # noqa: N818
    code = "label_studio_missing"


class ProjectMissing(Missing):
    code = "project_missing"


class TaskMissing(Missing):
    code = "task_missing"


class Rejected(LabelStudioError):  # noqa: N818
    code = "prediction_rejected"

    def __init__(self, message: str, fields: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.fields = fields
