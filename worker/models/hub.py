"""Models of the Hugging Face hub: fetching them into its local cache and finding them there. Opens none of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from huggingface_hub import Discussion, HfApi, scan_cache_dir
from huggingface_hub.errors import CacheNotFound

from car.weights_digest import WEIGHTS
from worker.errors import WeightsMissingError

FILES = ("config.json", "vocab.json", "merges.txt", WEIGHTS)
"""What a CLIP folder must hold."""
_ALSO = ("tokenizer_config.json", "preprocessor_config.json")
_CONVERTER = "SFconvertbot"
"""The hub's own account, which offers safetensors of older models as pull requests."""


class Hub(Protocol):
    """As much of huggingface_hub.HfApi as is used."""

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None = None) -> bool: ...

    def get_repo_discussions(self, repo_id: str, *, author: str | None = None) -> Iterator[Discussion]: ...

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str] | str | None = None
    ) -> str: ...


def pull(hub_id: str, hub: Hub | None = None) -> Path:
    """Fetch a model's safetensors, configuration and tokenizer; returns their folder.

    Where the main branch has pickled weights only, the conversion that the hub's own account offers is taken.

    Raises:
        WeightsMissing: the hub is out of reach, has no such model, or has it without safetensors.

    """
    hub = hub or HfApi()
    try:
        revision = _revision_with_safetensors(hub_id, hub)
        return Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=[*FILES, *_ALSO]))
    except WeightsMissingError:
        raise
    except Exception as error:  # the client lets its transport's errors through, and has changed its transport
        raise WeightsMissingError(f"{hub_id} could not be fetched from the hub: {error}") from error


def pulled(hub_id: str) -> Path:
    """The newest whole snapshot of a model that was pulled before.

    Raises:
        WeightsMissing: there is none; the message has the command that fetches it.

    """
    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = frozenset()
    whole = [
        revision
        for repo in repos
        if repo.repo_id == hub_id and repo.repo_type == "model"
        for revision in repo.revisions
        if {file.file_name for file in revision.files} >= set(FILES)
    ]
    if not whole:
        raise WeightsMissingError(
            f"{hub_id!r} is neither a folder nor a model that was pulled: run `car models pull {hub_id}`"
        )
    return max(whole, key=lambda revision: revision.last_modified).snapshot_path


def _revision_with_safetensors(hub_id: str, hub: Hub) -> str | None:
    if hub.file_exists(hub_id, WEIGHTS):
        return None
    for offer in hub.get_repo_discussions(hub_id, author=_CONVERTER):
        # The filter is the server's; the name decides, for anybody may open a pull request.
        trusted = offer.is_pull_request and offer.author == _CONVERTER
        if trusted and offer.git_reference and hub.file_exists(hub_id, WEIGHTS, revision=offer.git_reference):
            return offer.git_reference
    raise WeightsMissingError(
        f"{hub_id} has no {WEIGHTS} on the hub; pickled weights are never opened, convert them first"
    )
