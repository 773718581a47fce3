"""A sample picture: fetched as workers fetch it, and decoded as they decode it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from car.bulk_source import split_s3
from car.errors import CarError, SourceError
from car.label_studio.image_urls import resolve_url
from car.label_studio.project_config import ProjectConfig
from cli.doctor.diagnoses import Finding, diagnosed, good, skipped
from db.objects import ObjectStore

if TYPE_CHECKING:
    from worker.images import DecodedImage
    from worker.label_studio import LabelStudio
    from worker.settings import WorkerSettings

_CHECK = "a task's picture"


def sample(
    studio: "LabelStudio", project: int, plan: ProjectConfig, settings: "WorkerSettings", store: ObjectStore
) -> Finding:
    """Of the project's first task."""
    from worker.images import open_image
    from worker.images.fetch import ImageFetcher

    try:
        tasks = studio.tasks(project, limit=1).tasks
    except CarError as error:
        return skipped(_CHECK, str(error))
    if not tasks:
        return diagnosed(_CHECK, "tasks_missing", f"project {project} has none")
    number, data = tasks[0]
    try:
        raw = plan.image_of(data if isinstance(data, Mapping) else {})
    except SourceError as error:
        return diagnosed(_CHECK, "picture_key_missing", f"task {number}: {error}")
    sources = ImageFetcher.of(settings, store, studio.headers)
    try:
        uri = resolve_url(raw, instance=studio.url, objects=store)
        read = sources.read(uri, instance=studio.url, task=number)
        picture = open_image(read, name=f"the picture of task {number}")
    except CarError as error:
        return diagnosed(_CHECK, _code(raw, error), f"task {number}: {error}")
    finally:
        sources.close()
    return _seen(picture, f"task {number}, {_way(store, raw, uri, studio.url)}: {len(read):,} bytes")


def _code(raw: str, error: CarError) -> str:
    if error.code.startswith("image_"):
        return "picture_unreadable"
    if raw.startswith("s3://"):
        return "s3_unresolved"
    return "picture_refused" if error.code == "source_forbidden" else "picture_unreachable"


def _way(store: ObjectStore, raw: str, uri: str, label_studio: str) -> str:
    """By whose right it was read."""
    if raw[:5].lower() == "data:":
        return "written into the task itself"
    if uri.startswith("s3://"):
        try:
            store.head(*split_s3(uri))
        except CarError:
            return "an s3:// picture, through Label Studio's storage"
        return "an s3:// picture, by this service's own key"
    if urlsplit(uri).netloc == urlsplit(label_studio).netloc:
        return "from Label Studio"
    return f"from {urlsplit(uri).hostname or urlsplit(uri).scheme}"


def _seen(picture: "DecodedImage", where: str) -> Finding:
    size = f"{where}, {picture.format}, {picture.width} x {picture.height}"
    turned = [note for note in picture.notes if "EXIF" in note]
    if turned:
        return diagnosed(_CHECK, "picture_rotated", f"{size} after it is {turned[0]}: the frame of its masks")
    return good(_CHECK, size + (f" ({', '.join(picture.notes)})" if picture.notes else ""))


def worker_settings(known: Mapping[str, str]) -> "WorkerSettings":
    """Raises: SettingsInvalidError."""
    from worker.settings import WorkerSettings

    names = {field.alias for field in WorkerSettings.model_fields.values() if field.alias}
    return WorkerSettings.from_environment(**{name: known[name] for name in sorted(names & set(known))})
