"""Options that several commands share."""

import shlex
import shutil
import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from car.options import CrfBackend, Precision
from car.vocabulary import Label, parse_labels, parse_labels_file
from cli.errors import UsageError


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


class Device(StrEnum):
    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


label_option = partial(typer.Option, rich_help_panel="Labels")
model_option = partial(typer.Option, rich_help_panel="Models")
recipe_option = partial(typer.Option, rich_help_panel="Recipe")
DATA_DIR = Path(".car")
INTERRUPTED = 130
"""Exit code after Ctrl-C."""

DataFolder = Annotated[
    Path,
    typer.Option("--data-dir", metavar="DIR", envvar="CAR_DATA_DIR", help="Data folder of `car up`."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts.")]
FormatOption = Annotated[
    OutputFormat,
    typer.Option("--format", help="table, json (one array) or jsonl (one document per line).", show_choices=False),
]
AsJsonLines = Annotated[bool, typer.Option("--json", help="Same as --format jsonl.")]


def output_format(output: OutputFormat, as_json: bool) -> OutputFormat:
    """Return the format of --format, or of its alias --json."""
    return OutputFormat.JSONL if as_json else output


ShowAll = Annotated[bool, typer.Option("--all", help="List everything, whatever --limit is.")]

Labels = Annotated[str | None, label_option("--labels", help='Comma-separated labels: "red car,rusty bolt".')]
LabelsFile = Annotated[
    Path | None,
    label_option(
        "--labels-file",
        help='File with one label per line, or JSON such as {"name": "car", "prompts": ["car", "automobile"]}.',
    ),
]
Background = Annotated[
    str,
    label_option(
        "--background",
        help="Background words, which compete and get no mask: none, shipped, terrestrial, aquatic-atmospheric or "
        "man-made (joined by +), or your own, comma-separated.",
    ),
]
Models = Annotated[
    str,
    model_option(
        "--models",
        help="demo (built in, knows colored shapes), openai (the recipe's CLIPs from the hub), or a folder with "
        "proposal/ and classifier/.",
    ),
]
ProposalModel = Annotated[
    str | None,
    model_option("--proposal-model", metavar="DIR", help="CLIP f, which proposes masks; overrides --models."),
]
ClassifierModel = Annotated[
    str | None,
    model_option("--classifier-model", metavar="DIR", help="CLIP g, which scores proposals; overrides --models."),
]
NO_SAM = "none"
Sam = Annotated[
    str | None,
    model_option(
        "--sam",
        metavar="PATH|none",
        help="Refine masks with this SAM: a folder, sam-vit-b, sam-vit-l or sam-vit-h; none turns SAM off. "
        "Default for sam=on: the SAM beside the models.",
    ),
]
DeviceOption = Annotated[Device, model_option("--device", help="Device to compute on.")]
PrecisionOption = Annotated[
    Precision,
    model_option(
        "--precision", help="auto: float32 on a CPU, float16 on CUDA. bfloat16 halves the time on CPUs that support it."
    ),
]
CrfOption = Annotated[
    CrfBackend,
    model_option(
        "--crf",
        help="CRF backend: lattice (built in), or pydensecrf (the reference, CPU only). The masks are the same.",
    ),
]
Preset = Annotated[
    str | None,
    recipe_option(
        "--preset",
        help="Preset to start from (see `car recipes list`). Default: demo for the demo models, otherwise voc.",
    ),
]
Settings = Annotated[
    list[str] | None,
    recipe_option(
        "--set",
        metavar="KEY=VALUE",
        help="Set one recipe parameter, such as theta=0.5; repeatable (see `car recipes show`).",
    ),
]


def car_command() -> str:
    """Return how the user can run `car` here: `car` if it is on the PATH, otherwise the path as it was typed."""
    typed = sys.argv[0]
    if Path(typed).name != "car":
        return "car"
    on_path = shutil.which("car")
    return "car" if on_path and Path(on_path).resolve() == Path(typed).resolve() else shlex.quote(typed)


def parse_settings(settings: list[str] | None) -> dict[str, str]:
    """Parse `key=value` strings; the last value of a key wins."""
    parsed = {}
    for setting in settings or ():
        key, equals, value = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {setting!r} is not KEY=VALUE, such as --set theta=0.5")
        parsed[key.strip()] = value.strip()
    return parsed


def labels_of(labels: str | None, labels_file: Path | None, *, default: Path | None = None) -> list[Label]:
    """Parse the labels of --labels or --labels-file, or of the `default` file if neither is given."""
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


def background_of(background: str) -> str | list[str]:
    """Return the names of lists joined by + as they are, or own words (with a comma) as a list."""
    return [word for word in background.split(",") if word.strip()] if "," in background else background
