"""A person who works in Label Studio, through its API: what the tests do there, and what they see.

Nothing of the product is used: what it does is looked at with other eyes.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import httpx

Json = dict[str, Any]
T = TypeVar("T")


class User:
    """Of one server, with a legacy token. Every answer that is no success is an error."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.http = httpx.Client(
            base_url=url, headers={"Authorization": f"Token {token}"}, timeout=120, trust_env=False
        )

    def close(self) -> None:
        self.http.close()

    def ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self.http.request(method, path, **more)
        if not answer.is_success:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text[:2000]}")
        return answer.json() if answer.content else None

    # Projects and what belongs to them.

    def project(self, label_config: str, title: str = "shapes") -> int:
        made = self.ask("POST", "/api/projects/", json={"title": title, "label_config": label_config})
        return int(made["id"])

    def change(self, project: int, **fields: Any) -> Json:
        changed: Json = self.ask("PATCH", f"/api/projects/{project}/", json=fields)
        return changed

    def backends(self, project: int) -> list[Json]:
        found: list[Json] = self.ask("GET", "/api/ml/", params={"project": project})
        return found

    def webhooks(self, project: int) -> list[Json]:
        found: list[Json] = self.ask("GET", "/api/webhooks/", params={"project": project})
        return found

    # Tasks.

    def import_tasks(self, project: int, addresses: Iterable[str], **data: Any) -> list[int]:
        """One task for each address of a picture; their numbers in this order."""
        body = [{"data": {"image": address, **data}} for address in addresses]
        answer = self.ask("POST", f"/api/projects/{project}/import", params={"return_task_ids": "true"}, json=body)
        return [int(number) for number in answer["task_ids"]]

    def upload(self, project: int, files: Sequence[tuple[str, bytes]]) -> list[int]:
        """Pictures as a person drops them into the page."""
        sent = [(name, (name, content)) for name, content in files]
        answer = self.ask("POST", f"/api/projects/{project}/import", params={"return_task_ids": "true"}, files=sent)
        return [int(number) for number in answer["task_ids"]]

    def tasks(self, project: int) -> list[Json]:
        """All of them, up to a thousand, with the addresses of their pictures as they were given."""
        parameters = {"project": project, "page_size": 1000, "fields": "all", "resolve_uri": "false"}
        found: list[Json] = self.ask("GET", "/api/tasks/", params=parameters)["tasks"]
        return found

    def connect_bucket(self, project: int, environment: Mapping[str, str], bucket: str, prefix: str = "") -> Json:
        """Make an S3 bucket the project's source, and import what lies in it."""
        storage = self.ask(
            "POST",
            "/api/storages/s3/",
            json={
                "project": project,
                "title": bucket,
                "bucket": bucket,
                "prefix": prefix,
                "use_blob_urls": True,
                "presign": True,
                "s3_endpoint": environment["AWS_ENDPOINT_URL_S3"],
                "region_name": environment["AWS_REGION"],
                "aws_access_key_id": environment["AWS_ACCESS_KEY_ID"],
                "aws_secret_access_key": environment["AWS_SECRET_ACCESS_KEY"],
            },
        )
        synced: Json = self.ask("POST", f"/api/storages/s3/{storage['id']}/sync")
        return synced

    def connect_folder(self, project: int, folder: Path) -> None:
        """Make a folder beside Label Studio the project's source, and import what lies in it."""
        storage = self.ask(
            "POST", "/api/storages/localfiles/", json={"project": project, "path": str(folder), "use_blob_urls": True}
        )
        self.ask("POST", f"/api/storages/localfiles/{storage['id']}/sync")

    def annotate(self, task: int, result: Sequence[Json]) -> Json:
        made: Json = self.ask("POST", f"/api/tasks/{task}/annotations/", json={"result": list(result)})
        return made

    # Predictions.

    def retrieve(self, project: int) -> Json:
        """The Data Manager's "Retrieve predictions" for all tasks."""
        everything = {"selectedItems": {"all": True, "excluded": []}, "project": project}
        said: Json = self.ask(
            "POST",
            "/api/dm/actions",
            params={"id": "retrieve_tasks_predictions", "project": project},
            json=everything,
        )
        return said

    def predictions(self, project: int) -> list[Json]:
        found: list[Json] = self.ask("GET", "/api/predictions/", params={"project": project})
        return found

    def predict(self, task: int, result: Sequence[Json], version: str = "by hand", score: float = 0.9) -> Json:
        body = {"task": task, "model_version": version, "score": score, "result": list(result)}
        made: Json = self.ask("POST", "/api/predictions/", json=body)
        return made


def eventually(look: Callable[[], T], enough: Callable[[T], bool], seconds: float = 120) -> T:
    """What `look` sees once it is enough.

    Raises:
        AssertionError: it never was; with what was seen last.

    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if enough(seen):
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; last seen: {str(seen)[:2000]}")
        time.sleep(0.5)


def read_files(paths: Iterable[Path]) -> list[tuple[str, bytes]]:
    return [(path.name, path.read_bytes()) for path in paths]
