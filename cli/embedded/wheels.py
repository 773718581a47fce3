"""Find the programs of the engines in their wheels, without importing them."""

import re
from importlib import metadata
from pathlib import Path

from cli.errors import EngineMissingError

_INSTALL = 'pip install "car-labeler[embedded]"'


def files_of(wheel: str) -> dict[str, Path]:
    """Return the files of an installed wheel, by their path in it.

    Raises:
        EngineMissingError: the wheel is not installed.

    """
    try:
        files = metadata.files(wheel) or []
    except metadata.PackageNotFoundError:
        raise EngineMissingError(
            f"the wheel {wheel} is not installed; {_INSTALL}, or set DATABASE_URL, CELERY_BROKER_URL and S3_BUCKET "
            "to use servers of your own"
        ) from None
    return {str(file): Path(str(file.locate())).resolve() for file in files}


def program(wheel: str, pattern: str) -> Path:
    """Return the file of the wheel whose path matches; of several, the one with the highest number in its path.

    Raises:
        EngineMissingError: the wheel is not installed, or has no such file.

    """
    matches = {_number(name): path for name, path in files_of(wheel).items() if re.search(pattern, name)}
    found = [matches[number] for number in sorted(matches, reverse=True) if matches[number].is_file()]
    if not found:
        raise EngineMissingError(f"the wheel {wheel} does not hold {pattern} here; reinstall it: {_INSTALL}")
    return found[0]


def _number(path: str) -> int:
    return int("".join(re.findall(r"\d+", path.split("/")[-3] if path.count("/") > 1 else "")) or 0)
