"""`car bench engine`: images a second through everything around the models."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from cli.commands.bench.display import number_table, progress_bar
from cli.commands.bench.options import DurableOption, JsonOption
from cli.commands.bench.report import Report, peak_memory
from cli.output.terminal import Terminal

if TYPE_CHECKING:
    from cli.commands.bench.environment import BenchEnvironment
    from worker.pipeline.pipeline import Pipeline

ItemsOption = Annotated[int, typer.Option(min=50, help="Number of images, all different.")]
BatchOption = Annotated[int, typer.Option(min=1, max=256, help="Images that the model takes at once.")]
S3Option = Annotated[bool, typer.Option("--s3/--no-s3", help="Also measure with a real S3 server.")]
Run = Callable[["Pipeline"], dict[str, Any]]


def engine(
    context: typer.Context,
    *,
    items: ItemsOption = 5000,
    batch: BatchOption = 32,
    s3: S3Option = True,
    durable: DurableOption = True,
    json_file: JsonOption = None,
) -> None:
    """Measure images a second around the models: a segmenter that does nothing, everything else real.

    Queue, claims, leases, decoding, look-ups, masks as objects, rows and commits are those of `car worker`. The
    segmenter gives every image the same two masks and six rows of history.
    """
    from cli.commands.bench.environment import bench_environment

    report = Report.start(context, json_file)
    figures: dict[str, Any] = {"items": items, "batch": batch, "durable": durable}
    with bench_environment(durable=durable, which=("postgres", "s3") if s3 else ("postgres",)) as environment:
        figures |= measure_stores(environment, items, batch, s3=s3)
    memory = peak_memory()
    print_rates(figures)
    Terminal().print(f"peak memory {memory / 2**20:,.0f} MiB")
    report.finish(figures | {"peak_memory_bytes": memory})


def run_to_end(pipeline: "Pipeline") -> dict[str, Any]:
    """Return the rate from the first claim to the last commit."""
    stats = pipeline.run_until_idle()
    return {"items_per_second": stats.done / stats.seconds, "done": stats.done}


def measure_stores(
    environment: "BenchEnvironment", items: int, batch: int, *, s3: bool, run: Run = run_to_end
) -> dict[str, Any]:
    """Measure new and known images with objects in memory and, if `s3`, in S3. Raises: AssertionError."""
    from car.object_store import ObjectStore
    from cli.commands.bench.fake_model import LABELS, FakePostprocess, FakeSegmenter, MemoryObjects, small_png
    from db.objects import S3ObjectStore
    from worker.pipeline.pipeline import Pipeline

    stores: dict[str, MemoryObjects | ObjectStore] = {"memory": MemoryObjects()}
    if s3:
        stores["s3"] = store = S3ObjectStore.from_settings(environment.settings)
        store.ensure_bucket()
    figures: dict[str, Any] = {"s3": None}
    for position, (name, objects) in enumerate(stores.items()):

        def upload(number: int, objects: MemoryObjects | ObjectStore = objects) -> str:
            return f"s3://{objects.bucket}/{objects.put(f'in/{number}.png', small_png(number), 'image/png')}"

        numbers = range(position * items, (position + 1) * items)  # other stores have other images
        with progress_bar() as progress, ThreadPoolExecutor(8) as pool:
            uris = list(progress.track(pool.map(upload, numbers), total=items, description=f"images into {name}"))
        cases = {}
        for case in ("new", "known"):
            environment.queue_images(uris, LABELS)
            readable = cast("ObjectStore", objects)
            cases[case] = run(Pipeline(environment.engine, readable, FakeSegmenter(batch), FakePostprocess(), "bench"))
            if cases[case].pop("done") != items:
                raise AssertionError(f"only some of {items} {case} images were done")
        figures[name] = cases
    return figures


def print_rates(figures: dict[str, Any]) -> None:
    title = f"{figures['items']:,} items, fake segmenter, batch {figures['batch']}"
    table = number_table("items/s", "new images", "known images", title=title)
    for key, name in (("s3", "objects in S3"), ("memory", "objects in memory (no S3)")):
        if figures[key]:
            table.add_row(name, *(f"{figures[key][case]['items_per_second']:,.0f}" for case in ("new", "known")))
    Terminal(soft_wrap=True).print(table)
