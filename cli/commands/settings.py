"""`car settings`: every environment variable that the service reads."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from db.settings import EngineSettings

_PREFACE = """# Settings

Every setting is an environment variable. A wrong value ends a process at its start, with the variable's name and what
it should be. This page is the output of `car settings --markdown`."""
_COMMAND_LINE = (
    ("CAR_API_URL", "http://127.0.0.1:9090", "the API that `car jobs` and `car results` speak with"),
    ("CAR_API_KEY", "", "their key; without both: those of the `car up` of the data folder"),
    ("CAR_DATA_DIR", ".car", "data folder of `car up`, where --data-dir is not given"),
)


@dataclass(frozen=True)
class Setting:
    name: str
    default: str
    says: str


def settings(
    *, markdown: Annotated[bool, typer.Option("--markdown", help="As a page; docs/settings.md is this output.")] = False
) -> None:
    """Every environment variable that the service reads, with its default."""
    if markdown:
        typer.echo(_page())
        return
    from rich.text import Text

    from cli.output.job_tables import new_table, print_table

    table = new_table("variable", "default", "what it is for")
    for title, rows in _groups().items():
        table.add_row(Text(title, "bold"))
        for row in rows:
            table.add_row(row.name, Text(row.default), Text(row.says))
    print_table(table)


def _page() -> str:
    lines = [_PREFACE]
    for title, rows in _groups().items():
        lines += ["", f"## {title}", "", "| variable | default | what it is for |", "|---|---|---|"]
        lines += [f"| {row.name} | {row.default} | {row.says} |" for row in rows]
    return "\n".join(lines)


def _groups() -> dict[str, list[Setting]]:
    """By who reads them. A worker and the API read those of the engines too."""
    from api.settings import ApiSettings
    from db.settings import EngineSettings
    from worker.settings import WorkerSettings

    return {
        "All processes": _of(EngineSettings),
        "API": _of(ApiSettings, beside=EngineSettings),
        "Workers": _of(WorkerSettings, beside=EngineSettings),
        "Command line": [Setting(*row) for row in _COMMAND_LINE],
    }


def _of(kind: "type[EngineSettings]", beside: "type[EngineSettings] | None" = None) -> list[Setting]:
    known = beside.model_fields if beside else {}
    return [
        Setting(field.alias or name, _default(field), field.description or "")
        for name, field in kind.model_fields.items()
        if name not in known
    ]


def _default(field: Any) -> str:  # noqa: ANN401 - pydantic's FieldInfo
    """As it would be written in the environment; a default that depends on the machine is told by the description."""
    if field.is_required():
        return "required"
    value = field.default
    if field.default_factory is not None or value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)
