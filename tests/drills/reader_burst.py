"""Drill: many clients read the API in the same moment, and probes ask for its health meanwhile.

`python -m tests.drills.reader_burst --clients 300` starts engines and an API of its own in a temporary folder. Every
request must be answered, 200 or 503 with Retry-After, within `--seconds`, and probes within `--probe-seconds`; 2 s
after the last answer every address must be served again. The exit status is 1 where one of these fails.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from multiprocessing.connection import Connection
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener

READ_PATHS = ("/api/v1/jobs", "/api/v1/results", "/api/v1/label-studio/projects")
PROBE_PATHS = ("/readyz", "/health", "/healthz")
UNANSWERED = 0
"""Stands for a status where no answer came."""
_PROBE_PAUSE = 0.05
_REST_SECONDS = 2.0
_open = build_opener(ProxyHandler({})).open


@dataclass(frozen=True)
class Answer:
    path: str
    status: int
    seconds: float
    retry_after: str | None = None


@dataclass(frozen=True)
class BurstReport:
    """What clients and probes saw."""

    answers: list[Answer]
    probes: list[Answer]
    after: list[Answer]
    """One request to each address, 2 s after the last answer of the burst."""

    def lines(self) -> list[str]:
        statuses = Counter(one.status for one in self.answers)
        told = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sorted(statuses.items()))
        lines = [f"requests   {len(self.answers)}: {told}; slowest {slowest(self.answers):.2f} s"]
        for path in PROBE_PATHS:
            mine = [one for one in self.probes if one.path == path]
            bad = sum(one.status != HTTPStatus.OK for one in mine)
            lines.append(f"{path:<10} {len(mine)} probes, {bad} not 200; slowest {slowest(mine):.3f} s")
        lines += [f"2 s later  {one.path}: {one.status or 'no answer'} in {one.seconds:.3f} s" for one in self.after]
        return lines

    def faults(self, *, seconds: float, probe_seconds: float) -> list[str]:
        """What was promised and not kept."""
        ok, busy = HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE
        checks = {
            "a request was neither 200 nor 503": any(one.status not in (ok, busy) for one in self.answers),
            "a 503 was without Retry-After": any(one.status == busy and not one.retry_after for one in self.answers),
            f"an answer took more than {seconds:g} s": slowest(self.answers) > seconds,
            "a probe was not 200": any(one.status != ok for one in self.probes),
            f"a probe took more than {probe_seconds:g} s": slowest(self.probes) > probe_seconds,
            "a path was not probed": {one.path for one in self.probes} != set(PROBE_PATHS),
            "an address was not served 2 s later": any(one.status != ok for one in self.after),
        }
        return [fault for fault, found in checks.items() if found]


def slowest(answers: list[Answer]) -> float:
    return max((one.seconds for one in answers), default=0.0)


def burst(base: str, key: str, *, clients: int, seconds: float, paths: tuple[str, ...] = READ_PATHS) -> BurstReport:
    """Ask `paths` by turns, all clients at once, each on a connection of its own. No answer is awaited longer than
    `seconds`.
    """
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    # In a process of its own: a thread would wait for the clients' turn at Python's lock.
    prober = multiprocessing.get_context("spawn").Process(target=probe_until_told, args=(base, theirs))
    prober.start()
    try:
        assert ours.poll(30), "the prober did not start"
        ours.recv()
        answers = asyncio.run(_all(base, key, list(itertools.islice(itertools.cycle(paths), clients)), seconds))
        ours.send("stop")
        time.sleep(_REST_SECONDS)
        after = [ask(base, path, 10.0, key) for path in paths]
        probes = ours.recv() if ours.poll(60) else []
    finally:
        prober.kill()
        prober.join()
    return BurstReport(answers, probes, after)


async def _all(base: str, key: str, paths: list[str], seconds: float) -> list[Answer]:
    address = urlsplit(base)
    go = asyncio.Event()
    tasks = [
        asyncio.ensure_future(_one(str(address.hostname), address.port or 80, path, key, seconds, go)) for path in paths
    ]
    await asyncio.sleep(0)
    go.set()
    return list(await asyncio.gather(*tasks))


async def _one(host: str, port: int, path: str, key: str, seconds: float, go: asyncio.Event) -> Answer:
    """One request by hand: a client library would take more of the processor than the server."""
    await go.wait()
    begun = time.perf_counter()
    status, retry_after = UNANSWERED, None
    with suppress(OSError, TimeoutError, ValueError, IndexError):
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                lines = [f"GET {path} HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {key}", "Connection: close"]
                writer.write("\r\n".join([*lines, "", ""]).encode())
                head, _, _ = (await reader.read()).partition(b"\r\n\r\n")
            finally:
                writer.close()
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status, retry_after = int(first.split()[1]), headers.get("retry-after")
    return Answer(path, status, time.perf_counter() - begun, retry_after)


def probe_until_told(base: str, line: Connection) -> None:
    """Ask each of `PROBE_PATHS` again and again until something comes over the line; send back what came."""
    found: list[Answer] = []
    line.send("ready")
    while not line.poll(_PROBE_PAUSE):
        found += [ask(base, path, 10.0) for path in PROBE_PATHS]
    line.send(found)


def ask(base: str, path: str, seconds: float, key: str | None = None) -> Answer:
    """One request, alone."""
    request = Request(base + path, headers={"Authorization": f"Bearer {key}"} if key else {})  # noqa: S310 - our own http
    begun, status = time.perf_counter(), UNANSWERED
    try:
        with _open(request, timeout=seconds) as answer:
            answer.read()
            status = answer.status
    except HTTPError as error:
        status = error.code
    except (URLError, OSError):
        pass
    return Answer(path, status, time.perf_counter() - begun)


@contextmanager
def served_alone():
    """The address of an API with engines of its own, and a key; both go with the block."""
    from api.settings import ApiSettings  # noqa: PLC0415
    from cli.embedded import start_engines  # noqa: PLC0415 - not for whoever brings a service
    from db import api_keys  # noqa: PLC0415
    from db.schema import migrate  # noqa: PLC0415
    from db.session import make_engine, transaction  # noqa: PLC0415
    from tests.support.api_client import Rows  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder, start_engines(Path(folder) / "data", durable=False) as engines:
        environment = {**os.environ, **engines.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
        database = make_engine(environment["DATABASE_URL"])
        migrate(database)
        names = {field.alias for field in ApiSettings.model_fields.values()}
        objects = S3ObjectStore.from_settings(
            ApiSettings(**{name: value for name, value in environment.items() if name in names})
        )
        rows = Rows(database, objects)
        for _ in range(60):
            rows.result([("cat", 0.9), ("dog", 0.8)], dropped=[("cow", 1)])
        with transaction(database) as session:
            _, key = api_keys.create(session, "burst", [api_keys.Scope.READ])
        database.dispose()
        port = _free_port()
        with (Path(folder) / "api.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "api", "--port", str(port)], env=environment, stdout=log, stderr=log
            )
        base = f"http://127.0.0.1:{port}"
        try:
            until = time.monotonic() + 60
            while ask(base, "/healthz", 1.0).status != HTTPStatus.OK:
                assert process.poll() is None, (Path(folder) / "api.log").read_text()
                assert time.monotonic() < until
                time.sleep(0.1)
            yield base, key
        finally:
            process.kill()
            process.wait()


def _free_port() -> int:
    import socket  # noqa: PLC0415

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.reader_burst", description=__doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=15.0, help="an answer may take so long")
    parser.add_argument("--probe-seconds", type=float, default=0.5, help="a probe may take so long")
    parser.add_argument("--patience", type=float, default=60.0, help="clients give up after so long")
    parser.add_argument("--rounds", type=int, default=1)
    chosen = parser.parse_args()
    faults: list[str] = []
    with served_alone() as (base, key):
        for path in (*READ_PATHS, *PROBE_PATHS):
            ask(base, path, 10.0, key)
        for _ in range(chosen.rounds):
            report = burst(base, key, clients=chosen.clients, seconds=chosen.patience)
            print("\n".join(report.lines()))
            faults += report.faults(seconds=chosen.seconds, probe_seconds=chosen.probe_seconds)
            print("kept" if not faults else f"not kept: {'; '.join(faults)}", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
