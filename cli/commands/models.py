"""`car models`: list, fetch and convert CLIP and SAM weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.model_selection import DEMO, OPENAI, demo_folder
from cli.options import AsJsonLines, FormatOption, OutputFormat, car_command, output_format
from cli.output.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

app = typer.Typer(help="List, download and convert model weights.", no_args_is_help=True)

_MEBIBYTE = 2**20


@app.command("list")
def list_(*, output: FormatOption = OutputFormat.TABLE, as_json: AsJsonLines = False) -> None:
    """List the built-in models and those that presets and SAM need, with size and sha256."""
    from cli.output.listing import UNLIMITED, print_list
    from worker.models.sam_checkpoints import RELEASES

    demo = {role: str(demo_folder() / "weights" / role) for role in ("proposal", "classifier", "sam")}
    rows = [(f"demo {role}", f"demo: {role}", path) for role, path in demo.items()]
    rows += [(hub_id, purpose, hub_id) for hub_id, purpose in _hub_models().items()]
    rows += [(name, "recipes with sam=on", name) for name in RELEASES]
    models = [{"model": name, "used_by": purpose, **_state(path)} for name, purpose, path in rows]
    print_list(lambda most: models[:most], _table, output=output_format(output, as_json), limit=UNLIMITED - 1)


@app.command()
def pull(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[openai|HUB_ID|SAM]...",
            help="openai: every CLIP of the presets (default); a hub id; or sam-vit-b, sam-vit-l, sam-vit-h.",
        ),
    ] = None,
) -> None:
    """Download models: CLIPs from the hub (safetensors only), SAMs from their authors.

    SAM checkpoints are checked by their sha256 and converted to safetensors. Exit code 1: a download failed.
    """
    from car.weights_digest import weights_digest
    from worker.errors import WeightsError
    from worker.models.sam_checkpoints import RELEASES

    names: dict[str, None] = {}
    for model in models or [OPENAI]:
        names |= dict.fromkeys(_hub_models() if model == OPENAI else [model])
    failed = False
    for name in names:
        try:
            folder = _pull_sam(name) if name in RELEASES else _pull_clip(name)
        except WeightsError as error:
            echo(f"failed: {error}", err=True)
            failed = True
            continue
        echo(f"{name}: {folder} (sha256 {weights_digest(folder)})")
    if failed:
        raise typer.Exit(1)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A released sam_vit_*.pth.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Output folder. Default: that of `car models pull`.")
    ] = None,
) -> None:
    """Convert a checkpoint of SAM's authors to a SAM folder; others are refused, as a pickle can run code."""
    from car.weights_digest import weights_digest
    from worker.models.sam_checkpoints import sam_cache
    from worker.models.weights import convert_sam, identify_release

    output = folder or sam_cache() / identify_release(checkpoint)
    name = convert_sam(checkpoint, output)
    echo(f"{name}: {output} (sha256 {weights_digest(output)})")


def _pull_clip(hub_id: str) -> Path:
    from worker.models.hub import pull as download
    from worker.models.weights import find_clip_folder

    download(hub_id)
    return find_clip_folder(hub_id)


def _pull_sam(name: str) -> Path:
    from worker.errors import WeightsMissingError
    from worker.models.sam_checkpoints import cached_sam_folder, downloaded_release, sam_cache
    from worker.models.weights import convert_sam

    try:
        return cached_sam_folder(name)
    except WeightsMissingError:
        with downloaded_release(name) as checkpoint:
            convert_sam(checkpoint, sam_cache() / name)
        return cached_sam_folder(name)


def _hub_models() -> dict[str, str]:
    """Return the hub ids of the presets' CLIPs, each with the presets that use it."""
    from car.presets import PRESETS

    presets = {name: recipe for name, recipe in PRESETS.items() if name != DEMO}
    uses: dict[str, dict[str, list[str]]] = {}
    for name, recipe in presets.items():
        for role, hub_id in (("proposal", recipe.proposal_model), ("classifier", recipe.classifier_model)):
            uses.setdefault(hub_id, {}).setdefault(role, []).append(name)

    def text(names: list[str]) -> str:
        return "all presets" if len(names) == len(presets) else ", ".join(names)

    return {
        hub_id: "; ".join(f"{role}: {text(names)}" for role, names in roles.items()) for hub_id, roles in uses.items()
    }


def _table(models: "Iterable[dict[str, Any]]") -> "Table":
    from rich.text import Text

    from cli.output.job_tables import new_table

    table = new_table("model", "used by", "available", "size", "sha256")
    table.columns[0].no_wrap = True
    for model in models:
        size = f"{model['bytes'] / _MEBIBYTE:.1f} MiB" if model["available"] else ""
        available = Text("yes", "green") if model["available"] else Text(model["get_it"], "yellow")
        table.add_row(model["model"], model["used_by"], available, size, (model["sha256"] or "")[:12])
    return table


def _state(path: str) -> dict[str, Any]:
    """Return whether the model is available, its size and sha256, and otherwise how to get it."""
    from car.weights_digest import WEIGHTS, weights_digest
    from worker.errors import WeightsError
    from worker.models.weights import find_clip_folder, find_sam_folder

    try:
        folder = find_sam_folder(path) if Path(path).name.startswith("sam") else find_clip_folder(path)
    except WeightsError:
        get_it = "no" if Path(path).is_absolute() else f"no; {car_command()} models pull {path}"
        return {"available": False, "bytes": None, "sha256": None, "get_it": get_it}
    size = (folder / WEIGHTS).stat().st_size
    return {"available": True, "bytes": size, "sha256": weights_digest(folder), "get_it": None}
