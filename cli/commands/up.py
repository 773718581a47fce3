"""`car up`: the whole service in the foreground, on embedded engines or on those of the environment."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.env import DataDirOption
from cli.embedded import Engines, start_engines
from cli.embedded.data_dir import DataDir
from cli.embedded.ports import free_port, obstacle, port_holder
from cli.errors import ProcessFailedError, UsageError
from cli.model_selection import DEMO, ModelSelection
from cli.options import Device
from cli.service.processes import Processes

_READY_SECONDS = 120
_DRAIN_SECONDS = 30
_LOOK_SECONDS = 0.2
_SECRETS = ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "CAR_WEBHOOK_SECRET")
"""What Label Studio says to the API: made here where the environment does not give them."""
_TOLD = ("LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY", "LABEL_STUDIO_HOST", "LABEL_STUDIO_ACCESS_TOKEN", "CAR_PRESET")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def up(
    *,
    port: Annotated[int, typer.Option("--port", help="Where the API listens.", min=1, max=65535)] = 9090,
    host: Annotated[str, typer.Option("--host", help="0.0.0.0 to be reached from other machines.")] = "127.0.0.1",
    data_dir: DataDirOption = Path(".car"),
    device: Annotated[Device, typer.Option("--device", help="Where to compute.")] = Device.AUTO,
) -> None:
    """Run API, workers and engines until Ctrl-C.

    By itself PostgreSQL, Redis and an S3 server start from wheels and keep their data in --data-dir. Where
    DATABASE_URL, CELERY_BROKER_URL and S3_BUCKET are set, those are used. `car env` says how to reach what runs.
    """
    from cli.service.prepare_services import uses_outside_engines

    console = Console(stderr=True, soft_wrap=True)
    with _ended_by_signals(), ExitStack() as stack:
        if reason := obstacle(port, host):
            holder = port_holder(port)
            raise UsageError(
                f"the API cannot listen on port {port} of {host} ({reason}{f': {holder}' if holder else ''}); choose "
                f"another port, such as --port {free_port()}, or another address with --host"
            )
        outside = uses_outside_engines(os.environ)
        engines = None
        with console.status("starting the engines"):
            if outside:
                held = stack.enter_context(DataDir(data_dir))
                held.note(environment={})
            else:
                engines = stack.enter_context(start_engines(data_dir))
                held = engines.data_dir
                os.environ.update(engines.environment)
        with console.status("preparing tables and bucket"):
            os.environ.setdefault("CAR_PRESET", ModelSelection(os.environ.get("CAR_MODELS") or DEMO).default_preset)
            api = _keys(held, f"http://{_reachable(host)}:{port}")
        secrets = {name: api[name] for name in _SECRETS}
        environment = {**os.environ, **secrets}
        processes = Processes(held.path / "logs", environment, lambda line: console.print(line, markup=False))
        stack.callback(_stop, processes, console)
        _start(processes, host=host, port=port, device=device)
        with console.status("starting the API and the workers"):
            _wait_until_ready(api["CAR_API_URL"], api["CAR_API_KEY"], processes)
        _say_where(console, api["CAR_API_URL"], held, outside=outside, data_dir=data_dir)
        _watch(processes, engines)


def _keys(held: DataDir, url: str) -> dict[str, str]:
    from cli.service.prepare_services import prepare
    from db.settings import EngineSettings

    given = {name: os.environ[name] for name in _SECRETS if os.environ.get(name)}
    api = prepare(EngineSettings.from_environment(), {**held.notes().get("api", {}), **given})
    api["CAR_API_URL"] = url
    # For commands in other terminals.
    told = {name: os.environ[name] for name in _TOLD if os.environ.get(name)}
    held.note(api=api | told)
    return api


def _start(processes: Processes, *, host: str, port: int, device: Device) -> None:
    car = [sys.executable, "-m", "cli.main"]
    processes.start("api", [sys.executable, "-m", "api", "--host", host, "--port", str(port)])
    processes.start("worker-gpu", [*car, "worker", "--queues", "gpu", "--device", device.value])
    processes.start("worker-io", [*car, "worker", "--queues", "io"])
    processes.start("scheduler", [*car, "scheduler"])


def _wait_until_ready(url: str, key: str, processes: Processes) -> None:
    """Until the API answers to our own key: another one may have taken the port since it was looked at."""
    import httpx

    deadline = time.monotonic() + _READY_SECONDS
    answer = "nothing"
    while time.monotonic() < deadline:
        processes.watch()
        try:
            response = httpx.get(f"{url}/readyz", timeout=2, trust_env=False)
            if response.is_success:
                mine = httpx.get(
                    f"{url}/api/v1/presets", headers={"Authorization": f"Bearer {key}"}, timeout=5, trust_env=False
                )
                if mine.is_success:
                    return
                raise ProcessFailedError(f"another service answers at {url}; give another port with --port")
            answer = response.text
        except httpx.TransportError as error:
            answer = str(error)
        time.sleep(_LOOK_SECONDS)
    raise ProcessFailedError(f"the API at {url} is not ready after {_READY_SECONDS} s; it answers: {answer}")


def _watch(processes: Processes, engines: Engines | None) -> None:
    while True:
        processes.watch()
        if engines:
            engines.check()
        time.sleep(_LOOK_SECONDS)


def _stop(processes: Processes, console: Console) -> None:
    with console.status(f"stopping; what is being computed has {_DRAIN_SECONDS} s"):
        for name in processes.stop(seconds=_DRAIN_SECONDS):
            console.print(f"{name} did not stop in time and was killed; its pictures are given out again", markup=False)


def _say_where(console: Console, url: str, held: DataDir, *, outside: bool, data_dir: Path) -> None:
    option = "" if data_dir == Path(".car") else f" --data-dir {data_dir}"
    lines = [
        ("API", f"{url}  (docs at {url}/docs)"),
        ("bucket", f"s3://{os.environ['S3_BUCKET']} at {os.environ.get('AWS_ENDPOINT_URL_S3') or 'AWS'}"),
        ("engines", "those of the environment" if outside else f"embedded, their data in {held.path}"),
        ("logs", str(held.path / "logs")),
        ("shell", f'eval "$(car env{option})"'),
    ]
    console.print("[bold green]ready[/]; Ctrl-C stops it")
    for name, text in lines:
        console.print(f"  [dim]{name:<8}[/]", end="")
        console.print(text, markup=False, highlight=False)


def _reachable(host: str) -> str:
    """An address that a client on this machine can call."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - it is looked at, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP end the block like Ctrl-C, and end it well; while it winds up, more of them wait."""

    def end(*_: object) -> None:
        for name in _SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {name: signal.signal(name, end) for name in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
