"""Options that several commands share, so that they are named and explained alike everywhere."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from car.options import CrfBackend, Precision
from car.recipe import Mode, Recipe
from car.vocabulary import Label, Vocabulary, parse_labels, parse_labels_file
from cli.errors import UsageError


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


_WORDS, _MODELS, _RECIPE = "Words", "Models", "Recipe"
DATA_DIR = Path(".car")

DataFolder = Annotated[
    Path,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        envvar="CAR_DATA_DIR",
        help="Folder of `car up`; says where the service is, unless the environment does (CAR_API_URL, CAR_API_KEY).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for scripts.")]

Labels = Annotated[
    str | None, typer.Option("--labels", help='Words to look for: "red car,rusty bolt".', rich_help_panel=_WORDS)
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        "--labels-file",
        help='A label a line, or JSON {"name": "car", "prompts": ["car", "automobile"]}.',
        rich_help_panel=_WORDS,
    ),
]
Background = Annotated[
    str,
    typer.Option(
        "--background",
        help="Words that compete and never become masks: shipped, terrestrial, aquatic-atmospheric, man-made, none "
        "(joined by +), or your own, separated by commas.",
        rich_help_panel=_WORDS,
    ),
]
Models = Annotated[
    str,
    typer.Option(
        "--models",
        help="demo (built in, knows coloured shapes), openai (the recipe's CLIPs from the hub), or a folder that holds "
        "proposal/ and classifier/.",
        rich_help_panel=_MODELS,
    ),
]
ProposalModel = Annotated[
    str | None,
    typer.Option(
        "--proposal-model", metavar="DIR", help="CLIP f, which proposes masks, instead.", rich_help_panel=_MODELS
    ),
]
ClassifierModel = Annotated[
    str | None,
    typer.Option(
        "--classifier-model", metavar="DIR", help="CLIP g, which judges them, instead.", rich_help_panel=_MODELS
    ),
]
NO_SAM = "none"
Sam = Annotated[
    str | None,
    typer.Option(
        "--sam",
        metavar="PATH|none",
        help="Refine masks with this SAM: a folder or sam-vit-b, -l, -h; none: with no SAM. Without this option "
        "sam=on takes the one beside the models.",
        rich_help_panel=_MODELS,
    ),
]
OnDevice = Annotated[Device, typer.Option("--device", help="Where to compute.", rich_help_panel=_MODELS)]
InPrecision = Annotated[
    Precision,
    typer.Option(
        "--precision",
        help="auto: float32 on a CPU, float16 on CUDA. bfloat16 takes a CPU that has it half the time.",
        rich_help_panel=_MODELS,
    ),
]
ByWhom = Annotated[
    CrfBackend,
    typer.Option(
        "--crf",
        help="Who computes the CRF: ours, or pydensecrf, the reference on the CPU. Masks are the same.",
        rich_help_panel=_MODELS,
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help="Recipe to begin with (see `car recipes list`); demo for the demo models, else voc.",
        rich_help_panel=_RECIPE,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one parameter, such as theta=0.5; repeatable (see `car recipes show`).",
        rich_help_panel=_RECIPE,
    ),
]


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """`key=value` strings as a mapping; the last value of a key counts."""
    parsed = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {setting!r} is not KEY=VALUE, such as --set theta=0.5")
        parsed[key.strip()] = value.strip()
    return parsed


def recipe_of(preset_name: str, settings: list[str] | None) -> Recipe:
    """The preset with the settings applied."""
    from car.presets import preset

    return preset(preset_name).with_settings(parse_settings(settings))


def with_sam(recipe: Recipe, sam: str | None, settings: list[str] | None) -> Recipe:
    """The recipe with --sam's word on whether there is one: a SAM turns it on, none turns it off."""
    if sam is None:
        return recipe
    wanted = sam != NO_SAM
    if "sam" in parse_settings(settings) and recipe.sam is not wanted:
        raise UsageError(f"--sam {sam} and --set sam={'on' if recipe.sam else 'off'} say the opposite of each other")
    return replace(recipe, sam=wanted)


def labels_of(labels: str | None, labels_file: Path | None, *, default: Path | None = None) -> list[Label]:
    """Labels from exactly one of the two options, or from the `default` file where neither is given."""
    if labels is not None and labels_file is not None:
        raise UsageError("give --labels or --labels-file, not both")
    if labels is not None:
        return parse_labels(labels)
    source = labels_file or default
    if source is None:
        raise UsageError('no labels: give --labels "red car,rusty bolt" or --labels-file FILE')
    try:
        return parse_labels_file(source.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UsageError(f"the labels file {source} is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise UsageError(f"the labels file {source} cannot be read: {error.strerror}") from None


def vocabulary_of(labels: list[Label], background: str, mode: Mode) -> Vocabulary:
    """Labels against a background: names of lists joined by +, or own words where there is a comma."""
    return Vocabulary.of(labels, background=background_of(background), mode=mode)


def background_of(background: str) -> str | list[str]:
    return [word for word in background.split(",") if word.strip()] if "," in background else background
