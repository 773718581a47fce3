"""`car up`: the whole service in the foreground, on embedded engines or on those of the environment."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import ProcessFailedError, UsageError
from cli.model_selection import DEMO, ModelSelection, demo_folder
from cli.options import DATA_DIR, DataFolder, Device
from cli.output.terminal import Terminal

if TYPE_CHECKING:
    from rich.console import Console

    from cli.embedded.data_dir import DataDir
    from cli.service.processes import Processes

_READY_SECONDS = 120
_DRAIN_SECONDS = 30
_POLL_SECONDS = 0.2
_SECRETS = ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "CAR_WEBHOOK_SECRET")
"""Secrets that Label Studio sends to the API; generated if the environment does not set them."""
_PASSED_ON = (
    "LABEL_STUDIO_URL",
    "LABEL_STUDIO_API_KEY",
    "LABEL_STUDIO_HOST",
    "LABEL_STUDIO_ACCESS_TOKEN",
    "CAR_PRESET",
)
"""Settings that commands in other terminals get through the data folder."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def up(
    *,
    port: Annotated[int, typer.Option("--port", help="Port of the API.", min=1, max=65535)] = 9090,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; 0.0.0.0 accepts other machines.")
    ] = "127.0.0.1",
    data_dir: DataFolder = DATA_DIR,
    device: Annotated[Device, typer.Option("--device", help="Device to compute on.")] = Device.AUTO,
) -> None:
    """Run the whole service in the foreground.

    API, workers and scheduler run until Ctrl-C. PostgreSQL, Redis and an S3 server are embedded and keep their data in
    --data-dir, unless DATABASE_URL, CELERY_BROKER_URL and S3_BUCKET are set. `car env` prints addresses and keys.
    """
    from cli.embedded import start_engines
    from cli.embedded.data_dir import DataDir
    from cli.service.prepare_services import uses_outside_engines
    from cli.service.processes import Processes

    console = Terminal(stderr=True, soft_wrap=True)
    with _ended_by_signals(), ExitStack() as stack:
        _check_port(port, host)
        engines = None
        with console.status("starting the engines"):
            if uses_outside_engines(os.environ):
                folder = stack.enter_context(DataDir(data_dir))
                folder.note(environment={})
            else:
                engines = stack.enter_context(start_engines(data_dir))
                folder = engines.data_dir
                os.environ.update(engines.environment)
        with console.status("preparing tables and bucket"):
            os.environ.setdefault("CAR_PRESET", ModelSelection(os.environ.get("CAR_MODELS") or DEMO).default_preset)
            url = f"http://{_reachable(host)}:{port}"
            api = _prepare(folder, url)
        environment = os.environ | {name: api[name] for name in _SECRETS}
        processes = Processes(folder.path / "logs", environment, lambda line: console.print(line, markup=False))
        stack.callback(_stop, processes, console)
        # The worker that loads torch takes longest, so it starts first.
        for name, arguments in {
            "worker-gpu": [
                "cli.entry_point",
                "worker",
                "--queues",
                "gpu",
                "--device",
                device.value,
            ],
            "api": ["api", "--host", host, "--port", str(port)],
            "worker-io": ["cli.entry_point", "worker", "--queues", "io"],
            "scheduler": ["cli.entry_point", "scheduler"],
        }.items():
            processes.start(name, [sys.executable, "-m", *arguments])
        with console.status("starting the API and the workers"):
            _wait_until_ready(url, api["CAR_API_KEY"], processes)
        option = "" if data_dir == DATA_DIR else f" --data-dir {data_dir}"
        console.print("[bold green]ready[/]; Ctrl-C stops the service")
        for name, text in {
            "API": f"{url}  (docs at {url}/docs)",
            "bucket": f"s3://{os.environ['S3_BUCKET']} at {os.environ.get('AWS_ENDPOINT_URL_S3') or 'AWS'}",
            "engines": f"embedded, data in {folder.path}" if engines else "from the environment",
            "models": _models(),
            "logs": folder.path / "logs",
            "shell": f'eval "$(car env{option})"',
        }.items():
            console.print(f"  [dim]{name:<8}[/]", end="")
            console.print(text, markup=False, highlight=False)
        while True:
            processes.watch()
            if engines:
                engines.check()
            time.sleep(_POLL_SECONDS)


def _models() -> str:
    """Return CAR_MODELS, and for models that know few words what they are good for."""
    from car.model_cards import read_card

    models = os.environ.get("CAR_MODELS") or DEMO
    folder = demo_folder() / "weights" if models == DEMO else Path(models)
    return read_card(folder / "proposal", models).note or models


def _check_port(port: int, host: str) -> None:
    from cli.embedded.ports import free_port, obstacle, port_holder

    if reason := obstacle(port, host):
        holder = port_holder(port)
        raise UsageError(
            f"the API cannot listen on port {port} of {host} ({reason}{f': {holder}' if holder else ''}); choose "
            f"another port, such as --port {free_port()}, or another address with --host"
        )


def _prepare(folder: "DataDir", url: str) -> dict[str, str]:
    """Prepare the engines, and store in the data folder what commands in other terminals need."""
    from cli.service.prepare_services import prepare
    from db.settings import EngineSettings

    secrets = {name: os.environ[name] for name in _SECRETS if os.environ.get(name)}
    api = prepare(EngineSettings.from_environment(), {**folder.notes().get("api", {}), **secrets})
    api["CAR_API_URL"] = url
    folder.note(api=api | {name: os.environ[name] for name in _PASSED_ON if os.environ.get(name)})
    return api


def _wait_until_ready(url: str, key: str, processes: "Processes") -> None:
    """Wait until the API answers to our key: another process may have taken the port since it was checked."""
    import httpx

    deadline = time.monotonic() + _READY_SECONDS
    answer = "nothing"
    while time.monotonic() < deadline:
        processes.watch()
        try:
            response = httpx.get(f"{url}/readyz", timeout=2, trust_env=False)
            if response.is_success:
                headers = {"Authorization": f"Bearer {key}"}
                if httpx.get(f"{url}/api/v1/presets", headers=headers, timeout=5, trust_env=False).is_success:
                    return
                raise ProcessFailedError(f"another service answers at {url}; choose another port with --port")
            answer = response.text
        except httpx.TransportError as error:
            answer = str(error)
        time.sleep(_POLL_SECONDS)
    raise ProcessFailedError(f"the API at {url} is not ready after {_READY_SECONDS} s; it answers: {answer}")


def _stop(processes: "Processes", console: "Console") -> None:
    with console.status(f"stopping; running images have {_DRAIN_SECONDS} s to finish"):
        for name in processes.stop(seconds=_DRAIN_SECONDS):
            console.print(f"{name} did not stop in time and was killed; its images are queued again", markup=False)


def _reachable(host: str) -> str:
    """Return an address that a client on this machine can call."""
    if host in ("0.0.0.0", "::", ""):  # noqa: S104 - compared, not bound
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End the block on SIGTERM, SIGINT or SIGHUP as on Ctrl-C, without an error; ignore further ones during cleanup."""

    def end(*_: object) -> None:
        for name in _SIGNALS:
            signal.signal(name, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {name: signal.signal(name, end) for name in _SIGNALS}
    try:
        yield
    except KeyboardInterrupt:
        pass
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)
