"""The demo: from images in a bucket to stored results, and a second job that reuses them."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from cli.embedded.ports import free_port
from cli.model_selection import demo_folder
from cli.options import car_command
from cli.output.history_table import HistoryTable
from cli.output.job_progress import JobWatch, all_done, summary
from cli.output.job_tables import new_table
from cli.output.result_tables import format_found_labels
from cli.output.terminal import Terminal
from cli.service.api_client import ApiClient
from cli.service.api_types import Job, ResultDetail
from cli.service.connection_settings import object_store
from cli.service.job_request import vocabulary_request
from cli.service.result_parsing import segmentation_of
from cli.service.service_process import USUAL_PORT, ServiceProcess, car_up
from cli.service.uploading import upload

_JOB_SECONDS = 600.0
_TOLD_IN_FULL = ("several.png", "overlap.jpg")
_DROPPED_SHOWN = 5
_ARROW = "→"


def label_demo_images(background: ServiceProcess, show: "DemoOutput") -> bool:
    """Run the demo's steps on a running service; return whether all images were labeled."""
    with ApiClient(background.address()) as service:
        first = _label(service, background, show, "demo/images/")
        if not all_done(first):
            show.faults(service, first)
            return False
        details = [service.result(result["id"]) for result in service.results({"job": first["id"]}, first["total"])]
        show.results(details)
        show.overlays(service, details)
        again = _label(service, background, show, "demo/the-same-again/")
        show.again(again)
        return all_done(again) and again["reused"] == again["total"]


def _label(service: ApiClient, background: ServiceProcess, show: "DemoOutput", prefix: str) -> Job:
    """Upload the demo images and label them with a job of their own."""
    store = object_store(background.data_dir)
    sent = upload(store, demo_folder() / "images", prefix, lambda _: lambda: None)
    show.line(f"{sent.sent + sent.present} images are under s3://{store.bucket}/{prefix}")
    request = demo_request({"manifest": sent.manifest}, f"demo {prefix}")
    job, _ = service.create_job(request)
    show.line(f"job {job['id']} looks for {len(request['labels'])} words in {sent.manifest}")

    def check() -> None:
        background.check()
        show.first_result(service, job)

    ended = JobWatch(service, show.console, deadline=_JOB_SECONDS, check=check).until_end(job["id"])
    if show.console.is_terminal:  # the bar is gone there; without a terminal its last line stays
        show.line(summary(ended).plain)
    return ended


def demo_request(source: dict[str, str], name: str) -> dict[str, Any]:
    """Return the demo's job request. It names no recipe, so that `car jobs create` with the same images reuses its
    results.
    """
    return vocabulary_request(None, demo_folder() / "labels.txt", None, None) | {"source": source, "name": name}


@dataclass
class DemoOutput:
    """The demo's output; plain lines without a terminal."""

    out: Path
    console: Console = field(default_factory=lambda: Terminal(highlight=False, markup=False))
    _began: float = field(default_factory=time.monotonic)
    _has_result: bool = False

    @contextmanager
    def started(self, data_dir: Path, port: int) -> Iterator[ServiceProcess]:
        began = time.monotonic()
        self.line("starting PostgreSQL, Redis, an S3 server, the API and the workers")
        with self._waiting() as ready, car_up(data_dir, port) as background:
            ready()
            self.line(f"ready after {time.monotonic() - began:.0f} s: {background.url}")
            yield background

    def line(self, text: str) -> None:
        elapsed = f"{time.monotonic() - self._began:5.1f} s  "
        self.console.print(Text.assemble((elapsed, "dim"), text), soft_wrap=True)

    def first_result(self, service: ApiClient, job: Job) -> None:
        """Print the demo's first result as soon as it exists."""
        first = None if self._has_result else next(iter(service.results({"job": job["id"]}, 1)), None)
        if first is not None:
            self._has_result = True
            self.line(f"first result: {Path(first['uri']).name}: {format_found_labels(first['masks']).plain}")

    def results(self, details: Sequence[ResultDetail]) -> None:
        """Print one line per image: what was found, and how many words each step left; then some images in full."""
        images = new_table("image", "found", "words left, step by step")
        for detail in sorted(details, key=_name):
            left = [str(sum(query["kept"] for query in step["queries"])) for step in detail["steps"]]
            asked = str(len(detail["steps"][0]["queries"]))
            images.add_row(_name(detail), format_found_labels(detail["masks"]), f" {self._arrow} ".join([asked, *left]))
        self.console.print(Text("\nWhat was found, as the API tells it", "bold"))
        self.console.print(images)
        self.console.print(Text("\nWhy: how each word fared", "bold"))
        for detail in sorted(details, key=_name):
            if _name(detail) in _TOLD_IN_FULL:
                table = HistoryTable(dropped=_DROPPED_SHOWN, hint=f"{car_command()} results history {detail['id']} -v")
                segmentation = segmentation_of(detail)
                self.console.print(table.build(_name(detail), segmentation, tuple(detail["notes"]), self.console))

    def overlays(self, service: ApiClient, details: Sequence[ResultDetail]) -> None:
        folder = self.out / "overlays"
        folder.mkdir(parents=True, exist_ok=True)
        for detail in details:
            (folder / f"{Path(_name(detail)).stem}.png").write_bytes(service.overlay(detail["id"]))
        self.line(f"{len(details)} overlays are saved in {folder}")

    def again(self, job: Job) -> None:
        self.line(
            f"the same images in another place: {job['reused']} of {job['total']} were known, none computed twice"
        )

    def faults(self, service: ApiClient, job: Job) -> None:
        from cli.output.job_tables import report_failures

        missing = job["total"] - job["counts"].get("done", 0)
        reason = f": {job['error']['detail']}" if job["error"] else f": {missing} images are not labeled"
        self.line(f"the job ended as {job['status']}{reason}")
        report_failures(service, job)

    def keep(self, background: ServiceProcess) -> None:
        self.line(f"it runs on at {background.url}, docs at {background.url}/docs; Ctrl-C ends it")
        try:
            while True:
                background.check()
                time.sleep(1)
        except KeyboardInterrupt:
            return

    def where(self, data_dir: Path) -> None:
        option = "" if data_dir == Path(".car") else f" --data-dir {data_dir}"
        port = free_port(USUAL_PORT)
        at_port = "" if port == USUAL_PORT else f" --port {port}"
        self.console.print(Text("\nLook again", "bold"))
        for command, says in (
            (
                f"{car_command()} up{option}{at_port}",
                f"starts it with all of this in it; API docs: http://127.0.0.1:{port}/docs",
            ),
            (f'eval "$({car_command()} env{option})"', "in another shell: addresses and keys"),
            (f"{car_command()} results list", "what is stored; results history ID says why"),
            (f"{self.out / 'overlays'}/", "the images with their masks"),
            (f"{data_dir}/", "the database, the bucket (images: demo/, masks: car/) and logs/"),
        ):
            self.console.print(Text.assemble((f"  {command}", "bold"), (f"  {says}", "dim")), soft_wrap=True)

    @contextmanager
    def _waiting(self) -> Iterator[Callable[[], None]]:
        """Show that the service is starting, until the returned function is called."""
        status = self.console.status("")
        if self.console.is_terminal:
            status.start()
        try:
            yield status.stop
        finally:
            status.stop()

    @property
    def _arrow(self) -> str:
        try:
            _ARROW.encode(self.console.encoding)
        except (UnicodeEncodeError, LookupError):
            return "->"
        return _ARROW


def _name(detail: ResultDetail) -> str:
    return detail["uri"].rsplit("/", 1)[-1]
