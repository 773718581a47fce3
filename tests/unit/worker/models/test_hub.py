"""Pull models: safetensors of the main branch or of the hub's own conversion, nothing else, and no pickles."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from huggingface_hub import Discussion
from huggingface_hub.errors import OfflineModeIsEnabled

from worker.errors import WeightsMissingError
from worker.models.hub import FILES, pull


def pull_request(number: int, author: str) -> Discussion:
    return Discussion(
        title="Adding `safetensors` variant of this model",
        status="open",
        num=number,
        repo_id="some/clip",
        repo_type="model",
        author=author,
        is_pull_request=True,
        created_at=datetime(2024, 1, 1, tzinfo=UTC),
        endpoint="https://hub.invalid",
    )


@dataclass
class FakeHub:
    """A hub with one model: the revisions that have safetensors, and pull requests."""

    revisions: set[str | None]
    discussions: list[Discussion] = field(default_factory=list)
    fetched: list[str | None] = field(default_factory=list)

    def file_exists(self, repo_id: str, filename: str, *, revision: str | None = None) -> bool:
        return filename == "model.safetensors" and revision in self.revisions

    def get_repo_discussions(self, repo_id: str, *, author: str | None = None) -> Iterator[Discussion]:
        return iter(self.discussions)

    def snapshot_download(
        self, repo_id: str, *, revision: str | None = None, allow_patterns: list[str] | str | None = None
    ) -> str:
        assert set(FILES) <= set(allow_patterns or ())
        assert not [pattern for pattern in allow_patterns or () if pattern.endswith((".bin", ".pt", "*"))]
        self.fetched.append(revision)
        return "/cache/some-clip"


class UnreachableHub(FakeHub):
    def file_exists(self, repo_id: str, filename: str, *, revision: str | None = None) -> bool:
        raise OfflineModeIsEnabled("no network")


def test_safetensors_of_the_main_branch_are_fetched():
    hub = FakeHub({None})
    assert pull("some/clip", hub) == Path("/cache/some-clip")
    assert hub.fetched == [None]


def test_otherwise_only_the_hubs_own_conversion_is_fetched():
    hub = FakeHub({"refs/pr/2", "refs/pr/3"}, [pull_request(2, "somebody"), pull_request(3, "SFconvertbot")])
    pull("some/clip", hub)
    assert hub.fetched == ["refs/pr/3"]


def test_a_model_without_safetensors_is_refused():
    hub = FakeHub({"refs/pr/2"}, [pull_request(2, "somebody")])
    with pytest.raises(WeightsMissingError, match=r"no model\.safetensors on the hub"):
        pull("some/clip", hub)
    assert hub.fetched == []


def test_an_unreachable_hub_is_reported():
    with pytest.raises(WeightsMissingError, match="some/clip could not be downloaded from the hub: no network"):
        pull("some/clip", UnreachableHub(set()))
