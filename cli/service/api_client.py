"""A client of the API for the command line."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import quote, urlsplit

from cli.errors import ApiBusyError, ApiRefusedError, ApiUnreachableError
from cli.options import car_command
from cli.service.api_types import (
    CreatedJob,
    Item,
    Job,
    LabelFeedback,
    Project,
    ProjectEntry,
    ProjectTask,
    ResultDetail,
    ResultSummary,
)

if TYPE_CHECKING:
    import httpx

_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 60.0
_PAGE = 500
_BUSY = frozenset({429, 502, 503, 504})
_ERROR = 400
_PROJECTS = "/label-studio/projects"
_HERE = ("localhost", "127.0.0.1", "::1")

Filters = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class ApiAddress:
    url: str
    key: str | None = None


class ApiClient:
    """One connection to the API at an address.

    Every method raises ApiRefusedError with the server's message, ApiBusyError or ApiUnreachableError, and no error of
    httpx.
    """

    def __init__(self, address: ApiAddress) -> None:
        import httpx

        self.url = address.url.rstrip("/")
        if not _is_address(self.url):
            raise ApiUnreachableError(f"CAR_API_URL {self.url!r} is no address; it looks like http://127.0.0.1:9090")
        headers = {"Accept": "application/json"}
        if address.key:
            headers["Authorization"] = f"Bearer {address.key}"
        self._client = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers=headers,
            timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
            # A proxy of the environment cannot reach a service on this machine.
            trust_env=urlsplit(self.url).hostname not in _HERE,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # Jobs

    def create_job(self, request: Mapping[str, Any], *, idempotency_key: str | None = None) -> tuple[CreatedJob, bool]:
        """Return the job, and whether an earlier request with this key created it."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        answer = self._send("POST", "/jobs", json=request, headers=headers)
        return cast("CreatedJob", answer.json()), answer.headers.get("Idempotent-Replay") == "true"

    def job(self, job_id: str) -> Job:
        return cast("Job", self._json("GET", f"/jobs/{_part(job_id)}"))

    def jobs(self, most: int) -> Iterator[Job]:
        return cast("Iterator[Job]", self._pages("/jobs", {}, most))

    def items(self, job_id: str, state: str | None, most: int) -> Iterator[Item]:
        return cast("Iterator[Item]", self._pages(f"/jobs/{_part(job_id)}/items", {"state": state}, most))

    def cancel(self, job_id: str) -> Job:
        return cast("Job", self._json("POST", f"/jobs/{_part(job_id)}/cancel"))

    def retry(self, job_id: str) -> tuple[int, Job]:
        """Return the number of retried items, and the job."""
        answer = self._json("POST", f"/jobs/{_part(job_id)}/retry")
        return int(answer["retried"]), cast("Job", answer["job"])

    def rescan(self, job_id: str) -> Job:
        return cast("Job", self._json("POST", f"/jobs/{_part(job_id)}/rescan"))

    # Results

    def results(self, filters: Filters, most: int) -> Iterator[ResultSummary]:
        """Return results, newest first; with the filter `job` one for each of its done images."""
        return cast("Iterator[ResultSummary]", self._pages("/results", filters, most))

    def result(self, result_id: str) -> ResultDetail:
        return cast("ResultDetail", self._json("GET", f"/results/{_part(result_id)}"))

    def overlay(self, result_id: str) -> bytes:
        """Return a PNG."""
        return self._send("GET", f"/results/{_part(result_id)}/overlay.png").content

    # Projects of Label Studio

    def projects(self, most: int) -> Iterator[ProjectEntry]:
        return cast("Iterator[ProjectEntry]", self._pages(_PROJECTS, {}, most))

    def project(self, number: int, instance: str | None = None) -> Project:
        """`instance` is Label Studio's URL, if several have a project of this number."""
        asked = {"instance": instance} if instance else {}
        return cast("Project", self._send("GET", f"{_PROJECTS}/{number}", params=asked).json())

    def upsert_project(self, number: int, document: Mapping[str, Any]) -> Project:
        """Store a project as it is in Label Studio."""
        return cast("Project", self._send("PUT", f"{_PROJECTS}/{number}", json=document).json())

    def project_tasks(self, number: int, state: str | None, most: int) -> Iterator[ProjectTask]:
        return cast("Iterator[ProjectTask]", self._pages(f"{_PROJECTS}/{number}/tasks", {"state": state}, most))

    def feedback(self, number: int) -> list[LabelFeedback]:
        return cast("list[LabelFeedback]", self._json("GET", f"{_PROJECTS}/{number}/feedback")["items"])

    def sync_project(self, number: int) -> Project:
        return cast("Project", self._json("POST", f"{_PROJECTS}/{number}/sync"))

    def retry_project(self, number: int) -> tuple[int, int, Project]:
        """Return the numbers of retried images and predictions, and the project."""
        answer = self._json("POST", f"{_PROJECTS}/{number}/retry")
        return int(answer["images"]), int(answer["predictions"]), cast("Project", answer["project"])

    # Requests

    def _json(self, method: str, path: str) -> Any:  # noqa: ANN401 - the callers know their documents
        return self._send(method, path).json()

    def _pages(self, path: str, filters: Filters, most: int) -> Iterator[Any]:
        cursor: str | None = None
        while most > 0:
            wanted: dict[str, str | int | float | None] = {**filters, "cursor": cursor, "limit": min(most, _PAGE)}
            page = self._send("GET", path, params={name: one for name, one in wanted.items() if one is not None}).json()
            yield from page["items"][:most]
            most -= len(page["items"])
            cursor = page["next"]
            if cursor is None:
                return

    def _send(self, method: str, path: str, **request: Any) -> "httpx.Response":  # noqa: ANN401 - httpx's own
        import httpx

        try:
            answer = self._client.request(method, path, **request)
        except httpx.ConnectError:
            raise ApiUnreachableError(
                f"the API at {self.url} does not answer; start it with `{car_command()} up`, name the folder of a "
                "running one with --data-dir, or set CAR_API_URL"
            ) from None
        except httpx.TimeoutException:
            raise ApiUnreachableError(f"the API at {self.url} took too long to answer; is it overloaded?") from None
        except httpx.TransportError as error:
            raise ApiUnreachableError(f"the API at {self.url} broke off ({type(error).__name__}); try again") from None
        if answer.status_code >= _ERROR:
            raise _refusal(answer, self.url)
        if not answer.headers.get("content-type", "").startswith(("application/json", "image/")):
            raise ApiUnreachableError(f"what answers at {self.url} is not the API of this service; check CAR_API_URL")
        return answer


def _refusal(answer: "httpx.Response", url: str) -> ApiRefusedError:
    """Return the server's problem+json as an error; for another server at least its status."""
    status = answer.status_code
    kind = ApiBusyError if status in _BUSY else ApiRefusedError
    try:
        problem = answer.json()
        detail, code = str(problem["detail"]), str(problem.get("code", "error"))
    except (ValueError, KeyError, TypeError):
        return kind(f"{url} answered {status} {answer.reason_phrase}; check CAR_API_URL", status=status)
    return kind(detail, status=status, problem=code)


def _part(text: str) -> str:
    """Return an id as one part of a path, whatever a user typed."""
    return quote(text, safe="") or "-"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port or IPv6 address
        return False
