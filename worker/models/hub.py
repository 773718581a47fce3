"""Download models of the Hugging Face hub into its cache, and find them there. This module opens none of them."""

from pathlib import Path
from typing import TYPE_CHECKING

from car.weights_digest import WEIGHTS
from worker.errors import WeightsMissingError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

FILES = ("config.json", "vocab.json", "merges.txt", WEIGHTS)
"""Files that a CLIP folder must have."""
_OPTIONAL_FILES = ("tokenizer_config.json", "preprocessor_config.json")
_CONVERTER = "SFconvertbot"
"""The hub's account that offers safetensors of older models as pull requests."""


def pull(hub_id: str, hub: "HfApi | None" = None) -> Path:
    """Download a model's safetensors, configuration and tokenizer, and return their folder.

    If the main branch has pickled weights only, the pull request of the hub's conversion account is used.
    Raises: WeightsMissingError, also if the hub cannot be reached.
    """
    from huggingface_hub import HfApi  # noqa: PLC0415 - takes half a second, and folders do not need it

    hub = hub or HfApi()
    try:
        revision = _revision_with_safetensors(hub_id, hub)
        return Path(hub.snapshot_download(hub_id, revision=revision, allow_patterns=[*FILES, *_OPTIONAL_FILES]))
    except WeightsMissingError:
        raise
    except Exception as error:  # the client raises errors of its HTTP library, which varies by version
        raise WeightsMissingError(f"{hub_id} could not be downloaded from the hub: {error}") from error


def find_snapshot(hub_id: str) -> Path:
    """Return the folder of the newest complete snapshot of a pulled model. Raises: WeightsMissingError."""
    from huggingface_hub import scan_cache_dir  # noqa: PLC0415 - see pull
    from huggingface_hub.errors import CacheNotFound  # noqa: PLC0415

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        repos = frozenset()
    complete = [
        revision
        for repo in repos
        if repo.repo_id == hub_id and repo.repo_type == "model"
        for revision in repo.revisions
        if {file.file_name for file in revision.files} >= set(FILES)
    ]
    if not complete:
        raise WeightsMissingError(f"{hub_id!r} is neither a folder nor a pulled model: run `car models pull {hub_id}`")
    return max(complete, key=lambda revision: revision.last_modified).snapshot_path


def _revision_with_safetensors(hub_id: str, hub: "HfApi") -> str | None:
    if hub.file_exists(hub_id, WEIGHTS):
        return None
    for discussion in hub.get_repo_discussions(hub_id, author=_CONVERTER):
        # Anyone may open a pull request, so the author is checked here as well as by the server's filter.
        is_trusted = discussion.is_pull_request and discussion.author == _CONVERTER
        revision = discussion.git_reference
        if is_trusted and revision and hub.file_exists(hub_id, WEIGHTS, revision=revision):
            return revision
    raise WeightsMissingError(
        f"{hub_id} has no {WEIGHTS} on the hub; pickled weights are never opened, convert them first"
    )
