"""Sync Label Studio's projects: request every task that has no current prediction, as a webhook would have."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.label_studio.task_requests import parse_tasks
from car.model_version import label_studio_version
from car.object_store import ObjectStore
from db import model_registry
from db.errors import DatabaseUnreachableError
from db.label_studio import project_sync, projects, tasks
from db.label_studio.project_sync import SyncClaim
from db.label_studio.projects import ProjectPayload, RequestKind, ResolvedProject
from db.label_studio.tasks import store_vocabularies
from db.models import Priority
from db.session import transaction
from worker.errors import describe_error
from worker.label_studio import LabelStudio

LEASE = timedelta(seconds=180)
"""Longer than a page takes: a request of 70 s, images stored within tasks, a thousand rows."""


@dataclass
class SyncStats:
    """What one call did."""

    projects: int = 0
    """Projects that were read to their end, or failed."""
    asked: int = 0
    """Requested tasks: those without a prediction of the current version."""
    has_more: bool = False
    """The call stopped before all projects were read."""


@dataclass(frozen=True)
class ProjectSync:
    engine: Engine
    objects: ObjectStore
    client: LabelStudio
    worker: str
    preset: str
    on_page: Callable[[], object] = lambda: None
    """Called after each commit of a page."""
    page: int = 500
    """Tasks a page."""

    def sync(self, *, stop: Callable[[], bool] = lambda: False, seconds: float = float("inf")) -> SyncStats:
        """Sync due projects until there are none, `stop` or `seconds`. The next call resumes at the cursor."""
        stats = SyncStats()
        deadline = time.monotonic() + seconds

        def is_ending() -> bool:
            return stop() or time.monotonic() > deadline

        while not stop():
            with transaction(self.engine) as session:
                claim = project_sync.claim(session, self.worker, LEASE, instance=self.client.url)
            if claim is None:
                break
            if not self._sync_project(claim, stats, is_ending):
                stats.has_more = True
                break
            stats.projects += 1
        return stats

    def _sync_project(self, claim: SyncClaim, stats: SyncStats, is_ending: Callable[[], bool]) -> bool:
        """Return whether the project is finished, with success or an error."""
        try:
            project, weights = self._resolve(claim)
            if not self._request_pages(claim, project, weights, stats, is_ending):
                return False
            with transaction(self.engine) as session:
                project_sync.finish(session, self.worker, claim)
        except DatabaseUnreachableError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge: a project that breaks this code must not be tried for ever
            code, detail, retryable = describe_error(error, retry_unexpected=True)
            unexpected = not isinstance(error, CarError)
            structlog.get_logger().warning(
                "sync_failed", project=claim.ls_project_id, code=code, reason=detail, exc_info=unexpected
            )
            with transaction(self.engine) as session:
                project_sync.fail(session, self.worker, claim, code=code, detail=detail, retryable=retryable)
        return True

    def _resolve(self, claim: SyncClaim) -> tuple[ResolvedProject, Mapping[str, str] | None]:
        """Store the project as it is now; return it and the weights that would compute its predictions."""
        project = self.client.project(claim.ls_project_id)
        backends = self.client.backends(claim.ls_project_id)
        extra_params = backends[0].get("extra_params") if backends else None  # Label Studio uses the first backend
        payload = ProjectPayload(
            instance=claim.instance,
            ls_project_id=claim.ls_project_id,
            label_config=project.label_config,
            ls_project_key=project.ls_project_key,
            title=project.title,
            extra_params=extra_params if isinstance(extra_params, dict) else None,  # None: as stored
            kind=RequestKind.SYNC,
        )
        try:
            with transaction(self.engine) as session:
                resolved = projects.upsert(session, payload, preset=self.preset)
                return resolved, model_registry.weights_for(session, resolved.config.recipe)
        except CarError as error:
            if not isinstance(error, DatabaseUnreachableError):
                with transaction(self.engine) as session:
                    projects.record_problem(session, payload, code=error.code, detail=str(error))
            raise

    def _request_pages(
        self,
        claim: SyncClaim,
        project: ResolvedProject,
        weights: Mapping[str, str] | None,
        stats: SyncStats,
        is_ending: Callable[[], bool],
    ) -> bool:
        """Request the tasks page by page; return whether the last page was reached."""
        config = project.config
        # Without a registered worker the version is unknown, and all tasks are requested.
        version = (
            label_studio_version(weights, config.recipe, config.vocabulary_digest, config.region_digest)
            if weights is not None
            else None
        )
        cursor, seen_count = claim.cursor or 0, claim.seen
        while True:
            page = self.client.tasks(claim.ls_project_id, after=cursor, limit=self.page, lacking=version)
            if not page.tasks:
                return True
            rows: list[dict[str, Any]] = [{"id": task, "data": data} for task, data in page.tasks]
            requests = parse_tasks(config, rows, instance=claim.instance, objects=self.objects)
            cursor, stopping, total = page.tasks[-1][0], is_ending(), seen_count + page.total
            seen_count += len(rows)
            with transaction(self.engine) as session:
                submissions = store_vocabularies(session, (request for request in requests if request is not None))
                tasks.submit(
                    session, project, submissions, weights=weights, priority=Priority.BULK, missing=version is not None
                )
                is_owned = project_sync.advance(
                    session, self.worker, claim, cursor=cursor, seen=len(rows), total=total, lease=LEASE
                )
                if stopping:
                    project_sync.release(session, self.worker, claim)
            stats.asked += len(submissions)
            self.on_page()
            if not is_owned or len(rows) == page.total:
                return True
            if stopping:
                return False
