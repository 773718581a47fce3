"""Where the programs of the engines are: in wheels, found without importing them."""

import re
from importlib import metadata
from pathlib import Path

from cli.errors import EngineMissing

_INSTALL = 'pip install "car-labeler[embedded]"'


def program(wheel: str, pattern: str) -> Path:
    """The file of the wheel whose path in it matches; of several, the one with the highest number in its path.

    Raises:
        EngineMissing: no such wheel here, or it holds no such file.

    """
    try:
        files = metadata.files(wheel) or []
    except metadata.PackageNotFoundError:
        raise EngineMissing(
            f"the wheel {wheel} is not installed; {_INSTALL}, or set DATABASE_URL, CELERY_BROKER_URL and S3_BUCKET "
            "to use servers of your own"
        ) from None
    matches = {
        _number(str(file)): Path(str(file.locate())).resolve() for file in files if re.search(pattern, str(file))
    }
    found = [matches[number] for number in sorted(matches, reverse=True) if matches[number].is_file()]
    if not found:
        raise EngineMissing(f"the wheel {wheel} does not hold {pattern} here; reinstall it: {_INSTALL}")
    return found[0]


def _number(path: str) -> int:
    return int("".join(re.findall(r"\d+", path.split("/")[-3] if path.count("/") > 1 else "")) or 0)
