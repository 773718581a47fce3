"""The `car` command line. Each command group has its own file; this one puts them together.

Exit codes: 0 success; 1 partial failure, and each failure was named; 2 wrong usage or an error, and nothing was done.
"""

from typing import Annotated, Any

import typer

from car.errors import CarError
from car.printable import printable_lines
from cli.lazy_commands import CommandEntry, LazyGroup

_SERVICE, _PROCESSES = "Service", "Service processes and set-up"
_ENTRIES = {
    "segment": CommandEntry("Segment images: find the pixels of each label.", "cli.commands.segment", "segment"),
    "demo": CommandEntry(
        "Label the sample images end to end: start the service, show the results, stop.",
        "cli.commands.demo",
        "demo",
        panel=_SERVICE,
    ),
    "up": CommandEntry("Run the whole service in the foreground.", "cli.commands.up", "up", panel=_SERVICE),
    "env": CommandEntry(
        'Print addresses and keys of the service for the shell: eval "$(car env)".',
        "cli.commands.env",
        "env",
        panel=_SERVICE,
    ),
    "doctor": CommandEntry(
        "Check the service, Label Studio and the connection between them; nothing is changed.",
        "cli.commands.doctor",
        "doctor",
        panel=_SERVICE,
    ),
    "label-studio": CommandEntry(
        "Connect Label Studio projects, sync their tasks, and show progress and feedback.",
        "cli.label_studio",
        panel=_SERVICE,
    ),
    "jobs": CommandEntry("Create, watch and manage bulk jobs.", "cli.commands.jobs", panel=_SERVICE),
    "results": CommandEntry("List, show and export stored results.", "cli.commands.results", panel=_SERVICE),
    "keys": CommandEntry("Create, list and revoke API keys.", "cli.commands.keys", panel=_SERVICE),
    "worker": CommandEntry("Run a worker until SIGTERM.", "cli.commands.worker", "worker", panel=_PROCESSES),
    "scheduler": CommandEntry(
        "Run the scheduler (one per deployment).", "cli.commands.worker", "scheduler", panel=_PROCESSES
    ),
    "migrate": CommandEntry(
        "Create or upgrade the tables in DATABASE_URL, and create S3_BUCKET if it is set and missing.",
        "cli.commands.worker",
        "migrate",
        panel=_PROCESSES,
    ),
    "settings": CommandEntry(
        "List all settings (environment variables) with their defaults.",
        "cli.commands.settings",
        "settings",
        panel=_PROCESSES,
    ),
    "models": CommandEntry("List, download and convert model weights.", "cli.commands.models"),
    "recipes": CommandEntry("Show the segmenter's presets and parameters.", "cli.commands.recipes"),
    "evaluate": CommandEntry("Measure the quality of masks on data with ground truth.", "cli.commands.evaluate"),
    "bench": CommandEntry(
        "Measure the speed of the models and of the service on this machine.", "cli.commands.bench", "bench"
    ),
}


class CommandGroup(LazyGroup):
    """Print a CarError as one line and exit with 2. Any other exception is a bug, which cli.entry_point reports."""

    entries = _ENTRIES

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer does not export the type of its contexts
        try:
            return super().invoke(ctx)
        except CarError as error:
            typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
            typer.echo(printable_lines(error), err=True)
            raise typer.Exit(2) from None


app = typer.Typer(
    name="car",
    cls=CommandGroup,
    help="Open-vocabulary pre-labeling: masks for any label with CLIP as RNN, and why each label was kept or dropped.",
    epilog="Try `car segment demo/images --overlay out/`, then `car segment --help`.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib import metadata

        from car.model_version import CODE_VERSION

        typer.echo(f"car {metadata.version('car-labeler')} (arithmetic {CODE_VERSION})")
        raise typer.Exit


@app.callback()
def car(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of `car` itself."""


if __name__ == "__main__":
    app()
