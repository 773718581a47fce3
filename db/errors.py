"""Errors of rows and objects. The root is car.errors.CarError.

CarError
├── SettingsInvalid            an environment variable is missing or wrong
├── DatabaseError
│   ├── DatabaseUnreachable    no server, a wrong password, no such database; retryable
│   │   └── DatabaseBusy       a statement or a connection took too long, or two transactions stood in each other's way
│   └── SchemaOutdated         the tables are older or newer than this code: car migrate
├── NotFound                   no job, result, vocabulary, recipe or key of this id
├── Conflict                   an Idempotency-Key used with another request; a job that cannot be cancelled or retried
├── CursorInvalid              a cursor that this service did not give out
└── ObjectStoreError
    ├── UriInvalid             not s3://bucket/key
    ├── BucketMissing          no such bucket
    ├── AccessDenied           the credentials may not do this, or are wrong
    ├── ObjectMissing          no such key
    ├── ObjectTooLarge         more bytes than allowed
    └── StoreUnreachable       no answer, a 5xx, throttling; retryable
"""

from car.errors import CarError


class SettingsInvalid(CarError):  # noqa: N818 - the name is the sentence
    code = "settings_invalid"


class DatabaseError(CarError):
    code = "database_error"


class DatabaseUnreachable(DatabaseError):  # noqa: N818
    code = "database_unreachable"
    retryable = True


class DatabaseBusy(DatabaseUnreachable):
    code = "database_busy"


class SchemaOutdated(DatabaseError):  # noqa: N818
    code = "schema_outdated"


class NotFound(CarError):  # noqa: N818
    code = "not_found"


class Conflict(CarError):  # noqa: N818
    code = "conflict"


class CursorInvalid(CarError):  # noqa: N818
    code = "cursor_invalid"


class ObjectStoreError(CarError):
    code = "object_store_error"


class UriInvalid(ObjectStoreError):  # noqa: N818
    code = "uri_invalid"


class BucketMissing(ObjectStoreError):  # noqa: N818
    code = "bucket_missing"


class AccessDenied(ObjectStoreError):  # noqa: N818
    code = "access_denied"


class ObjectMissing(ObjectStoreError):  # noqa: N818
    code = "object_missing"


class ObjectTooLarge(ObjectStoreError):  # noqa: N818
    code = "object_too_large"


class StoreUnreachable(ObjectStoreError):  # noqa: N818
    code = "store_unreachable"
    retryable = True
