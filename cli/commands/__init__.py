"""The commands of `car`. Heavy modules are imported inside them, so that `car --help` is fast."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient


def open_api(data_dir: Path) -> "ApiClient":
    """Return a client of the API that the environment or the data folder names; close it with `with`."""
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    return ApiClient(api_address(data_dir))


def print_json_lines(documents: Iterable[Mapping[str, object]]) -> None:
    """Print one JSON document per line, as soon as it is there."""
    for document in documents:
        typer.echo(json.dumps(document))
