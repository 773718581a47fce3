"""A gpu worker's pipeline from its settings: the models come onto the device here."""

from datetime import timedelta

from sqlalchemy import Engine

from db.objects import ObjectStore
from worker.finishers import Finishers
from worker.images import ImageLimits
from worker.images.fetch import Headers, Sources
from worker.model import Places, load_model
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.work import Limits
from worker.settings import WorkerSettings


def make_pipeline(
    settings: WorkerSettings,
    models: Places | None,
    engine: Engine,
    objects: ObjectStore,
    name: str,
    headers: Headers | None = None,
) -> Pipeline:
    """`headers`: of the Label Studio that the settings name; None without a token.

    Raises:
        WeightsError, DeviceMissing, SettingsInvalid: with what to change.

    """
    return Pipeline(
        engine=engine,
        objects=objects,
        model=load_model(models, device=settings.device, batch=settings.batch),
        finish=Finishers(processes=settings.finish_processes),
        name=name,
        limits=Limits(
            lease=timedelta(seconds=settings.lease_seconds),
            fetch_threads=settings.fetch_threads,
            store_threads=settings.store_threads,
            images=ImageLimits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes),
        ),
        pictures=Sources.of(settings, objects, headers),
    )
