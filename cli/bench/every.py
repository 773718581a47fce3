"""`car bench all`: every benchmark of the models, at the settings of docs/performance.md, in one call."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cli.bench.options import OfScale, OnDevice, Scale, Where, prepare
from cli.errors import OutputError

Folder = Annotated[Path, typer.Option("--json", help="A folder: each benchmark writes its figures and pictures there.")]
Earlier = Annotated[Path | None, typer.Option("--compare", help="The folder of an earlier run, shown beside this one.")]

_PICTURES = ("--size", "512x384", "--size", "500x375")
_PLOTTED = frozenset({"segmenter", "crf", "sam"})


def every(
    *,
    device: OnDevice = Where.CPU,
    models: OfScale = Scale.FULL,
    json_folder: Folder = Path("out/bench"),
    compare: Earlier = None,
) -> None:
    """Run segmenter, crf, sam, flow and memory at the settings of docs/performance.md, all figures into one folder.

    Each has a process of its own. On a CPU with models of full size all of them take an hour and more.
    """
    prepare(device, 1)
    try:
        json_folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{json_folder} cannot be written: {error.strerror}") from None
    console, failed = Console(stderr=True), []
    for name, arguments in runs(device, models).items():
        bench = arguments[0]
        command = ["bench", *arguments, "--device", device.value, "--json", str(json_folder / f"{name}.json")]
        if bench in _PLOTTED:
            command += ["--plot", str(json_folder / f"{name}.png")]
        if compare is not None and (compare / f"{name}.json").exists():
            command += ["--compare", str(compare / f"{name}.json")]
        console.print(f"[bold]car {' '.join(command)}[/bold]")
        if subprocess.run([sys.executable, "-m", "cli.main", *command], check=False).returncode:  # noqa: S603 - this program
            failed.append(name)
    console.print(f"figures and pictures are in {json_folder}")
    for name in failed:
        console.print(f"[red]{name} failed[/red]; what it said stands above")
    if failed:
        raise typer.Exit(1)


def runs(device: Where, models: Scale) -> dict[str, list[str]]:
    """The arguments of each benchmark by the name of its file."""
    if models is Scale.TINY:
        small = ["--size", "64x48"]
        return {
            "segmenter": ["segmenter", "--models", "tiny", *small, "--queries", "3", "--turns", "1"],
            "crf": ["crf", *small, "--labels", "2", "--turns", "1"],
            "sam": ["sam", "--sam", "tiny", *small, "--points", "4"],
            "flow": ["flow", "--images", "3"],
            "memory": ["memory", "--models", "tiny", *small, "--words", "3"],
        }
    sams = ("--sam", "vit_h", "--sam", "vit_b") if device is Where.CUDA else ("--sam", "vit_b")
    found = {
        "segmenter": ["segmenter", *_PICTURES, "--queries", "10", "--queries", "20"],
        "crf": ["crf", *_PICTURES, "--size", "512x512", "--labels", "2", "--labels", "6", "--labels", "21"],
        "sam": ["sam", *sams, *_PICTURES],
        "flow": ["flow"],
        "memory": ["memory", "--size", "512x384", "--size", "1024x768", "--words", "20"],
        "memory-words": ["memory", "--models", "shallow", "--size", "1024x768", "--words", "1000"],
    }
    if device is Where.CPU:
        found["segmenter-bfloat16"] = [*found["segmenter"], "--precision", "bfloat16"]
    else:
        found["segmenter-float32"] = [*found["segmenter"], "--precision", "float32"]
    return found
