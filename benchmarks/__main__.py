"""`python -m benchmarks NAME|all`: run one benchmark, or all of them."""

from importlib import import_module
from typing import Any

import typer

from cli.main import CommandGroup

MODULES = {
    "segmenter": "benchmarks.segmenter",
    "crf": "benchmarks.crf",
    "sam": "benchmarks.sam",
    "engine": "benchmarks.engine",
    "batching": "benchmarks.batching",
    "memory": "benchmarks.memory",
    "prompts": "benchmarks.prompts",
    "rle": "benchmarks.rle",
    "listing": "benchmarks.listing",
    "latency": "benchmarks.latency",
    "predict": "benchmarks.predict",
    "results": "benchmarks.results",
    "all": "benchmarks.run_all",
    "compare": "benchmarks.compare",
    "code_size": "benchmarks.code_size",
}
"""Commands and the modules that hold a function of the same name (`run_all` for "all")."""


class Benchmarks(CommandGroup):
    """Imports only the module of the command that runs: torch alone takes seconds."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401, ARG002 - typer keeps its contexts' type to itself
        return list(MODULES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002
        if cmd_name not in MODULES:
            return None
        function = getattr(import_module(MODULES[cmd_name]), "run_all" if cmd_name == "all" else cmd_name)
        command = typer.Typer(add_completion=False)
        command.command(cmd_name)(function)
        return typer.main.get_command(command)


app = typer.Typer(
    name="python -m benchmarks",
    cls=Benchmarks,
    help="Benchmarks for developers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


@app.callback()
def _group() -> None:
    """Benchmarks for developers: speed, memory and scale of every part."""


if __name__ == "__main__":
    app()
