"""Addresses and keys of the service: those of the environment, or else of the `car up` of a data folder."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cli.errors import EnginesNeverRanError, UsageError
from cli.options import DATA_DIR, car_command
from cli.service.api_client import ApiAddress

if TYPE_CHECKING:
    from car.object_store import ObjectStore

_USUAL_API = "http://127.0.0.1:9090"
_S3 = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "S3_BUCKET")


def api_address(data_dir: Path) -> ApiAddress:
    """Return CAR_API_URL and CAR_API_KEY, or those of the folder, or the default URL on this machine."""
    key = os.environ.get("CAR_API_KEY") or None
    if url := os.environ.get("CAR_API_URL"):
        return ApiAddress(url, key)
    noted = _recorded(data_dir)
    return ApiAddress(noted.get("CAR_API_URL", _USUAL_API), key or noted.get("CAR_API_KEY"))


def database_url(data_dir: Path) -> str:
    """Raises: UsageError, if neither names a database."""
    url = os.environ.get("DATABASE_URL") or _recorded(data_dir).get("DATABASE_URL")
    if not url:
        raise UsageError(
            f"no database is known: start `{car_command()} up` (data folder {data_dir}), or set DATABASE_URL"
        )
    return url


def object_store(data_dir: Path) -> "ObjectStore":
    """Return the service's bucket, with keys as they are. Raises: UsageError, if neither names a bucket."""
    from db.objects import S3ObjectStore, make_client
    from db.settings import EngineSettings

    noted = {} if os.environ.get("S3_BUCKET") else {n: v for n, v in _recorded(data_dir).items() if n in _S3}
    if not noted and not os.environ.get("S3_BUCKET"):
        raise UsageError(
            f"no bucket is known: start `{car_command()} up` (data folder {data_dir}), or set S3_BUCKET and AWS_*"
        )
    # Only objects are needed; a client of the API need not know the database.
    unused = {"DATABASE_URL": "postgresql://", "CELERY_BROKER_URL": "redis://"}
    settings = EngineSettings.from_environment(**unused, **noted)
    return S3ObjectStore(make_client(settings), settings.s3_bucket)


def variables(data_dir: Path) -> dict[str, str]:
    """Return the environment's variables, completed by those that `car env` prints for the folder."""
    return {**_recorded(data_dir), **{name: value for name, value in os.environ.items() if value}}


def _recorded(data_dir: Path) -> Mapping[str, str]:
    """Return what `car env` prints for the folder; nothing if no engines ever ran there.

    Raises:
        UsageError: a folder other than the default was named, it does not exist, and CAR_API_URL is not set.

    """
    from cli.embedded.data_dir import read_notes

    is_needed = data_dir != DATA_DIR and not os.environ.get("CAR_API_URL")
    if is_needed and not data_dir.expanduser().is_dir():
        raise UsageError(
            f"the data folder {data_dir.expanduser().absolute()} does not exist; give the one of `{car_command()} up` "
            "with --data-dir or CAR_DATA_DIR"
        )
    try:
        notes = read_notes(data_dir)
    except EnginesNeverRanError:
        return {}
    return {**notes.get("environment", {}), **notes.get("api", {})}
