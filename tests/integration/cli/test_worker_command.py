"""`car worker`, `car scheduler` and `car migrate` as processes on the real engines."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import text
from typer.testing import CliRunner

from cli.main import app
from db.label_studio import project_sync
from db.queue import workers
from db.session import make_engine, transaction
from worker.celery_app import TaskName, make_celery_app, notify


@contextmanager
def running(*arguments, environment, log):
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(condition, log, seconds=180):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return value


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def alive_workers(database_url):
    """A function that lists the workers with a recent heartbeat."""
    engine = make_engine(database_url)

    def query():
        with transaction(engine) as session:
            return workers.list_alive(session)

    yield query
    engine.dispose()


@pytest.mark.parametrize("queues", ["gpu", "io"])
def test_a_worker_starts_answers_notifications_and_stops_at_sigterm(
    queues, engine_environment, alive_workers, tmp_path
):
    log = tmp_path / "log"
    broker = engine_environment["CELERY_BROKER_URL"]
    with running("worker", "--queues", queues, environment=engine_environment, log=log) as process:
        assert wait_for(alive_workers, log)[0].queue == queues
        assert notify(make_celery_app(broker), TaskName.SEGMENT if queues == "gpu" else TaskName.LIST)
        with redis.Redis.from_url(broker) as client:
            wait_for(lambda: not client.llen(queues) and not client.hlen("unacked"), log)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert not alive_workers()
    assert '"level": "error"' not in log.read_text()
    assert broker.split(":")[2].split("@")[0] not in log.read_text()


def test_an_io_worker_publishes_and_syncs_when_notified(outbox, engine_environment, alive_workers, tmp_path):
    log = tmp_path / "log"
    outbox.enqueue(3)
    new = outbox.studio.add_tasks(outbox.number, ["s3://bucket/new.jpg"])
    outbox.do(project_sync.request, outbox.row())
    here = {"LABEL_STUDIO_URL": outbox.studio.url + "/", "LABEL_STUDIO_API_KEY": outbox.studio.personal_token()}
    environment = engine_environment | here | {"S3_PREFIX": "car/", "CAR_PRESET": "demo", "CAR_SYNC_SECONDS": "0"}
    with running("worker", "--queues", "io", environment=environment, log=log) as process:
        wait_for(alive_workers, log)
        assert notify(make_celery_app(environment["CELERY_BROKER_URL"]), TaskName.MAINTENANCE)
        wait_for(lambda: outbox.states() == {"sent": 3}, log)
        wait_for(lambda: outbox.row().synced_at is not None, log)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    assert [row.state for row in outbox.items_by_task() if row.ls_task_id in new] == ["queued"]
    assert len(outbox.studio.predictions()) == 3
    assert '"level": "error"' not in log.read_text()
    assert here["LABEL_STUDIO_API_KEY"] not in log.read_text()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems tell no child that its parent died")
def test_no_child_of_a_killed_worker_keeps_its_device(engine_environment, alive_workers, tmp_path):
    log = tmp_path / "log"
    with running("worker", "--queues", "io", environment=engine_environment, log=log) as process:
        wait_for(alive_workers, log)
        pool = children(process.pid)
        assert pool
        process.kill()
        process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pool), log)


def test_the_parent_of_a_worker_imports_no_torch():
    code = (
        "import cli.main, cli.commands.worker, worker.tasks, worker.celery_app, sys; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_scheduler_notifies_for_maintenance(engine_environment, tmp_path):
    log = tmp_path / "log"
    environment = engine_environment | {"CAR_MAINTENANCE_SECONDS": "0.5"}
    with (
        redis.Redis.from_url(environment["CELERY_BROKER_URL"]) as client,
        running("scheduler", environment=environment, log=log) as process,
    ):
        wait_for(lambda: client.llen("io") >= 2, log)
        assert str(TaskName.MAINTENANCE).encode() in client.lindex("io", 0)
        process.terminate()
        assert process.wait(30) == 0, log.read_text()


def test_a_worker_without_settings_says_which_are_missing():
    result = CliRunner().invoke(
        app, ["worker"], env={"DATABASE_URL": None, "CELERY_BROKER_URL": None, "S3_BUCKET": None}
    )
    assert result.exit_code == 2
    assert "DATABASE_URL" in result.output


def test_migrate_brings_an_empty_database_up_and_is_repeatable(empty_database_url):
    environment = {"DATABASE_URL": empty_database_url}
    first = CliRunner().invoke(app, ["migrate"], env=environment)
    assert first.exit_code == 0
    assert "before at none" in first.output
    second = CliRunner().invoke(app, ["migrate"], env=environment)
    assert second.exit_code == 0
    assert "before" not in second.output


def test_migrate_says_that_the_password_is_wrong(empty_database_url):
    password = empty_database_url.split(":")[2].split("@")[0]
    wrong = CliRunner().invoke(app, ["migrate"], env={"DATABASE_URL": empty_database_url.replace(password, "wrong")})
    assert wrong.exit_code == 2
    assert "check the name and password in DATABASE_URL" in wrong.output
    assert "wrong@" not in wrong.output
    missing = CliRunner().invoke(app, ["migrate"], env={"DATABASE_URL": None})
    assert missing.exit_code == 2
    assert "postgresql://user:password@host:5432/name" in missing.output


def test_a_host_is_healthy_while_it_has_a_worker_with_a_heartbeat(engine_environment, database_url):
    def alive():
        command = [sys.executable, "-m", "worker.healthcheck"]
        return subprocess.run(command, env=engine_environment, capture_output=True, text=True, timeout=60, check=False)

    silent = alive()
    assert silent.returncode == 1
    assert "no heartbeat" in silent.stderr
    engine = make_engine(database_url)
    with transaction(engine) as session:
        workers.heartbeat(session, workers.WorkerInfo(f"{socket.gethostname()}:1:abc", "gpu", "cpu", {}, "0"))
    assert alive().returncode == 0
    with transaction(engine) as session:
        session.execute(text("UPDATE worker SET seen_at = now() - interval '2 minutes'"))
    engine.dispose()
    assert alive().returncode == 1


def test_the_scheduler_keeps_a_file_for_health_checks_if_asked(engine_environment, tmp_path):
    file = tmp_path / "schedule"
    command = [sys.executable, "-m", "cli.main", "scheduler", "--schedule", str(file)]
    scheduler = subprocess.Popen(command, env=engine_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("schedule*")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        scheduler.terminate()
        assert scheduler.wait(20) == 0
