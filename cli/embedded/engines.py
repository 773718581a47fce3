"""The three engines together, on one data folder."""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Protocol, Self

from cli.embedded.data_dir import DataDir
from cli.embedded.server import Server
from cli.errors import EngineFailedError

ALL = ("postgres", "redis", "s3")
_ATTEMPTS = 3


class Engine(Protocol):
    """`start` begins and returns at once where it can; `wait` returns when it answers."""

    server: Server

    @property
    def notes(self) -> dict[str, str]: ...
    @property
    def environment(self) -> dict[str, str]: ...
    def start(self) -> None: ...
    def wait(self) -> None: ...
    def stop(self) -> None: ...


class Engines:
    """Servers that run until `close`, or until this process is gone, however it goes."""

    def __init__(self, data_dir: DataDir, engines: list[Engine]) -> None:
        self.data_dir = data_dir
        self._engines = engines

    @property
    def environment(self) -> dict[str, str]:
        """What the other processes need to reach them."""
        return {name: value for engine in self._engines for name, value in engine.environment.items()}

    def check(self) -> None:
        """Raises: EngineFailed, when one has ended by itself."""
        for engine in self._engines:
            if ending := engine.server.ended():
                raise EngineFailedError(f"{engine.server.name} ended ({ending}): {engine.server.last_words()}")

    def close(self) -> None:
        """Stop them cleanly and give the folder free. Twice is no error."""
        for engine in reversed(self._engines):
            engine.stop()
        self.data_dir.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def start_engines(data_dir: Path, *, durable: bool = True, which: Collection[str] = ALL) -> Engines:
    """Start engines on a folder, which is made where it is not there: the same data, passwords and, where they are
    free, ports as before. What a killed process left running there is stopped first.

    Without `durable` they are quicker, and lose data when the machine stops: for tests.
    Call it from the main thread: the engines end with the thread that started them.

    Raises:
        DataDirUnusable, DataDirInUse, EngineMissing, EngineFailed: see cli.errors.

    """
    held = DataDir(data_dir)
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            engines = Engines(held, _made(held, durable=durable, which=which))
        except BaseException:
            held.close()
            raise
        try:
            _start(engines._engines)  # noqa: SLF001 - its maker
            made = {engine.server.name: engine.notes for engine in engines._engines}  # noqa: SLF001
            held.note(**made, environment=engines.environment)
        except BaseException as error:
            for engine in engines._engines:  # noqa: SLF001
                engine.stop()
            # Another program took a port between our look and the engine's start.
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
