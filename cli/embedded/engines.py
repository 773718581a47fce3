"""The three engines together, on one data folder."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, Self

from cli.embedded.data_dir import DataDir
from cli.embedded.server import Server
from cli.errors import EngineFailedError

ALL = ("postgres", "redis", "s3")
_ATTEMPTS = 3


class Engine(Protocol):
    """`start` starts the server and returns at once if possible; `wait` returns when it answers."""

    server: Server

    @property
    def notes(self) -> dict[str, str]: ...
    @property
    def environment(self) -> dict[str, str]: ...
    def start(self) -> None: ...
    def wait(self) -> None: ...
    def stop(self) -> None: ...


class Engines:
    """Servers that run until `close`, or until this process ends in any way."""

    def __init__(self, data_dir: DataDir, engines: list[Engine]) -> None:
        self.data_dir = data_dir
        self._engines = engines

    @property
    def environment(self) -> dict[str, str]:
        """The variables with which other processes reach them."""
        return {name: value for engine in self._engines for name, value in engine.environment.items()}

    def check(self) -> None:
        """Raises: EngineFailedError, if one has ended by itself."""
        for engine in self._engines:
            if ending := engine.server.ended():
                raise EngineFailedError(f"{engine.server.name} ended ({ending}): {engine.server.last_log_lines()}")

    def close(self) -> None:
        """Stop them cleanly and release the folder. A second call does nothing."""
        with ThreadPoolExecutor() as threads:
            list(threads.map(lambda engine: engine.stop(), self._engines))
        self.data_dir.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_engines(data_dir: Path, *, durable: bool = True, which: Collection[str] = ALL) -> Engines:
    """Start engines on a folder, which is created if it does not exist. Data and passwords are those of the last run,
    and so are ports that are still free. Servers that a killed process left running there are stopped first.

    Without `durable` they are faster, and lose data if the machine stops: for tests.
    Call it from the main thread: the engines end with the thread that started them.

    Raises:
        DataDirUnusableError, DataDirInUseError, EngineMissingError, EngineFailedError: see cli.errors.

    """
    held = DataDir(data_dir)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            engines = Engines(held, _made(held, durable=durable, which=which))
        except BaseException:
            held.close()
            raise
        try:
            _start(engines._engines)  # noqa: SLF001 - this function creates it
            made = {engine.server.name: engine.notes for engine in engines._engines}  # noqa: SLF001
            held.note(**made, environment=engines.environment)
        except BaseException as error:
            for engine in engines._engines:  # noqa: SLF001
                engine.stop()
            # Another program took a port after it was chosen and before the engine started.
            taken = isinstance(error, EngineFailedError) and "address already in use" in str(error).lower()
            if taken and attempt < _ATTEMPTS:
                continue
            held.close()
            raise
        return engines
    raise AssertionError("the last attempt returns or raises")


def _made(held: DataDir, *, durable: bool, which: Collection[str]) -> list[Engine]:
    from cli.embedded.postgres import Postgres
    from cli.embedded.redis import Redis
    from cli.embedded.s3 import S3

    notes: dict[str, Any] = held.notes()
    makers: dict[str, type[Postgres | Redis | S3]] = {"s3": S3, "redis": Redis, "postgres": Postgres}
    return [maker(held.path, notes.get(name, {}), durable=durable) for name, maker in makers.items() if name in which]


def _start(engines: list[Engine]) -> None:
    for engine in engines:
        engine.start()
    for engine in engines:
        engine.wait()
