"""`car settings`: every environment variable that the service reads."""

import json
from typing import Annotated, Any

import typer

from cli.output.terminal import echo

_PREFACE = """# Settings

Every setting is an environment variable. A process with an invalid setting exits at start and names the variable and
the expected value. This page is the output of `car settings --markdown`."""


_Setting = tuple[str, str, str]
"""Variable, default, description."""
_COMMAND_LINE: list[_Setting] = [
    ("CAR_API_URL", "http://127.0.0.1:9090", "URL of the API that the commands use"),
    ("CAR_API_KEY", "", "API key of the commands; default: the key that `car up` stores in its data folder"),
    ("CAR_DATA_DIR", ".car", "data folder of `car up`, unless --data-dir is given"),
]


def settings(
    *, markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md, a Markdown page.")] = False
) -> None:
    """List all settings (environment variables) with their defaults."""
    if markdown:
        echo(_page())
        return
    from rich.text import Text

    from cli.output.job_tables import new_table, print_table

    table = new_table("variable", "default", "description")
    for title, rows in _groups().items():
        table.add_row(Text(title, "bold"))
        for row in rows:
            table.add_row(*map(Text, row))
    print_table(table)


def _page() -> str:
    lines = [_PREFACE]
    for title, rows in _groups().items():
        lines += ["", f"## {title}", "", "| variable | default | description |", "|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _groups() -> dict[str, list[_Setting]]:
    """Return the settings by the processes that read them; the API and workers read those of all processes too."""
    from api.settings import ApiSettings
    from db.settings import EngineSettings
    from worker.settings import WorkerSettings

    def own(kind: type[EngineSettings]) -> list[_Setting]:
        inherited = {} if kind is EngineSettings else EngineSettings.model_fields
        return [
            (field.alias or name, _default(field), field.description or "")
            for name, field in kind.model_fields.items()
            if name not in inherited
        ]

    return {
        "All processes": own(EngineSettings),
        "API": own(ApiSettings),
        "Workers": own(WorkerSettings),
        "Command line": _COMMAND_LINE,
    }


def _default(field: Any) -> str:  # noqa: ANN401 - pydantic's FieldInfo
    """Format a default as in the environment; the description explains one that depends on the machine."""
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
