"""A gpu worker's pipeline from its settings: the models come onto the device here."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from db.objects import ObjectStore
from db.queue import model_registry
from db.session import transaction
from worker.images import ImageLimits
from worker.images.fetch import Headers, ImageFetcher
from worker.label_studio import LabelStudio
from worker.models.clip_model import load_model
from worker.models.model_paths import ModelPaths
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.postprocess_pool import PostprocessPool
from worker.pipeline.types import Limits
from worker.settings import WorkerSettings


def make_pipeline(
    settings: WorkerSettings,
    models: ModelPaths | None,
    engine: Engine,
    objects: ObjectStore,
    name: str,
) -> Pipeline:
    """Raises: WeightsError, DeviceMissing or SettingsInvalidError, with what to change."""
    return Pipeline(
        engine=engine,
        objects=objects,
        model=load_model(
            models,
            device=settings.device,
            precision=settings.precision,
            crf_by=settings.crf_by,
            batch=settings.batch,
            loaded=partial(_register_models, engine),
        ),
        postprocess=PostprocessPool(processes=settings.finish_processes),
        name=name,
        limits=Limits(
            lease=timedelta(seconds=settings.lease_seconds),
            fetch_threads=settings.fetch_threads,
            store_threads=settings.store_threads,
            max_image_bytes=settings.picture_bytes,
            images=ImageLimits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes),
        ),
        image_reader=ImageFetcher.of(settings, objects, _headers(settings)),
    )


def _headers(settings: WorkerSettings) -> Headers | None:
    """Of the Label Studio that pictures of its tasks are fetched from; None without a token."""
    client = LabelStudio.of(settings)
    return client.headers if client is not None else None


def _register_models(engine: Engine, names: tuple[str, str, str] | None, weights: Mapping[str, str]) -> None:
    """The web process makes model versions of what workers have loaded."""
    try:
        with transaction(engine) as session:
            proposal, classifier, sam = names or (
                model_registry.ANY,
                model_registry.ANY,
                model_registry.ANY if "sam" in weights else "",
            )
            model_registry.register(session, proposal, classifier, weights, sam=sam)
    except CarError as error:
        structlog.get_logger().warning("offer_failed", reason=str(error))
