"""Errors of the command line. `car` prints the message of any CarError and exits with 2."""

from car.errors import CarError


class UsageError(CarError):
    """The options contradict each other or name something that does not exist; nothing was done."""


class OutputError(CarError):
    """A result could not be written."""


class BrokerUnreachableError(CarError):
    """No Redis answers at CELERY_BROKER_URL, or it refuses the password."""


class ProcessFailedError(CarError):
    """A process of `car up` keeps crashing; the message ends with the last lines of its log."""


class EngineError(CarError):
    """An embedded PostgreSQL, Redis or S3 server cannot be used."""


class DataDirUnusableError(EngineError):
    """The data folder cannot be created, read or written."""


class DataDirInUseError(EngineError):
    """Another `car up` uses the data folder."""


class EngineMissingError(EngineError):
    """The wheel with the engine's program is not installed."""


class EngineFailedError(EngineError):
    """The engine did not start or does not answer; the message ends with the last lines of its log."""


class EnginesNeverRanError(EngineError):
    """The data folder holds nothing yet."""


class ApiUnreachableError(CarError):
    """Nothing answers, or not in time."""

    retryable = True


class ApiRefusedError(CarError):
    """The API refused a request with HTTP `status`; `problem` is the error code of its answer."""

    def __init__(self, message: str, *, status: int, problem: str = "error") -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem

    def __str__(self) -> str:
        message = super().__str__()
        return message if self.problem == "error" else f"{message} ({self.problem})"


class ApiBusyError(ApiRefusedError):
    """The API cannot answer now: rate limit, overload, or a proxy whose server is down."""

    retryable = True
