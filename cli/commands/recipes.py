"""`car recipes`: the presets, and every recipe parameter with its meaning."""

from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.options import AsJsonLines, FormatOption, OutputFormat, output_format
from cli.output.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.table import Table

app = typer.Typer(help="Show the segmenter's presets and parameters.", no_args_is_help=True)

_PREFACE = """# Recipes

A recipe holds every parameter that can change a mask. A preset is a recipe with the values of one data set of the
paper, `--set key=value` changes one of them, and `car recipes show PRESET` prints them. This page is the output of
`car recipes markdown`."""
_DIFFERENCES = """\
- Probabilities that underflow: the official code differentiates a float32 softmax, so a word whose probability is
  below about 1e-38 gets an empty CAM and a second one without the background. Here the CAM is computed from
  logarithms and does not underflow. With real CLIPs this case does not occur.
- Images that are padded to exactly 76 patches, such as 64 x 304 pixels: the official code takes their 77 tokens for a
  text and runs all blocks of the image encoder. Here they are treated as all other images.
- A step in which no query has a CAM: each query keeps its CAM of the step before; the official code assigns them to
  other labels.
- A pixel whose CAM equals η up to rounding can be in the crop or not. That word's score then differs by up to 2e-3
  with tiny random models (crops of 32 pixels); every other score differs by less than 1e-4, and the kept words and
  steps are the same."""

_CHOICES = """Where the paper's text and the code that made its tables differ, an option chooses between them. Each is
`official` by default; `--set arithmetic=paper` selects the paper for all of them, with its values for φ_iou and for
single presets."""
_COMPARED = ("mode", "eta", "theta", "lambda_", "visual_prompts", "iom", "classifier_model")


@app.command("list")
def list_(*, output: FormatOption = OutputFormat.TABLE, as_json: AsJsonLines = False) -> None:
    """Compare the presets. In JSON each has all its parameters."""
    from car.presets import PRESETS
    from cli.output.listing import UNLIMITED, print_list

    presets = [recipe.to_json() for recipe in PRESETS.values()]
    print_list(lambda most: presets[:most], _presets_table, output=output_format(output, as_json), limit=UNLIMITED - 1)


@app.command()
def show(preset: Annotated[str, typer.Argument(metavar="PRESET", help="Name of a preset.")] = "voc") -> None:
    """Show every key of --set with its value in a preset and its meaning; * marks differences from voc."""
    from rich.text import Text

    from car.presets import preset as preset_of
    from car.recipe import Recipe, key_of
    from cli.output.job_tables import new_table, print_table

    recipe, voc = preset_of(preset), preset_of("voc")
    table = new_table("key", "value", "meaning")
    for field in (field for field in fields(Recipe) if field.name != "preset"):
        value = getattr(recipe, field.name)
        differs = value != getattr(voc, field.name)
        cell = Text(_text(value) + (" *" if differs else ""), style="bold" if differs else "")
        table.add_row(key_of(field.name), cell, field.metadata["says"])
    table.add_row("arithmetic", "", "official or paper: sets every choice between the two at once")
    print_table(table)


@app.command()
def markdown() -> None:
    """Print docs/recipe.md: presets and keys as a Markdown page."""
    from car.presets import PRESETS
    from car.recipe import Arithmetic, Recipe, key_of

    lines = [_PREFACE, "", "## Presets", "", "| preset | " + " | ".join(map(key_of, _COMPARED)) + " |"]
    lines.append("|---" * (len(_COMPARED) + 1) + "|")
    for name, recipe in PRESETS.items():
        lines.append(f"| {name} | " + " | ".join(_text(getattr(recipe, field)) for field in _COMPARED) + " |")
    lines += ["", "## Keys", "", "| key | voc | meaning |", "|---|---|---|"]
    choices = []
    for field in fields(Recipe):
        if isinstance(field.default, Arithmetic):
            choices.append(f"| {key_of(field.name)} | {field.metadata['says']} |")
        elif field.name != "preset":
            lines.append(f"| {key_of(field.name)} | {_text(field.default)} | {field.metadata['says']} |")
    lines += ["", "## Paper or official code", "", _CHOICES, "", "| key | official or paper |", "|---|---|", *choices]
    lines += ["", "## Where results differ from the official code", "", _DIFFERENCES]
    echo("\n".join(lines))


def _presets_table(presets: "Iterable[dict[str, Any]]") -> "Table":
    from car.recipe import key_of
    from cli.output.job_tables import new_table

    keys = [key_of(field) for field in _COMPARED]
    table = new_table("preset", *keys)
    for preset in presets:
        table.add_row(preset["preset"], *(_text(preset[key]).removeprefix("openai/") for key in keys))
    return table


def _text(value: Any) -> str:  # noqa: ANN401 - as many types as fields
    """Format a value as --set takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple | list):
        return "+".join(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
