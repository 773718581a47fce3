"""The folder of the embedded engines: its lock, and engines.json with their ports, passwords and keys."""

import fcntl
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from cli.errors import DataDirInUseError, DataDirUnusableError, EnginesNeverRanError

Notes = dict[str, Any]
"""What engines.json holds: a mapping for each engine, and for the API."""


class DataDir:
    """A data folder that only this process may use until `close`. It is created if it does not exist.

    Raises:
        DataDirUnusableError: it cannot be created or written.
        DataDirInUseError: another process uses it.

    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        try:
            # PostgreSQL may run as another user, who may enter the folder but not list it.
            self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
            for name in ("logs", "run", "redis", "s3"):
                (self.path / name).mkdir(mode=0o700, exist_ok=True)
            self._lock = (self.path / "lock").open("a+", encoding="ascii")
            (self.path / "run" / "writable").write_bytes(b"yes")  # a full disk is reported here, not in an engine's log
        except OSError as error:
            raise DataDirUnusableError(
                f"the data folder {self.path} cannot be written ({error.strerror}); give another with --data-dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataDirInUseError(self._in_use()) from None
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()

    def _in_use(self) -> str:
        self._lock.seek(0)
        holder = self._lock.read(20).strip()
        self._lock.close()
        return (
            f"another `car` runs its engines in {self.path} (process {holder or 'unknown'}); stop that one, or give "
            "another folder with --data-dir"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._lock.close()

    def notes(self) -> Notes:
        """Return the stored entries; none in a new folder."""
        try:
            return read_notes(self.path)
        except EnginesNeverRanError:
            return {}

    def note(self, **changes: Any) -> None:  # noqa: ANN401 - JSON
        """Add or replace entries. The file is replaced as a whole, so readers never see half of it."""
        written = self.path / "engines.json.new"
        written.unlink(missing_ok=True)
        written.touch(mode=0o600)
        written.write_text(json.dumps(self.notes() | changes, indent=2) + "\n", encoding="utf-8")
        written.replace(self.path / "engines.json")


def read_notes(path: Path) -> Notes:
    """Return engines.json of a folder, which another process may be using.

    Raises:
        EnginesNeverRanError: there is none.
        DataDirUnusableError: it cannot be read, or is damaged.

    """
    source = path.expanduser() / "engines.json"
    try:
        notes: Notes = json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EnginesNeverRanError(
            f"no engines ever ran in {path.expanduser().resolve()}; start them with `car up`, or name their folder "
            "with --data-dir"
        ) from None
    except OSError as error:
        raise DataDirUnusableError(f"{source} cannot be read ({error.strerror}); is it another user's?") from None
    except ValueError:
        raise DataDirUnusableError(
            f"{source} is damaged; restore it, or begin with another folder by --data-dir"
        ) from None
    return notes


def is_held(path: Path) -> bool:
    """Return whether a process uses the folder now."""
    with suppress(OSError), (path.expanduser() / "lock").open("rb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
