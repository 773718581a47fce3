"""Real workers that are killed, stopped or cut off from Redis lose nothing and duplicate nothing."""

import os
import signal
import subprocess
import sys
import time
from io import BytesIO

import psycopg
import pytest
import redis
from PIL import Image
from sqlalchemy import text

from car.bulk_source import BulkSource
from car.presets import preset
from car.vocabulary import Vocabulary, parse_labels_file
from cli.model_selection import demo_folder
from db import vocabularies
from db.models import JobKind, Priority
from db.queue import jobs
from db.session import make_engine, transaction
from demo.scenes import held_out_scenes
from worker.celery_app import TaskName, make_celery_app, notify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

LEASE, MAINTENANCE = 4.0, 1.0


class Service:
    """A gpu worker, an io worker and the scheduler on this test's engines."""

    def __init__(self, environment, folder, bucket):
        self.environment = environment | {"CAR_LEASE_SECONDS": str(LEASE), "CAR_MAINTENANCE_SECONDS": str(MAINTENANCE)}
        self.folder, self.bucket = folder, bucket
        self.engine = make_engine(environment["DATABASE_URL"])
        self.processes = {}

    def start(self, name, *arguments):
        command = [sys.executable, "-m", "cli.main", *arguments]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)

    def start_all(self):
        self.start("gpu", "worker", "--queues", "gpu")
        self.start("io", "worker", "--queues", "io")
        self.start("scheduler", "scheduler")

    def stop(self):
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.engine.dispose()

    def job(self, prefix):
        with transaction(self.engine) as session:
            labels = parse_labels_file((demo_folder() / "labels.txt").read_text())
            job, _ = jobs.create(
                session,
                jobs.NewJob(
                    kind=JobKind.BULK,
                    priority=Priority.BULK,
                    source=BulkSource.parse(f"s3://{self.bucket.name}/{prefix}").to_json(),
                    vocabulary_id=vocabularies.get_or_create(session, Vocabulary.from_words(labels)),
                    recipe_id=vocabularies.get_or_create_recipe(session, preset("demo")),
                ),
            )
        notify(make_celery_app(self.environment["CELERY_BROKER_URL"]), TaskName.LIST)
        return job.id

    def rows(self, sql, **values):
        with transaction(self.engine) as session:
            return session.execute(text(sql), values).all()

    def counts(self):
        return dict(self.rows("SELECT state, count(*) FROM item GROUP BY state"))

    def until(self, condition, seconds=240):
        """Return the condition's value once it is true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.05)
        logs = "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-15:]) for log in self.folder.glob("*.log")
        )
        pytest.fail(f"not within {seconds} s; counts are {self.counts()}\n{logs}")

    def ended(self, total):
        counts = self.counts()
        return sum(counts.values()) == total and not counts.get("queued") and not counts.get("running")

    def busy_child(self, where="true"):
        """Return the process id of a child that owns items."""
        owners = self.rows(f"SELECT DISTINCT worker FROM item WHERE state = 'running' AND {where}")  # noqa: S608
        return int(owners[0][0].split(":")[1]) if owners else None


@pytest.fixture
def service(engine_environment, tmp_path, bucket):
    service = Service(engine_environment, tmp_path, bucket)
    yield service
    service.stop()


def scene(number):
    out = BytesIO()
    Image.fromarray(SCENES[number].image).save(out, format="PNG")
    return out.getvalue()


SCENES = held_out_scenes(14, seed=5)


def upload(service, count, prefix="in/"):
    for number in range(count):
        service.bucket.put(f"{prefix}{number:03}.png", scene(number))


def check_exactly_once(service, done):
    """Check that every item has one result, every result its objects and a complete history."""
    assert service.rows("SELECT count(*) FROM item WHERE state = 'done' AND result_id IS NULL") == [(0,)]
    assert service.rows("SELECT count(*), count(DISTINCT run_key) FROM result") == [(done, done)]
    assert service.rows("SELECT count(*) FROM reservation") == [(0,)]
    keys = set(service.bucket.keys("car/results/"))
    for masks, labelmap, steps, stored_steps in service.rows(
        "SELECT masks_key, labelmap_key, steps, "
        "(SELECT count(DISTINCT step) FROM query_step WHERE result_id = result.id) FROM result"
    ):
        assert {masks, labelmap} <= keys
        assert steps == stored_steps


def test_a_worker_killed_in_mid_batch_twice_loses_and_doubles_nothing(service):
    upload(service, 14)
    service.start_all()
    service.job("in/")
    for _ in range(2):
        victim = service.until(service.busy_child)
        ids = [row[0] for row in service.rows("SELECT id FROM item WHERE state = 'running'")]
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        service.until(
            lambda ids=ids, victim=victim: (
                not service.rows(
                    "SELECT 1 FROM item WHERE id = ANY(:ids) AND state = 'running' AND worker LIKE :old",
                    ids=ids,
                    old=f"%:{victim}:%",
                )
                and service.busy_child()
            )
        )
        assert time.monotonic() - killed < LEASE + 10
    service.until(lambda: service.ended(14))
    assert service.counts() == {"done": 14}
    check_exactly_once(service, 14)
    assert service.rows("SELECT max(lost_lease_count) FROM item")[0][0] >= 1


def test_flushing_redis_in_mid_job_costs_no_work(service):
    upload(service, 14)
    service.start_all()
    service.job("in/")
    service.until(service.busy_child)
    with redis.Redis.from_url(service.environment["CELERY_BROKER_URL"]) as client:
        client.flushdb()
    os.kill(service.busy_child() or service.until(service.busy_child), signal.SIGKILL)  # now no message is left
    service.until(lambda: service.ended(14))
    assert service.counts() == {"done": 14}
    check_exactly_once(service, 14)


def test_sigterm_releases_items_within_thirty_seconds_without_costing_an_attempt(service):
    upload(service, 14)
    service.start_all()
    service.job("in/")
    service.until(lambda: service.counts().get("done"))
    begun = time.monotonic()
    service.processes["gpu"].send_signal(signal.SIGTERM)
    assert service.processes["gpu"].wait(35) == 0
    assert time.monotonic() - begun < 30
    counts = service.counts()
    assert counts.get("running") is None
    assert counts["queued"] > 0
    assert service.rows("SELECT max(attempt), max(lost_lease_count) FROM item WHERE state = 'queued'") == [(0, 0)]
    service.start("gpu", "worker", "--queues", "gpu")
    service.until(lambda: service.ended(14))
    assert service.rows("SELECT DISTINCT attempt FROM item") == [(1,)]
    check_exactly_once(service, 14)


def test_an_image_that_kills_its_worker_ends_dead_and_takes_no_neighbour_along(service):
    upload(service, 8)
    service.start_all()
    poison = f"s3://{service.bucket.name}/in/003.png"
    with psycopg.connect(service.environment["DATABASE_URL"], autocommit=True) as connection:
        connection.execute("LISTEN claimed")
        connection.execute(
            "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_notify('claimed', NEW.worker); RETURN NEW; END $$"
        )
        connection.execute(
            "CREATE TRIGGER tell AFTER UPDATE ON item FOR EACH ROW "
            f"WHEN (NEW.uri = '{poison}' AND NEW.state = 'running' AND OLD.state = 'queued') EXECUTE FUNCTION tell()"
        )
        service.job("in/")
        kills = 0
        while not service.ended(8):
            for notification in connection.notifies(timeout=0.2):
                os.kill(int(notification.payload.split(":")[1]), signal.SIGKILL)
                kills += 1
    assert kills == 3
    assert service.counts() == {"done": 7, "dead": 1}
    assert service.rows("SELECT attempt, lost_lease_count, error_code FROM item WHERE uri = :uri", uri=poison) == [
        (3, 3, "lost_worker")
    ]
    assert service.rows("SELECT max(lost_lease_count) FROM item WHERE uri <> :uri", uri=poison)[0][0] <= 1
    check_exactly_once(service, 7)


def test_a_sleeping_worker_that_wakes_after_its_lease_writes_nothing(service):
    upload(service, 12)
    service.start_all()
    service.job("in/")
    sleeper = service.until(service.busy_child)
    os.kill(sleeper, signal.SIGSTOP)
    try:
        service.start("gpu2", "worker", "--queues", "gpu")
        service.until(lambda: service.ended(12))
        before = service.rows("SELECT id, worker, attempt, result_id FROM item ORDER BY id")
    finally:
        os.kill(sleeper, signal.SIGCONT)
    time.sleep(3)
    assert service.rows("SELECT id, worker, attempt, result_id FROM item ORDER BY id") == before
    assert service.counts() == {"done": 12}
    check_exactly_once(service, 12)


def test_connections_that_postgres_drops_in_mid_job_lose_and_double_nothing(service):
    upload(service, 14)
    service.start_all()
    service.job("in/")
    service.until(service.busy_child)
    with psycopg.connect(service.environment["DATABASE_URL"], autocommit=True) as connection:
        drop = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'car'"
        )
        dropped = 0
        for _ in range(8):
            dropped += connection.execute(drop).fetchone()[0]
            time.sleep(0.7)
    assert dropped > 0
    service.until(lambda: service.ended(14))
    assert service.counts() == {"done": 14}
    check_exactly_once(service, 14)


def test_an_s3_server_that_hangs_for_a_while_costs_time_alone(service, engines):
    upload(service, 14)
    service.start_all()
    service.job("in/")
    service.until(service.busy_child)
    server = int((engines.data_dir.path / "run" / "s3.pid").read_text().split()[0])
    os.kill(server, signal.SIGSTOP)
    try:
        time.sleep(8)
    finally:
        os.kill(server, signal.SIGCONT)
    service.until(lambda: service.ended(14))
    assert service.counts() == {"done": 14}
    check_exactly_once(service, 14)
