"""Fetch and decode one image of the project as workers do."""

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from car.bulk_source import split_s3
from car.errors import CarError, SourceError
from car.label_studio.image_urls import resolve_url
from car.label_studio.project_config import ProjectConfig
from car.object_store import ObjectStore
from cli.doctor.diagnoses import Finding, diagnosed, good, skipped

if TYPE_CHECKING:
    from worker.images import DecodedImage
    from worker.label_studio import LabelStudio
    from worker.settings import WorkerSettings

_CHECK = "a task's image"


def sample(
    studio: "LabelStudio", project: int, config: ProjectConfig, settings: "WorkerSettings", store: ObjectStore
) -> Finding:
    """Check the image of the project's first task."""
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
        raw = config.image_of(data if isinstance(data, Mapping) else {})
    except SourceError as error:
        return diagnosed(_CHECK, "image_key_missing", f"task {number}: {error}")
    sources = ImageFetcher.from_settings(settings, store, studio.headers)
    try:
        uri = resolve_url(raw, instance=studio.url, objects=store)
        read = sources.read(uri, instance=studio.url, task=number)
        image = open_image(read, name=f"the image of task {number}")
    except CarError as error:
        return diagnosed(_CHECK, _code(raw, error), f"task {number}: {error}")
    finally:
        sources.close()
    return _describe(image, f"task {number}, {_way(store, raw, uri, studio.url)}: {len(read):,} bytes")


def _code(raw: str, error: CarError) -> str:
    if error.code.startswith("image_"):
        return "image_unreadable"
    if raw.startswith("s3://"):
        return "s3_unresolved"
    return "image_refused" if error.code == "source_forbidden" else "image_unreachable"


def _way(store: ObjectStore, raw: str, uri: str, label_studio: str) -> str:
    """Describe where the image was read from."""
    if raw[:5].lower() == "data:":
        return "embedded in the task"
    if uri.startswith("s3://"):
        try:
            store.head(*split_s3(uri))
        except CarError:
            return "an s3:// image, through Label Studio's storage"
        return "an s3:// image, with this service's credentials"
    if urlsplit(uri).netloc == urlsplit(label_studio).netloc:
        return "from Label Studio"
    return f"from {urlsplit(uri).hostname or urlsplit(uri).scheme}"


def _describe(image: "DecodedImage", where: str) -> Finding:
    size = f"{where}, {image.format}, {image.width} x {image.height}"
    rotation = [note for note in image.notes if "EXIF" in note]
    if rotation:
        return diagnosed(_CHECK, "image_rotated", f"{size} after it is {rotation[0]}: the frame of its masks")
    return good(_CHECK, size + (f" ({', '.join(image.notes)})" if image.notes else ""))


def worker_settings(environment: Mapping[str, str]) -> "WorkerSettings":
    """Raises: SettingsInvalidError."""
    from worker.settings import WorkerSettings

    names = {field.alias for field in WorkerSettings.model_fields.values() if field.alias}
    return WorkerSettings.from_environment(**{name: environment[name] for name in sorted(names & set(environment))})
