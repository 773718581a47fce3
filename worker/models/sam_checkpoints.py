"""The released SAM checkpoints: download them and find their conversions. This module opens none of them."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from huggingface_hub import constants

from worker.errors import WeightsInvalidError, WeightsMissingError

_RELEASES: Final = "https://dl.fbaipublicfiles.com/segment_anything"
_CHUNK_BYTES: Final = 1 << 20
_TIMEOUT_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Release:
    """A pickled checkpoint of SAM's authors, identified by its content."""

    architecture: str
    """vit_b, vit_l or vit_h."""
    url: str
    sha256: str


RELEASES: Final = {
    "sam-vit-b": Release(
        "vit_b", f"{_RELEASES}/sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"
    ),
    "sam-vit-l": Release(
        "vit_l", f"{_RELEASES}/sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"
    ),
    "sam-vit-h": Release(
        "vit_h", f"{_RELEASES}/sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"
    ),
}


def stream(url: str) -> Iterator[bytes]:
    """Yield a file of a web server in chunks. Raises: WeightsMissingError."""
    try:
        with httpx.stream("GET", url, follow_redirects=True, timeout=_TIMEOUT_SECONDS) as response:
            response.raise_for_status()
            yield from response.iter_bytes(_CHUNK_BYTES)
    except httpx.HTTPError as error:
        raise WeightsMissingError(f"{url} could not be downloaded: {error}") from error


def sam_cache() -> Path:
    """Return the folder of converted releases. It is in the hub's home, so that one volume holds every model."""
    return Path(constants.HF_HOME) / "car-labeler"


def cached_sam_folder(name: str) -> Path:
    """Return the folder of a release that was pulled and converted. Raises: WeightsMissingError."""
    folder = sam_cache() / name
    if not (folder / "model.safetensors").is_file():
        raise WeightsMissingError(f"{name!r} has not been pulled: run `car models pull {name}`")
    return folder


@contextmanager
def downloaded_release(
    name: str, read: Callable[[str], Iterator[bytes]] = stream, *, releases: dict[str, Release] = RELEASES
) -> Iterator[Path]:
    """Download a release's checkpoint to a file, check it, and delete it at the end of the context.

    Raises: WeightsMissingError, if it cannot be downloaded; WeightsInvalidError, if its sha256 is not the release's.
    """
    release = releases[name]
    folder = sam_cache()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.part"
    sha = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for chunk in read(release.url):
                sha.update(chunk)
                file.write(chunk)
        if sha.hexdigest() != release.sha256:
            raise WeightsInvalidError(f"{release.url} has sha256 {sha.hexdigest()}, not {release.sha256}")
        yield path
    finally:
        path.unlink(missing_ok=True)
