"""Looks at all tasks of Label Studio projects: what has no prediction of ours is asked for, as a webhook would have."""

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
from db.errors import DatabaseUnreachableError
from db.label_studio import project_sync, projects, tasks
from db.label_studio.project_sync import SyncClaim
from db.label_studio.projects import ProjectPayload, RequestKind, ResolvedProject
from db.label_studio.tasks import store_vocabularies
from db.models import Priority
from db.objects import ObjectStore
from db.queue import model_registry
from db.session import transaction
from worker.label_studio import LabelStudio

LEASE = timedelta(seconds=180)
"""Above what a page may take: a request of 70 s, pictures within tasks, a thousand rows."""
_PAGE = 500


@dataclass
class SyncStats:
    """What one call did."""

    projects: int = 0
    """Looked at to their end, or failed."""
    asked: int = 0
    """Tasks without a prediction of the present version."""
    has_more: bool = False
    """It ended before its work did."""


@dataclass(frozen=True)
class ProjectSync:
    """Where projects are looked at, and for whom."""

    engine: Engine
    objects: ObjectStore
    client: LabelStudio
    worker: str
    preset: str
    found: Callable[[], object] = lambda: None
    """Called after each commit of a page."""
    page: int = _PAGE
    """Tasks that are asked for at once."""

    def sync(self, *, stop: Callable[[], bool] = lambda: False, seconds: float = float("inf")) -> SyncStats:
        """Look at the projects for which that is wanted, for about so long; what is begun goes on from its cursor."""
        done = SyncStats()
        ends = time.monotonic() + seconds

        def ending() -> bool:
            return stop() or time.monotonic() > ends

        while not stop():
            with transaction(self.engine) as session:
                look = project_sync.claim(session, self.worker, LEASE, instance=self.client.url)
            if look is None:
                break
            if not self._look(look, done, ending):
                done.has_more = True
                break
            done.projects += 1
        return done

    def _look(self, look: SyncClaim, done: SyncStats, ending: Callable[[], bool]) -> bool:
        """Whether it came to its end, be it an error."""
        try:
            known, weights = self._known(look)
            if not self._pages(look, known, weights, done, ending):
                return False
            with transaction(self.engine) as session:
                project_sync.finish(session, self.worker, look)
        except DatabaseUnreachableError:
            raise
        except CarError as error:
            self._fail(look, error.code, str(error), retryable=error.retryable)
        except Exception as error:  # noqa: BLE001 - the edge: a project that breaks this code must not be tried for ever
            structlog.get_logger().exception("sync_broke", project=look.ls_project_id)
            self._fail(look, "internal_error", f"{type(error).__name__}: {error}", retryable=True)
        return True

    def _known(self, look: SyncClaim) -> tuple[ResolvedProject, Mapping[str, str] | None]:
        """The project as it is now, and the weights that its predictions would be made with."""
        shown = self.client.project(look.ls_project_id)
        seen = ProjectPayload(
            instance=look.instance,
            ls_project_id=look.ls_project_id,
            label_config=shown.label_config,
            ls_project_key=shown.stamp,
            title=shown.title,
            extra_params=self._extra_params(look.ls_project_id),
            kind=RequestKind.SYNC,
        )
        try:
            with transaction(self.engine) as session:
                known = projects.upsert(session, seen, preset=self.preset)
                return known, model_registry.weights_for(session, known.plan.recipe)
        except CarError as error:
            if not isinstance(error, DatabaseUnreachableError):
                with transaction(self.engine) as session:
                    projects.record_problem(session, seen, code=error.code, detail=str(error))
            raise

    def _extra_params(self, project: int) -> dict[str, Any] | None:
        """Of the first ML backend, which is the one that Label Studio asks. None: as stored."""
        backends = self.client.backends(project)
        given = backends[0].get("extra_params") if backends else None
        return given if isinstance(given, dict) else None

    def _pages(
        self,
        look: SyncClaim,
        known: ResolvedProject,
        weights: Mapping[str, str] | None,
        done: SyncStats,
        ending: Callable[[], bool],
    ) -> bool:
        """Whether the last page was reached."""
        plan = known.plan
        # Before any worker has told its weights nobody knows the version, and all tasks are asked for.
        version = (
            label_studio_version(weights, plan.recipe, plan.vocabulary_digest, plan.region_digest)
            if weights is not None
            else None
        )
        cursor, seen = look.cursor or 0, look.seen
        while True:
            page = self.client.tasks(look.ls_project_id, after=cursor, limit=self.page, lacking=version)
            if not page.tasks:
                return True
            told = [{"id": number, "data": data} for number, data in page.tasks]
            wishes = parse_tasks(plan, told, instance=look.instance, objects=self.objects)
            cursor, stopping, total = page.tasks[-1][0], ending(), seen + page.total
            seen += len(told)
            with transaction(self.engine) as session:
                asked = store_vocabularies(session, (wish for wish in wishes if wish is not None))
                tasks.submit(
                    session, known, asked, weights=weights, priority=Priority.BULK, missing=version is not None
                )
                ours = project_sync.advance(
                    session,
                    self.worker,
                    look,
                    cursor=cursor,
                    seen=len(told),
                    total=total,
                    lease=LEASE,
                )
                if stopping:
                    project_sync.release(session, self.worker, look)
            done.asked += len(asked)
            self.found()
            if not ours or len(told) == page.total:
                return True
            if stopping:
                return False

    def _fail(self, look: SyncClaim, code: str, detail: str, *, retryable: bool) -> None:
        structlog.get_logger().warning("sync_failed", project=look.ls_project_id, code=code, reason=detail)
        with transaction(self.engine) as session:
            project_sync.fail(session, self.worker, look, code=code, detail=detail, retryable=retryable)
