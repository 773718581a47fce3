"""`python -m benchmarks all`: every benchmark with the settings of docs/performance.md, each in its own process."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.commands.bench.options import BenchDevice, DeviceOption, ModelSize, ModelSizeOption, set_up_torch
from cli.errors import OutputError

_SIZES = "--size 512x384 --size 500x375"


def run_all(
    *,
    device: DeviceOption = BenchDevice.CPU,
    models: ModelSizeOption = ModelSize.FULL,
    json_folder: Annotated[
        Path, typer.Option("--json", help="Folder that receives one JSON file per benchmark.")
    ] = Path("out/bench"),
) -> None:
    """Run every benchmark with the settings of docs/performance.md and write all figures to one folder.

    With --device cuda only the benchmarks of the models run, since those of the service do not depend on the device. On
    a CPU with models of full size the whole run takes hours.
    """
    set_up_torch(device, 1)
    try:
        json_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{json_folder} cannot be written: {error.strerror}") from None
    console, failed = Console(stderr=True, soft_wrap=True), []
    for name, arguments in commands(device, models).items():
        words = [*arguments.split(), "--json", str(json_folder / f"{name}.json")]
        console.print(f"[bold]python -m benchmarks {' '.join(words)}[/bold]")
        if subprocess.run([sys.executable, "-m", "benchmarks", *words], check=False).returncode:  # noqa: S603 - this program
            failed.append(name)
    console.print(f"The figures are in {json_folder}.")
    if failed:
        console.print(f"[red]Failed: {', '.join(failed)}[/red]; see the errors above.")
        raise typer.Exit(1)


def commands(device: BenchDevice, models: ModelSize) -> dict[str, str]:
    """The command line of each benchmark by the name of its file."""
    of_models = _tiny_models() if models is ModelSize.TINY else _full_models(device)
    of_models = {name: f"{arguments} --device {device.value}" for name, arguments in of_models.items()}
    if device is BenchDevice.CUDA:
        return of_models
    return of_models | (_small_service() if models is ModelSize.TINY else _service())


def _full_models(device: BenchDevice) -> dict[str, str]:
    segmenter = f"segmenter {_SIZES} --queries 10 --queries 20"
    other_precision = "bfloat16" if device is BenchDevice.CPU else "float32"
    networks = "--sam vit_b" if device is BenchDevice.CPU else "--sam vit_h --sam vit_b"
    return {
        "segmenter": segmenter,
        f"segmenter-{other_precision}": f"{segmenter} --precision {other_precision}",
        "crf": f"crf {_SIZES} --size 512x512 --labels 2 --labels 6 --labels 21",
        "sam": f"sam {networks} {_SIZES}",
        "batching": "batching",
        "prompts": "prompts",
        "memory": "memory --size 512x384 --size 1024x768 --words 20",
        "memory-words": "memory --models shallow --size 1024x768 --words 1000",
    }


def _tiny_models() -> dict[str, str]:
    return {
        "segmenter": "segmenter --models tiny --size 64x48 --queries 3 --turns 1",
        "crf": "crf --size 64x48 --labels 2 --turns 1",
        "sam": "sam --sam tiny --size 64x48 --points 4",
        "batching": "batching --images 3",
        "prompts": "prompts --size 64x48 --turns 1",
        "memory": "memory --models tiny --size 64x48 --words 3",
    }


def _service() -> dict[str, str]:
    names = ("rle", "engine", "listing", "latency", "predict", "results")
    return {name: name for name in names}


def _small_service() -> dict[str, str]:
    return {
        "rle": "rle --turns 1",
        "engine": "engine --items 50 --batch 8 --quick",
        "listing": "listing --keys 1000 --quick",
        "latency": "latency --images 4 --latency-ms 5",
        "predict": "predict --tasks 10 --projects 1 --samples 10 --quick",
        "results": "results --results 1000 --questions 10",
    }
