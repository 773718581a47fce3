"""`python -m benchmarks latency`: whether the models compute or wait when S3 is far away."""

from typing import Annotated, Any
from urllib.parse import urlsplit

import cv2
import torch
import typer
from rich.console import Console

from benchmarks.display import print_with_goals
from benchmarks.slow_network import SlowNetwork
from car.object_store import ObjectStore
from car.presets import preset
from car.vocabulary import parse_labels_file
from cli.commands.bench.display import progress_bar
from cli.commands.bench.environment import BenchEnvironment, bench_environment
from cli.commands.bench.options import JsonOption, ThreadsOption
from cli.commands.bench.report import Report
from cli.model_selection import ModelSelection, demo_folder
from db.objects import S3ObjectStore
from demo.scenes import held_out_scenes
from worker.bootstrap import make_pipeline
from worker.pipeline.postprocess_pool import PostprocessPool
from worker.pipeline.types import DrainStats
from worker.settings import WorkerSettings

_GOAL = 0.9


def latency(
    context: typer.Context,
    *,
    images: Annotated[int, typer.Option(min=4, help="Number of scenes, all different.")] = 64,
    latency_ms: Annotated[float, typer.Option(min=0, max=5000, help="Of S3 per direction: twice a request.")] = 50,
    models: Annotated[str, typer.Option(help="demo, openai, or a folder.")] = "demo",
    batch: Annotated[int, typer.Option(min=0, max=256, help="Images segmented together; 0: the default.")] = 0,
    threads: ThreadsOption = 1,
    json_file: JsonOption = None,
) -> None:
    """Measure the share of time in which the models compute with an S3 server behind a slow network.

    The pipeline, its models and the S3 server are real; the network is a proxy in this process.
    """
    torch.set_num_threads(threads)
    report = Report.start(context, json_file)
    with bench_environment(durable=True, which=("postgres", "s3")) as environment:
        objects = S3ObjectStore.from_settings(environment.settings)
        objects.ensure_bucket()
        uris = _upload(objects, images)
        server = urlsplit(environment.settings.aws_endpoint_url_s3 or "")
        with SlowNetwork(server.hostname or "", server.port or 0, latency=latency_ms / 1000) as network:
            host, port = network.address
            stats = _run_pipeline(environment, f"http://{host}:{port}", uris, models, batch)
    figures = {"images": images, "latency_ms": latency_ms, "models": models, "threads": threads} | _figures(stats)
    rows = [
        ("models busy, share of the time after they started", f"{figures['busy_share']:.1%}", f">= {_GOAL:.0%}"),
        ("models busy, share of the whole time", f"{figures['busy_share_of_all']:.1%}", ""),
        ("seconds until the models start", f"{figures['first_turn_seconds']:.2f}", ""),
        ("seconds in total", f"{figures['seconds']:.2f}", ""),
        ("scenes/s", f"{figures['images_per_second']:.2f}", ""),
        ("steps of the models", f"{figures['turns']}", ""),
    ]
    title = f"{figures['done']} scenes, {models} models, S3 {latency_ms:g} ms away per direction"
    print_with_goals(Console(soft_wrap=True), title, rows)
    report.finish(figures)


def _upload(objects: ObjectStore, images: int) -> list[str]:
    uris = []
    with progress_bar() as progress:
        for number, scene in enumerate(progress.track(held_out_scenes(images), description="uploading scenes")):
            data = cv2.imencode(".png", scene.image[..., ::-1])[1].tobytes()
            uris.append(f"s3://{objects.bucket}/{objects.put(f'scenes/{number}.png', data, 'image/png')}")
    return uris


def _run_pipeline(environment: BenchEnvironment, endpoint: str, uris: list[str], models: str, batch: int) -> DrainStats:
    choice = ModelSelection(models)
    labels = parse_labels_file((demo_folder() / "labels.txt").read_text())
    environment.queue_images(uris, [label.name for label in labels], recipe=choice.default_preset)
    settings = WorkerSettings.model_validate(
        {**environment.variables, "AWS_ENDPOINT_URL_S3": endpoint, "CAR_BATCH": batch, "CAR_MODELS": models}
    )
    objects = S3ObjectStore.from_settings(settings, connections=settings.fetch_threads + settings.store_threads)
    paths = choice.paths(preset(choice.default_preset))
    with Console(stderr=True).status("labeling the scenes"):
        pipeline = make_pipeline(settings, paths, environment.engine, objects, "bench")
        try:
            return pipeline.run_until_idle()
        finally:
            if isinstance(pipeline.postprocess, PostprocessPool):
                pipeline.postprocess.close()


def _figures(stats: DrainStats) -> dict[str, Any]:
    first = stats.first_step_seconds or 0.0
    return {
        "done": stats.done,
        "turns": stats.model_steps,
        "seconds": stats.seconds,
        "first_turn_seconds": first,
        "busy_seconds": stats.busy_seconds,
        "images_per_second": stats.done / stats.seconds,
        "busy_share": stats.busy_seconds / (stats.seconds - first),
        "busy_share_of_all": stats.busy_seconds / stats.seconds,
    }
