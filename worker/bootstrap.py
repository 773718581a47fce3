"""Build a gpu worker's pipeline from its settings. This loads the models onto the device."""

from collections.abc import Mapping
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import Engine

from car.errors import CarError
from car.model_cards import ModelCard
from car.object_store import ObjectStore
from db import model_registry
from db.session import transaction
from worker.images import ImageLimits
from worker.images.fetch import ImageFetcher
from worker.label_studio import LabelStudio
from worker.models import ModelPaths
from worker.models.clip_model import load_model
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.postprocess_pool import PostprocessPool
from worker.pipeline.types import Limits
from worker.settings import WorkerSettings


def make_pipeline(
    settings: WorkerSettings, models: ModelPaths | None, engine: Engine, objects: ObjectStore, name: str
) -> Pipeline:
    """Raises: WeightsError, DeviceMissingError or SettingsInvalidError, with what to change."""
    label_studio = LabelStudio.from_settings(settings)
    return Pipeline(
        engine=engine,
        objects=objects,
        model=load_model(
            models,
            device=settings.device,
            precision=settings.precision,
            crf_backend=settings.crf_backend,
            batch=settings.batch,
            on_load=partial(_register_models, engine),
        ),
        postprocess=PostprocessPool(processes=settings.postprocess_processes),
        name=name,
        limits=Limits(
            lease=timedelta(seconds=settings.lease_seconds),
            fetch_threads=settings.fetch_threads,
            store_threads=settings.store_threads,
            max_image_bytes=settings.image_memory_bytes,
            images=ImageLimits(max_pixels=settings.max_pixels, max_bytes=settings.max_bytes),
        ),
        image_reader=ImageFetcher.from_settings(settings, objects, label_studio.headers if label_studio else None),
    )


def _register_models(
    engine: Engine,
    names: tuple[str, str, str] | None,
    weights: Mapping[str, str],
    tokenizers: Mapping[str, str],
    cards: Mapping[str, ModelCard],
) -> None:
    """Register loaded models: the API computes model versions from their weights, and counts tokens as they do."""
    try:
        with transaction(engine) as session:
            proposal, classifier, sam = names or (
                model_registry.ANY,
                model_registry.ANY,
                model_registry.ANY if "sam" in weights else "",
            )
            model_registry.register(session, proposal, classifier, weights, tokenizers, sam=sam, cards=cards)
    except CarError as error:
        structlog.get_logger().warning("register_models_failed", reason=str(error))
