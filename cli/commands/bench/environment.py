"""Embedded engines of one benchmark, in a temporary folder that is deleted afterwards."""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine

from car.bulk_source import BulkSource
from car.presets import preset
from car.vocabulary import Vocabulary
from cli.embedded import ALL, start_engines
from db import vocabularies
from db.models import JobKind, Priority
from db.queue import jobs, listings
from db.queue.listings import ListedObject
from db.schema import migrate
from db.session import make_engine, transaction
from db.settings import EngineSettings

_LEASE = timedelta(seconds=60)
_PAGE = 4_000


@dataclass(frozen=True)
class BenchEnvironment:
    """Running engines with an empty database."""

    variables: dict[str, str]
    """The engines' addresses, for other processes."""
    settings: EngineSettings
    engine: Engine

    def create_job(self, source: dict[str, Any], labels: Sequence[str], recipe: str = "demo") -> UUID:
        """Create a bulk job whose source is not listed yet."""
        with transaction(self.engine) as session:
            new = jobs.NewJob(
                kind=JobKind.BULK,
                priority=Priority.BULK,
                source=source,
                vocabulary_id=vocabularies.get_or_create(session, Vocabulary.from_words(labels)),
                recipe_id=vocabularies.get_or_create_recipe(session, preset(recipe)),
            )
            return jobs.create(session, new)[0].id

    def queue_images(self, uris: Sequence[str], labels: Sequence[str], recipe: str = "demo") -> None:
        """Create a bulk job with these items, completely listed. No other job may wait to be listed."""
        self.create_job(BulkSource.parse("s3://bench/in/").to_json(), labels, recipe)
        with transaction(self.engine) as session:
            listing = listings.claim(session, "bench", _LEASE)
            if listing is None:
                raise AssertionError("the new job cannot be listed")
            for start in range(0, len(uris), _PAGE):
                page = [ListedObject(uri) for uri in uris[start : start + _PAGE]]
                listings.add(session, "bench", listing, page, cursor={}, lease=_LEASE)
            listings.finish(session, "bench", listing)


@contextmanager
def bench_environment(*, durable: bool, which: Collection[str] = ALL) -> Iterator[BenchEnvironment]:
    """Start the engines. `durable`: PostgreSQL waits for the disk as in production. Raises: EngineError."""
    with (
        tempfile.TemporaryDirectory(prefix="car-bench-") as folder,
        start_engines(Path(folder) / "engines", durable=durable, which=which) as engines,
    ):
        variables = {"CELERY_BROKER_URL": "redis://none", "S3_BUCKET": "bench", **engines.environment}
        settings = EngineSettings.model_validate(variables)
        engine = make_engine(settings.database_url.get_secret_value(), pool=20)
        try:
            migrate(engine)
            yield BenchEnvironment(variables, settings, engine)
        finally:
            engine.dispose()
