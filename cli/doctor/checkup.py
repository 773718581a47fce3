"""The checks in their order: each needs what those before it found to be there."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from car.errors import CarError
from cli.doctor import label_studio, project, sample_image, service
from cli.doctor.diagnoses import Finding, Verdict, diagnosed, skipped
from cli.doctor.project import ConnectedProject
from cli.label_studio.backend_reconcile import DesiredBackend
from cli.service.api_client import ApiAddress, ApiClient
from db.objects import ObjectStore
from db.session import make_engine
from db.settings import EngineSettings

if TYPE_CHECKING:
    from worker.label_studio import LabelStudio

_USUAL_PRESET = "voc"


@dataclass(frozen=True)
class Checkup:
    """One look at everything."""

    known: Mapping[str, str]
    """Environment variables, with those of a running `car up`."""
    api: ApiAddress
    project: int | None = None
    url: str | None = None
    """This service as Label Studio reaches it; by itself as it is reached from here."""

    def findings(self) -> Iterator[Finding]:
        """As they are found."""
        settings, finding = service.engine_settings(self.known)
        yield finding
        if settings is None:
            yield skipped("everything else", "needs the settings")
            return
        engine, store = make_engine(settings.database_url.get_secret_value(), pool=1), ObjectStore.of(settings)
        try:
            yield from self._service(settings, engine, store)
            yield from self._label_studio(settings, engine, store)
        finally:
            engine.dispose()

    def _service(self, settings: EngineSettings, engine: Engine, store: ObjectStore) -> Iterator[Finding]:
        database = service.database(engine)
        yield database
        yield service.broker(settings)
        yield service.objects(store)
        if database.verdict is Verdict.GOOD:
            yield from service.processes(engine, self._preset)
        else:
            yield skipped("workers", "they are known by PostgreSQL")
        reached = service.api(self.api)
        yield reached
        if reached.code != "api_unreachable":
            yield service.face(self.api, service.Credentials(self._wish.user, self._wish.password))

    def _label_studio(self, settings: EngineSettings, engine: Engine, store: ObjectStore) -> Iterator[Finding]:
        from worker.label_studio import LabelStudio

        url, key = settings.label_studio_url, settings.label_studio_api_key
        if not url or key is None:
            missing = " and ".join(
                name for name, value in (("LABEL_STUDIO_URL", url), ("LABEL_STUDIO_API_KEY", key)) if not value
            )
            finding = diagnosed("Label Studio", "label_studio_unset", f"{missing} not set")
            yield finding if self.project is not None else skipped(finding.check, f"{missing} not set")
            return
        with LabelStudio(url, key.get_secret_value()) as opened:
            yield from self._studio(opened, engine, store)

    def _studio(self, opened: "LabelStudio", engine: Engine, store: ObjectStore) -> Iterator[Finding]:
        reached = label_studio.reached(opened)
        yield reached
        if reached.verdict is Verdict.WRONG:
            yield skipped("token", "Label Studio is not reached")
            return
        known = label_studio.token(opened)
        yield known
        yield from label_studio.instances(engine, opened.url)
        if self.project is None:
            return
        if known.verdict is Verdict.WRONG:
            yield skipped(f"project {self.project}", "the token is refused")
            return
        try:
            found = ConnectedProject(opened, opened.project(self.project), opened.backends(self.project), self._wish)
        except CarError as error:
            code = "project_missing" if error.code == "project_missing" else "label_studio_unreachable"
            yield diagnosed(f"project {self.project}", code, str(error))
            return
        yield from self._project(found, engine, store)

    def _project(self, found: ConnectedProject, engine: Engine, store: ObjectStore) -> Iterator[Finding]:
        plan, findings = project.plan_of(found, self._preset)
        yield from findings
        yield from project.backend(found)
        known, finding = project.ours(engine, found.studio.url, found.project.number)
        yield finding
        yield from project.webhook(found, heard=None if known is None else known.row.webhook_at is not None)
        if known is not None:
            yield from project.versions(found, self._version(found) or known.model_version)
            yield from project.failures(known)
        if plan is None:
            yield skipped("a task's picture", "the labeling configuration does not say where it is")
            return
        try:
            settings = sample_image.worker_settings(self.known)
            yield sample_image.sample(found.studio, found.project.number, plan, settings, store)
        except CarError as error:
            yield diagnosed("settings", "settings_invalid", str(error))

    def _version(self, found: ConnectedProject) -> str | None:
        """As the API answers /setup: it knows weights that no worker has told yet."""
        try:
            with ApiClient(self.api) as opened:
                return opened.project(found.project.number, found.studio.url)["model_version"]
        except CarError:
            return None

    @property
    def _preset(self) -> str:
        return self.known.get("CAR_PRESET") or _USUAL_PRESET

    @property
    def _wish(self) -> DesiredBackend:
        known = self.known
        return DesiredBackend(
            project=self.project or 0,
            url=(self.url or self.api.url).rstrip("/"),
            user=known.get("BASIC_AUTH_USER"),
            password=known.get("BASIC_AUTH_PASS"),
            secret=known.get("CAR_WEBHOOK_SECRET"),
        )
