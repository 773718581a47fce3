"""Engines for a benchmark: fresh, in a temporary folder, gone with it."""

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import Engine, delete

from car.bulk_source import BulkSource
from car.presets import preset
from car.vocabulary import Vocabulary
from cli.embedded import ALL, start_engines
from db import jobs, listings, vocabularies
from db.listings import Found, Listing
from db.models import Job, JobKind, Lane
from db.schema import migrate
from db.session import make_engine, transaction
from db.settings import EngineSettings

_LEASE = timedelta(seconds=60)
_AT_ONCE = 4_000


@dataclass(frozen=True)
class Ground:
    """Running engines with tables and without a row."""

    environment: dict[str, str]
    """Where the engines are, for other processes."""
    settings: EngineSettings
    engine: Engine

    def job(self, source: dict[str, Any], labels: Sequence[str], recipe: str = "demo") -> UUID:
        """A bulk job that nobody has listed yet."""
        with transaction(self.engine) as session:
            new = jobs.NewJob(
                kind=JobKind.BULK,
                lane=Lane.BULK,
                source=source,
                vocabulary_id=vocabularies.keep(session, Vocabulary.of(labels)),
                recipe_id=vocabularies.keep_recipe(session, preset(recipe)),
            )
            return jobs.create(session, new)[0].id

    def queue(self, uris: Sequence[str], labels: Sequence[str], recipe: str = "demo") -> UUID:
        """A bulk job whose items are these, listed to its end."""
        job = self.job(BulkSource.parse("s3://bench/in/").to_json(), labels, recipe)
        listing = self.listing(job, "bench")
        with transaction(self.engine) as session:
            for start in range(0, len(uris), _AT_ONCE):
                some = [Found(uri) for uri in uris[start : start + _AT_ONCE]]
                listings.add(session, "bench", listing, some, cursor={}, lease=_LEASE)
            listings.finish(session, "bench", listing)
        return job

    def listing(self, job: UUID, worker: str) -> Listing:
        """The right to list a new job's source, for a minute."""
        with transaction(self.engine) as session:
            listing = listings.claim(session, worker, _LEASE)
        if listing is None or listing.job_id != job:
            raise AssertionError("another job waits to be listed")
        return listing

    def remove(self, job: UUID) -> None:
        """The job and its items."""
        with transaction(self.engine) as session:
            session.execute(delete(Job).where(Job.id == job))


@contextmanager
def ground(*, durable: bool, which: Collection[str] = ALL) -> Iterator[Ground]:
    """`durable`: PostgreSQL waits for the disk at every commit that asks for it, as it must in production.

    Raises:
        EngineError: an engine cannot be started.

    """
    with (
        tempfile.TemporaryDirectory(prefix="car-bench-") as folder,
        start_engines(Path(folder) / "engines", durable=durable, which=which) as engines,
    ):
        given = {"CELERY_BROKER_URL": "redis://none", "S3_BUCKET": "bench", **engines.environment}
        settings = EngineSettings.model_validate(given)
        engine = make_engine(settings.database_url.get_secret_value(), pool=20)
        try:
            migrate(engine)
            yield Ground(given, settings, engine)
        finally:
            engine.dispose()
