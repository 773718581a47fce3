"""`car models`: which CLIPs and SAMs are here, and fetching those that are not."""

from pathlib import Path
from typing import Annotated

import typer

from car.recipe import Recipe
from cli.model_selection import DEMO, OPENAI, demo_folder

app = typer.Typer(help="Weights: the built-in ones, those of the hub, and SAM's.", no_args_is_help=True)

_MEBIBYTE = 2**20


@app.command("list")
def list_() -> None:
    """What is here: the built-in demo models, and the models that presets ask for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("model", "for", "here", "size", "sha256"):
        table.add_column(name, overflow="fold")
    built_in = {str(demo_folder() / "weights" / role): role for role in ("proposal", "classifier", "sam")}
    asked = {where: f"demo: {role}" for where, role in built_in.items()} | {i: _asked_by(i) for i in _hub_ids()}
    asked |= dict.fromkeys(_sams(), "sam, where a recipe turns it on")
    for where, purpose in asked.items():
        here, size, sha = _state(where)
        name = f"demo {built_in[where]}" if where in built_in else where
        table.add_row(name, purpose, Text(here, style="green" if sha else "yellow"), size, sha)
    Console(markup=False, highlight=False).print(table)


@app.command()
def pull(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[openai|HUB_ID|SAM]...",
            help="openai is every CLIP that the presets ask for; a SAM is sam-vit-b, sam-vit-l or sam-vit-h.",
        ),
    ] = None,
) -> None:
    """Fetch models ahead of time: CLIPs from the hub, safetensors only; SAMs from their authors, known by their sha256
    and converted to safetensors. Exit code 1 if one could not be fetched.
    """
    from car.weights_digest import weights_digest
    from worker.errors import WeightsError

    wanted: dict[str, None] = {}
    for model in models or [OPENAI]:
        wanted |= dict.fromkeys(_hub_ids() if model == OPENAI else [model])
    failed = False
    for name in wanted:
        try:
            folder = _fetched_sam(name) if name in _sams() else _fetched_clip(name)
        except WeightsError as error:
            typer.echo(f"failed: {error}", err=True)
            failed = True
            continue
        typer.echo(f"{name} is here: {folder} (sha256 {weights_digest(folder)})")
    if failed:
        raise typer.Exit(1)


@app.command()
def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A released sam_vit_*.pth.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[FOLDER]", help="Where to; by default where `car models pull` puts it.")
    ] = None,
) -> None:
    """Make a SAM folder of a checkpoint of SAM's authors. Others are refused: a pickle can run code."""
    from car.weights_digest import weights_digest
    from worker.models.sam_checkpoints import store
    from worker.models.weights import convert_sam, release_of

    to = folder or store() / release_of(checkpoint)
    name = convert_sam(checkpoint, to)
    typer.echo(f"{name} is here: {to} (sha256 {weights_digest(to)})")


def _fetched_clip(hub_id: str) -> Path:
    from worker.models.hub import pull as fetch
    from worker.models.weights import folder_of

    fetch(hub_id)
    return folder_of(hub_id)


def _fetched_sam(name: str) -> Path:
    from worker.errors import WeightsMissingError
    from worker.models.sam_checkpoints import fetched, pulled_sam, store
    from worker.models.weights import convert_sam

    try:
        return pulled_sam(name)
    except WeightsMissingError:
        with fetched(name) as checkpoint:
            convert_sam(checkpoint, store() / name)
        return pulled_sam(name)


def _sams() -> list[str]:
    from worker.models.sam_checkpoints import RELEASES

    return list(RELEASES)


def _hub_recipes() -> dict[str, Recipe]:
    """The presets that are made for models of the hub."""
    from car.presets import PRESETS

    return {name: recipe for name, recipe in PRESETS.items() if name != DEMO}


def _hub_ids() -> list[str]:
    """Every hub id that a preset asks for, in the order of the presets."""
    asked = [model for recipe in _hub_recipes().values() for model in (recipe.proposal_model, recipe.classifier_model)]
    return list(dict.fromkeys(asked))


def _asked_by(hub_id: str) -> str:
    recipes = _hub_recipes()
    roles = {
        "proposal": [name for name, recipe in recipes.items() if recipe.proposal_model == hub_id],
        "classifier": [name for name, recipe in recipes.items() if recipe.classifier_model == hub_id],
    }
    said = {role: "all presets" if len(names) == len(recipes) else ", ".join(names) for role, names in roles.items()}
    return "; ".join(f"{role}: {names}" for role, names in said.items() if names)


def _state(where: str) -> tuple[str, str, str]:
    """Whether the model is here, its size, and the beginning of its digest."""
    from car.weights_digest import weights_digest
    from worker.errors import WeightsError
    from worker.models.weights import folder_of, sam_folder_of

    try:
        folder = sam_folder_of(where) if Path(where).name.startswith("sam") else folder_of(where)
    except WeightsError:
        return ("no" if Path(where).is_absolute() else f"no; car models pull {where}"), "", ""
    size = (folder / "model.safetensors").stat().st_size / _MEBIBYTE
    return "yes", f"{size:.1f} MiB", weights_digest(folder)[:12]
