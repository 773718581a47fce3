"""The released SAM checkpoints: what they are, and where they lie once fetched and converted. Opens none of them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import httpx
from huggingface_hub import constants

from worker.errors import WeightsInvalidError, WeightsMissingError

_RELEASES: Final = "https://dl.fbaipublicfiles.com/segment_anything"
_READ: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Release:
    """A pickled checkpoint of the authors, known by its content alone."""

    sizes: str
    """vit_b, vit_l or vit_h."""
    url: str
    sha256: str


RELEASES: Final = {
    "sam-vit-b": Release(
        "vit_b",
        f"{_RELEASES}/sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "sam-vit-l": Release(
        "vit_l",
        f"{_RELEASES}/sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam-vit-h": Release(
        "vit_h",
        f"{_RELEASES}/sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}


class Source(Protocol):
    """Where releases are fetched from."""

    def read(self, url: str) -> Iterator[bytes]:
        """Raises: WeightsMissing, where it cannot be reached."""


class Web:
    """The authors' server, or a mirror that answers in its place: content decides."""

    def read(self, url: str) -> Iterator[bytes]:
        try:
            with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_SECONDS) as answer:
                answer.raise_for_status()
                yield from answer.iter_bytes(_READ)
        except httpx.HTTPError as error:
            raise WeightsMissingError(f"{url} could not be fetched: {error}") from error


def store() -> Path:
    """Beside the hub's cache, so that one volume holds every model."""
    return Path(constants.HF_HOME) / "car-labeler"


def pulled_sam(name: str) -> Path:
    """The folder of a release that was pulled and converted.

    Raises:
        WeightsMissing: it was not; the message has the command that fetches it.

    """
    folder = store() / name
    if not (folder / "model.safetensors").is_file():
        raise WeightsMissingError(f"{name!r} was never pulled: run `car models pull {name}`")
    return folder


@contextmanager
def fetched(name: str, source: Source | None = None, *, releases: dict[str, Release] = RELEASES) -> Iterator[Path]:
    """The release's checkpoint as a file, as long as the context lasts.

    Raises:
        WeightsMissing: it is out of reach.
        WeightsInvalid: what came is not what was released.

    """
    release = releases[name]
    folder = store()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.part"
    sha = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for chunk in (source or Web()).read(release.url):
                sha.update(chunk)
                file.write(chunk)
        if sha.hexdigest() != release.sha256:
            raise WeightsInvalidError(f"{release.url} gave a file of sha256 {sha.hexdigest()}, not {release.sha256}")
        yield path
    finally:
        path.unlink(missing_ok=True)
