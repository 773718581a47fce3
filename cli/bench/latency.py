"""`car bench latency`: whether the models' thread computes or waits when S3 is far away."""

from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console

from cli.bench.figures import bar, show
from cli.bench.record import CompareFile, FailAbove, JsonFile, Record

if TYPE_CHECKING:
    from cli.bench.ground import Ground
    from db.objects import ObjectStore
    from worker.pipeline.work import Drained

_GOAL = 0.9
_PREFIX = "scenes/"


def latency(
    context: typer.Context,
    *,
    images: Annotated[int, typer.Option(min=4, help="Scenes, each another one.")] = 64,
    latency_ms: Annotated[float, typer.Option(min=0, max=5000, help="Of S3, each way, so twice a request.")] = 50,
    models: Annotated[str, typer.Option(help="demo, openai, or a folder.")] = "demo",
    batch: Annotated[int, typer.Option(min=0, max=256, help="Pictures segmented together; 0: by device.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Of the models on a CPU.")] = 1,
    json_file: JsonFile = None,
    compare: CompareFile = None,
    fail_above: FailAbove = None,
) -> None:
    """Measure the share of time in which the models compute, with an S3 server behind a slow network.

    The pipeline, its models and the S3 server are real; the network is a proxy in this process.
    """
    import torch

    from cli.bench.ground import ground
    from cli.bench.slow_network import SlowNetwork
    from db.objects import ObjectStore

    torch.set_num_threads(threads)
    record = Record.begin(context, json_file, compare, fail_above)
    figures: dict[str, Any] = {"images": images, "latency_ms": latency_ms, "models": models}
    figures["threads"] = threads
    with ground(durable=True, which=("postgres", "s3")) as here:
        objects = ObjectStore.of(here.settings)
        objects.ensure_bucket()
        uris = _upload(objects, images)
        far = urlsplit(here.settings.aws_endpoint_url_s3 or "")
        with SlowNetwork(far.hostname or "", far.port or 0, latency=latency_ms / 1000) as network:
            host, port = network.address
            drained = _drain(here, f"http://{host}:{port}", uris, models, batch)
    figures |= _shares(drained)
    _print(figures)
    record.end(figures)


def _upload(objects: "ObjectStore", images: int) -> list[str]:
    import cv2

    from demo.scenes import held_out_scenes

    uris = []
    with bar() as progress:
        for number, scene in enumerate(progress.track(held_out_scenes(images), description="uploading scenes")):
            data = cv2.imencode(".png", scene.image[..., ::-1])[1].tobytes()
            uris.append(f"s3://{objects.bucket}/{objects.put(f'{_PREFIX}{number}.png', data, 'image/png')}")
    return uris


def _drain(here: "Ground", endpoint: str, uris: list[str], models: str, batch: int) -> "Drained":
    from car.presets import preset
    from car.vocabulary import parse_labels_file
    from cli.model_choice import ModelChoice, demo_folder
    from db.objects import ObjectStore
    from worker.finishers import Finishers
    from worker.settings import WorkerSettings
    from worker.start import make_pipeline

    choice = ModelChoice(models)
    labels = parse_labels_file((demo_folder() / "labels.txt").read_text())
    here.queue(uris, [label.name for label in labels], recipe=choice.default_preset)
    settings = WorkerSettings.model_validate(
        {**here.environment, "AWS_ENDPOINT_URL_S3": endpoint, "CAR_BATCH": batch, "CAR_MODELS": models}
    )
    objects = ObjectStore.of(settings, connections=settings.fetch_threads + settings.store_threads)
    places = choice.places(preset(choice.default_preset))
    with Console(stderr=True).status("labeling the scenes"):
        pipeline = make_pipeline(settings, places, here.engine, objects, "bench")
        try:
            return pipeline.drain()
        finally:
            if isinstance(pipeline.finish, Finishers):
                pipeline.finish.close()


def _shares(drained: "Drained") -> dict[str, Any]:
    first = drained.first_turn_seconds or 0.0
    return {
        "done": drained.done,
        "turns": drained.turns,
        "seconds": drained.seconds,
        "first_turn_seconds": first,
        "busy_seconds": drained.busy_seconds,
        "images_per_second": drained.done / drained.seconds,
        "busy_share": drained.busy_seconds / (drained.seconds - first),
        "busy_share_of_all": drained.busy_seconds / drained.seconds,
    }


def _print(figures: dict[str, Any]) -> None:
    rows = [
        (
            "the models compute, share of the time after they began",
            f"{figures['busy_share']:.1%}",
            f">= {_GOAL:.0%}",
        ),
        ("the same, from the beginning", f"{figures['busy_share_of_all']:.1%}", ""),
        ("seconds until the models begin", f"{figures['first_turn_seconds']:.2f}", ""),
        ("seconds in all", f"{figures['seconds']:.2f}", ""),
        ("scenes/s", f"{figures['images_per_second']:.2f}", ""),
        ("turns of the models", f"{figures['turns']}", ""),
    ]
    title = f"{figures['done']} scenes, {figures['models']} models, S3 {figures['latency_ms']:g} ms away each way"
    show(Console(soft_wrap=True), title, rows)
