"""`car up` refuses in words what cannot work, and runs the whole service on its own engines; `car env` finds them."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from importlib import util
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from typer.testing import CliRunner

from cli.embedded import start_engines
from cli.embedded.ports import free_port
from cli.main import app

OUTSIDE = ("DATABASE_URL", "CELERY_BROKER_URL", "S3_BUCKET")
HERE = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")


@pytest.fixture
def refused(tmp_path):
    """A function that returns the output of a `car up` that refuses the given variables."""

    def run(variables, port=None):
        none = dict.fromkeys((*OUTSIDE, *HERE))
        options = ["--data-dir", str(tmp_path / "data"), "--port", str(port or free_port())]
        result = CliRunner().invoke(app, ["up", *options], env=none | variables)
        assert result.exit_code == 2, result.output
        assert not list(tmp_path.glob("data/logs/api.log"))  # nothing was started
        return result.output

    return run


def without_password(url):
    return url.split(":")[2].split("@")[0]


def test_a_taken_port_is_named(refused):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        begun = time.monotonic()
        output = refused({}, port)
        assert f"cannot listen on port {port} of 127.0.0.1 (Address already in use" in output
        assert f"process {os.getpid()}" in output or not sys.platform.startswith("linux")
        assert "--port" in output
        assert time.monotonic() - begun < 10  # the engines are not started first; other tests share the cores


def test_half_of_the_outside_engines_is_refused(refused):
    output = refused({"DATABASE_URL": "postgresql://somewhere/car"})
    assert "DATABASE_URL set, but not CELERY_BROKER_URL, S3_BUCKET" in output


def outside(environment):
    return {name: environment[name] for name in (*OUTSIDE, *HERE)}


def test_a_wrong_password_of_the_database_is_named(refused, engine_environment):
    variables = outside(engine_environment)
    url = variables["DATABASE_URL"]
    output = refused(variables | {"DATABASE_URL": url.replace(without_password(url), "wrong")})
    assert "check the name and password in DATABASE_URL" in output


def test_a_wrong_password_of_redis_is_named(refused, engine_environment):
    variables = outside(engine_environment)
    url = variables["CELERY_BROKER_URL"]
    output = refused(variables | {"CELERY_BROKER_URL": url.replace(without_password(url), "wrong")})
    assert "refuses the password; check the one in CELERY_BROKER_URL" in output


def test_an_engine_that_is_away_is_named(refused, engine_environment):
    variables = outside(engine_environment)
    away = free_port()
    output = refused(variables | {"CELERY_BROKER_URL": f"redis://127.0.0.1:{away}/0"})
    assert f"Redis at 127.0.0.1:{away} does not answer" in output
    output = refused(variables | {"DATABASE_URL": f"postgresql://car:x@127.0.0.1:{away}/car"})
    assert f"PostgreSQL at 127.0.0.1:{away}/car does not answer" in output
    output = refused(variables | {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{away}"})
    assert f"127.0.0.1:{away}" in output


def test_a_denied_bucket_is_named(refused, engine_environment):
    variables = outside(engine_environment)
    output = refused(variables | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    assert variables["S3_BUCKET"] in output


def test_env_of_a_folder_where_nothing_ran_says_so(tmp_path):
    result = CliRunner().invoke(app, ["env", "--data-dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "start them with `car up`" in result.output


def test_env_can_be_evaluated_by_a_shell(tmp_path):
    with start_engines(tmp_path, durable=False, which=["redis"]) as engines:
        command = shlex.join([sys.executable, "-m", "cli.main", "env", "--data-dir", str(tmp_path)])
        script = f'eval "$({command})"; printf %s "$CELERY_BROKER_URL"'
        shell = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
        assert shell.stdout == engines.environment["CELERY_BROKER_URL"]
        assert not shell.stderr
    after = CliRunner().invoke(app, ["env", "--data-dir", str(tmp_path)])
    assert after.exit_code == 0
    assert "no service runs on" in after.output


@contextmanager
def up(folder, port):
    """`car up` that is ready, and the environment that `car env` prints."""
    environment = {name: value for name, value in os.environ.items() if name not in (*OUTSIDE, *HERE)}
    command = [
        sys.executable,
        "-m",
        "cli.main",
        "up",
        "--data-dir",
        str(folder),
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    terminal = folder.with_suffix(".terminal")
    with terminal.open("ab") as output, subprocess.Popen(command, env=environment, stderr=output) as process:
        try:
            wait_for(lambda: is_ready(port) or process.poll() is not None, 120)
            assert process.poll() is None, terminal.read_text()
            yield process, read_env(folder)
        finally:
            process.kill()


def is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", trust_env=False, timeout=2).is_success
    except httpx.TransportError:
        return False


def read_env(folder):
    printed = CliRunner().invoke(app, ["env", "--data-dir", str(folder)]).stdout
    return dict(shlex.split(line)[1].split("=", 1) for line in printed.splitlines())


def wait_for(condition, seconds=30):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return value


def below(pid):
    """The process' children, their children, and so on, with their command lines."""
    processes = {}
    with suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in children.read_text().split():
                processes[int(child)] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                processes |= below(child)
    return processes


@pytest.mark.skipif(util.find_spec("api.__main__") is None, reason="there is no API to run yet")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_whole_service_runs_heals_stops_and_comes_back(tmp_path):
    folder, port = tmp_path / "data", free_port()
    with up(folder, port) as (process, environment):
        assert environment["CAR_API_URL"] == f"http://127.0.0.1:{port}"
        assert environment["CAR_API_KEY"].startswith("car_")
        assert all(environment[name] for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "CAR_WEBHOOK_SECRET"))
        with psycopg.connect(environment["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM api_key").fetchone() == (1,)

        def gpu_worker():
            return next((pid for pid, line in below(process.pid).items() if "worker --queues gpu" in line), None)

        first = gpu_worker()
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: gpu_worker() not in (None, first))

        second = CliRunner().invoke(app, ["up", "--data-dir", str(folder), "--port", str(free_port())])
        assert second.exit_code == 2
        assert f"process {process.pid})" in second.output

        everything = below(process.pid)
        process.terminate()
        assert process.wait(60) == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in everything)
    assert "worker-gpu died (signal SIGKILL)" in folder.with_suffix(".terminal").read_text()

    with up(folder, port) as (process, again):
        assert again == environment
        with redis.Redis.from_url(again["CELERY_BROKER_URL"]) as client:
            assert client.ping()
        everything = below(process.pid)
        assert len(everything) > 7
        process.kill()
        process.wait()
        wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in everything))
