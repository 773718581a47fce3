"""`car models`: which CLIPs are here, and fetching those that are not."""

from pathlib import Path
from typing import Annotated

import typer

from car.recipe import Recipe
from cli.model_choice import DEMO, OPENAI, demo_folder

app = typer.Typer(help="Weights: the built-in pair, and those of the hub.", no_args_is_help=True)

_MEBIBYTE = 2**20


@app.command("list")
def list_() -> None:
    """What is here: the built-in demo pair, and the models that presets ask for."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("model", "for", "here", "size", "sha256"):
        table.add_column(name, overflow="fold")
    built_in = {str(demo_folder() / "weights" / role): role for role in ("proposal", "classifier")}
    asked = {where: f"demo: {role}" for where, role in built_in.items()} | {i: _asked_by(i) for i in _hub_ids()}
    for where, purpose in asked.items():
        here, size, sha = _state(where)
        name = f"demo {built_in[where]}" if where in built_in else where
        table.add_row(name, purpose, Text(here, style="green" if sha else "yellow"), size, sha)
    Console(markup=False, highlight=False).print(table)


@app.command()
def pull(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[openai|HUB_ID]...", help="openai is every CLIP that the presets ask for."),
    ] = None,
) -> None:
    """Fetch models from the hub ahead of time, safetensors only. Exit code 1 if one could not be fetched."""
    from car.weights_digest import weights_digest
    from worker.errors import WeightsMissing
    from worker.hub import pull as fetch
    from worker.weights import folder_of

    wanted: dict[str, None] = {}
    for model in models or [OPENAI]:
        wanted |= dict.fromkeys(_hub_ids() if model == OPENAI else [model])
    failed = False
    for hub_id in wanted:
        try:
            fetch(hub_id)
            folder = folder_of(hub_id)
        except WeightsMissing as error:
            typer.echo(f"failed: {error}", err=True)
            failed = True
            continue
        typer.echo(f"{hub_id} is here: {folder} (sha256 {weights_digest(folder)})")
    if failed:
        raise typer.Exit(1)


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
    from worker.weights import folder_of

    try:
        folder = folder_of(where)
    except WeightsError:
        return ("no" if Path(where).is_absolute() else f"no; car models pull {where}"), "", ""
    size = (folder / "model.safetensors").stat().st_size / _MEBIBYTE
    return "yes", f"{size:.1f} MiB", weights_digest(folder)[:12]
