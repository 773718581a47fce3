"""Run the checks in order; a check is skipped if one that it needs has failed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from car.errors import CarError
from car.object_store import ObjectStore
from cli.doctor import label_studio, sample_image, service
from cli.doctor import project as project_checks
from cli.doctor.diagnoses import Finding, Verdict, diagnosed, skipped
from cli.doctor.project import ConnectedProject
from cli.label_studio.backend_reconcile import DesiredBackend
from cli.service.api_client import ApiAddress, ApiClient
from db.objects import S3ObjectStore
from db.session import make_engine
from db.settings import EngineSettings

if TYPE_CHECKING:
    from worker.label_studio import LabelStudio

_USUAL_PRESET = "voc"


@dataclass(frozen=True)
class Checkup:
    report: Mapping[str, str]
    """Environment variables, with those of a running `car up`."""
    api: ApiAddress
    project: int | None = None
    url: str | None = None
    """The address at which Label Studio reaches this service; None: the one in `api`."""

    def findings(self) -> Iterator[Finding]:
        settings, finding = service.engine_settings(self.report)
        yield finding
        if settings is None:
            yield skipped("everything else", "needs the settings")
            return
        engine, store = (
            make_engine(settings.database_url.get_secret_value(), pool=1),
            S3ObjectStore.from_settings(settings),
        )
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
            yield skipped("workers", "needs PostgreSQL")
        reached = service.api(self.api)
        yield reached
        if reached.code != "api_unreachable":
            yield service.backend_access(
                self.api, service.Credentials(self._desired_backend.user, self._desired_backend.password)
            )

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
            yield skipped("token", "Label Studio cannot be reached")
            return
        token = label_studio.token(opened)
        yield token
        yield from label_studio.instances(engine, opened.url)
        if self.project is None:
            return
        if token.verdict is Verdict.WRONG:
            yield skipped(f"project {self.project}", "the token is refused")
            return
        try:
            project = ConnectedProject(
                opened, opened.project(self.project), opened.backends(self.project), self._desired_backend
            )
        except CarError as error:
            code = "project_missing" if error.code == "project_missing" else "label_studio_unreachable"
            yield diagnosed(f"project {self.project}", code, str(error))
            return
        yield from self._project(project, engine, store)

    def _project(self, project: ConnectedProject, engine: Engine, store: ObjectStore) -> Iterator[Finding]:
        config, findings = project_checks.config_of(project, self._preset)
        yield from findings
        yield from project_checks.backend(project)
        stored, finding = project_checks.own_predictions(engine, project.studio.url, project.project.number)
        yield finding
        yield from project_checks.webhook(project, heard=None if stored is None else stored.row.webhook_at is not None)
        if stored is not None:
            yield from project_checks.versions(project, self._version(project) or stored.model_version)
            yield from project_checks.failures(stored)
        if config is None:
            yield skipped("a task's image", "the labeling configuration does not name it")
            return
        try:
            settings = sample_image.worker_settings(self.report)
            yield sample_image.sample(project.studio, project.project.number, config, settings, store)
        except CarError as error:
            yield diagnosed("settings", "settings_invalid", str(error))

    def _version(self, project: ConnectedProject) -> str | None:
        """Return the model version of /setup; the API may know weights that no worker has registered yet."""
        try:
            with ApiClient(self.api) as opened:
                return opened.project(project.project.number, project.studio.url)["model_version"]
        except CarError:
            return None

    @property
    def _preset(self) -> str:
        return self.report.get("CAR_PRESET") or _USUAL_PRESET

    @property
    def _desired_backend(self) -> DesiredBackend:
        return DesiredBackend(
            project=self.project or 0,
            url=(self.url or self.api.url).rstrip("/"),
            user=self.report.get("BASIC_AUTH_USER"),
            password=self.report.get("BASIC_AUTH_PASS"),
            secret=self.report.get("CAR_WEBHOOK_SECRET"),
        )
