"""The `car` command line. Each command group has its own file; this one puts them together.

Exit codes: 0 success; 1 partial failure, and each failure was named; 2 wrong usage or an error, and nothing was done.
"""

from importlib import metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from car.errors import CarError
from cli import label_studio
from cli.commands import evaluate, jobs, keys, models, recipes, results
from cli.commands.bench import bench
from cli.commands.demo import demo
from cli.commands.doctor import doctor
from cli.commands.env import env
from cli.commands.segment import segment
from cli.commands.settings import settings
from cli.commands.up import up
from cli.commands.worker import migrate, scheduler, worker


class CommandGroup(TyperGroup):
    """Print a CarError as one line and exit with 2. Any other exception is a bug and shows its traceback."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - typer does not export the type of its contexts
        try:
            return super().invoke(ctx)
        except CarError as error:
            typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
            typer.echo(str(error), err=True)
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
        typer.echo(f"car {metadata.version('car-labeler')}")
        raise typer.Exit


@app.callback()
def car(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of `car` itself."""


_SERVICE, _PROCESSES = "Service", "Service processes and set-up"

app.command()(segment)
for command in (demo, up, env, doctor):
    app.command(rich_help_panel=_SERVICE)(command)
app.add_typer(label_studio.app, name="label-studio", rich_help_panel=_SERVICE)
for name, group in (("jobs", jobs), ("results", results), ("keys", keys)):
    app.add_typer(group.app, name=name, rich_help_panel=_SERVICE)
for process in (worker, scheduler, migrate, settings):
    app.command(rich_help_panel=_PROCESSES)(process)
app.add_typer(models.app, name="models")
app.add_typer(recipes.app, name="recipes")
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(bench, name="bench")


if __name__ == "__main__":
    app()
