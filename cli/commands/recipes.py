"""`car recipes`: the presets, and every parameter with its meaning."""

from dataclasses import fields
from typing import Annotated, Any

import typer

app = typer.Typer(help="Presets and parameters of the segmenter.", no_args_is_help=True)

_PREFACE = """# Recipes

Every parameter that changes a mask. A preset is a recipe with the values of one data set of the paper,
`--set key=value` changes one of them, and `car recipes show PRESET` prints them. This page is the output of
`car recipes markdown`."""
_CHOICES = """Where the paper's text and the code that made its tables differ, an option chooses between them. Each is
`official` by default; `--set arithmetic=paper` chooses the paper's side of all at once, with its values for φ_iou and
for single presets."""
_COMPARED = ("mode", "eta", "theta", "lambda_", "visual_prompts", "iom", "classifier_model")


@app.command("list")
def list_() -> None:
    """Presets side by side."""
    from rich.console import Console
    from rich.table import Table

    from car.presets import PRESETS
    from car.recipe import key_of

    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("preset", *map(key_of, _COMPARED)):
        table.add_column(name, overflow="fold")
    for name, recipe in PRESETS.items():
        table.add_row(name, *(_text(getattr(recipe, one)).removeprefix("openai/") for one in _COMPARED))
    Console(markup=False, highlight=False).print(table)


@app.command()
def show(preset: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.")] = "voc") -> None:
    """Every key that --set takes, its value in a preset, and its meaning; * marks what differs from voc."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from car.presets import preset as preset_of
    from car.recipe import Recipe, key_of

    recipe, usual = preset_of(preset), preset_of("voc")
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("key", no_wrap=True)
    table.add_column("value", overflow="fold", max_width=40)
    table.add_column("meaning", overflow="fold")
    for one in (one for one in fields(Recipe) if one.name != "preset"):
        value = getattr(recipe, one.name)
        differs = value != getattr(usual, one.name)
        shown = Text(_text(value) + (" *" if differs else ""), style="bold" if differs else "")
        table.add_row(key_of(one.name), shown, one.metadata["says"])
    table.add_row("arithmetic", "", "official or paper: sets every choice between the two at once")
    Console(markup=False, highlight=False).print(table)


@app.command()
def markdown() -> None:
    """Presets and keys as a Markdown page; docs/recipe.md is this command's output."""
    from car.presets import PRESETS
    from car.recipe import Arithmetic, Recipe, key_of

    lines = [_PREFACE, "", "## Presets", "", "| preset | " + " | ".join(map(key_of, _COMPARED)) + " |"]
    lines.append("|---" * (len(_COMPARED) + 1) + "|")
    for name, recipe in PRESETS.items():
        lines.append(f"| {name} | " + " | ".join(_text(getattr(recipe, one)) for one in _COMPARED) + " |")
    plain = [one for one in fields(Recipe) if one.name != "preset" and not isinstance(one.default, Arithmetic)]
    choices = [one for one in fields(Recipe) if isinstance(one.default, Arithmetic)]
    lines += ["", "## Keys", "", "| key | voc | meaning |", "|---|---|---|"]
    lines += [f"| {key_of(one.name)} | {_text(one.default)} | {one.metadata['says']} |" for one in plain]
    lines += ["", "## Paper or official code", "", _CHOICES, "", "| key | official or paper |", "|---|---|"]
    lines += [f"| {key_of(one.name)} | {one.metadata['says']} |" for one in choices]
    typer.echo("\n".join(lines))


def _text(value: Any) -> str:  # noqa: ANN401 - as many types as fields
    """A value as --set takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return "+".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
