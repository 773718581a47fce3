"""Errors of the database and the object store. The root is car.errors.CarError.

CarError
├── SettingsInvalidError          an environment variable is missing or wrong
├── DatabaseError
│   ├── DatabaseUnreachableError  no server, a wrong password, no such database; retryable
│   │   └── DatabaseBusyError     a statement took too long, or two transactions conflicted
│   └── SchemaOutdatedError       the tables are older or newer than this code: car migrate
├── NotFoundError                 no job, result, vocabulary, recipe or key with this id
├── ConflictError                 an Idempotency-Key used with another request; a job that cannot be cancelled
├── CursorInvalidError            a cursor that this service did not create
└── ObjectStoreError
    ├── BucketMissingError        no such bucket
    ├── AccessDeniedError         the credentials are wrong or lack a permission
    ├── ObjectMissingError        no such key
    ├── ObjectTooLargeError       more bytes than allowed
    ├── StoreUnreachableError     no answer, a 5xx, throttling; retryable
    └── ServiceAccessError        nothing can be read until this service's access is repaired; retryable
        ├── CredentialsExpiredError  temporary credentials have expired
        └── ClockSkewedError      the clock of this machine is wrong
"""

from car.errors import CarError


class SettingsInvalidError(CarError):
    code = "settings_invalid"


class DatabaseError(CarError):
    code = "database_error"


class DatabaseUnreachableError(DatabaseError):
    code = "database_unreachable"
    retryable = True


class DatabaseBusyError(DatabaseUnreachableError):
    code = "database_busy"


class SchemaOutdatedError(DatabaseError):
    code = "schema_outdated"


class NotFoundError(CarError):
    code = "not_found"


class ConflictError(CarError):
    code = "conflict"


class CursorInvalidError(CarError):
    code = "cursor_invalid"


class ObjectStoreError(CarError):
    code = "object_store_error"


class BucketMissingError(ObjectStoreError):
    code = "bucket_missing"


class AccessDeniedError(ObjectStoreError):
    code = "access_denied"


class ObjectMissingError(ObjectStoreError):
    code = "object_missing"


class ObjectTooLargeError(ObjectStoreError):
    code = "object_too_large"


class StoreUnreachableError(ObjectStoreError):
    code = "store_unreachable"
    retryable = True


class ServiceAccessError(ObjectStoreError):
    code = "service_access"
    retryable = True


class CredentialsExpiredError(ServiceAccessError):
    code = "credentials_expired"


class ClockSkewedError(ServiceAccessError):
    code = "clock_skewed"
