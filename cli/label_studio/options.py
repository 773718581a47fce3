"""Options that the commands share, and their connections to Label Studio and to the service."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.errors import UsageError
from cli.output.terminal import echo

if TYPE_CHECKING:
    from cli.service.api_client import ApiClient
    from worker.label_studio import LabelStudio

INTERRUPTED = 130

Project = Annotated[
    int,
    typer.Option("--project", min=1, metavar="N", help="Its number, as in Label Studio's address bar: /projects/N/."),
]
AnyProject = Annotated[
    int | None, typer.Option("--project", min=1, metavar="N", help="One project; by itself all that are known.")
]
LabelStudioUrl = Annotated[
    str | None,
    typer.Option("--label-studio-url", metavar="URL", help="Label Studio; by itself LABEL_STUDIO_URL."),
]
AskToken = Annotated[
    bool,
    typer.Option("--token", help="Ask for its token, and show nothing of it; by itself LABEL_STUDIO_API_KEY counts."),
]


@contextmanager
def label_studio(url: str | None, *, ask_token: bool, data_dir: Path) -> "Iterator[LabelStudio]":
    """Raises: UsageError, if its URL or token is not known."""
    from worker.label_studio import LabelStudio

    known = _known(data_dir)
    address = url or known.get("LABEL_STUDIO_URL")
    if not address:
        raise UsageError("it is not known where Label Studio is: set LABEL_STUDIO_URL, or give --label-studio-url URL")
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"{address!r} is no address; Label Studio's looks like http://localhost:8080")
    token = None if ask_token else known.get("LABEL_STUDIO_API_KEY")
    if not token and (ask_token or sys.stdin.isatty()):
        token = typer.prompt(f"token of a user of {address}", hide_input=True, err=True)
    if not token:
        raise UsageError(
            "Label Studio's token is not known: set LABEL_STUDIO_API_KEY, or give --token to be asked for it"
        )
    with LabelStudio(address, str(token)) as studio:
        yield studio


def has_label_studio(data_dir: Path) -> bool:
    """Return whether URL and token of Label Studio are known."""
    known = _known(data_dir)
    return bool(known.get("LABEL_STUDIO_URL") and known.get("LABEL_STUDIO_API_KEY"))


def _known(data_dir: Path) -> dict[str, str]:
    """Return the known variables, also those under the names of label-studio-ml."""
    from cli.service.connection_settings import variables
    from db.settings import OTHER_NAMES

    known = variables(data_dir)
    return {ours: known[usual] for usual, ours in OTHER_NAMES.items() if known.get(usual)} | known


@contextmanager
def service(data_dir: Path) -> "Iterator[ApiClient]":
    from cli.service.api_client import ApiClient
    from cli.service.connection_settings import api_address

    with ApiClient(api_address(data_dir)) as opened:
        yield opened


def print_status(text: str) -> None:
    """Print on stderr, which scripts do not read."""
    echo(text, err=True)


def environment(name: str, data_dir: Path) -> str | None:
    """Return a variable of the environment or of the data folder's service; None if it is empty."""
    from cli.service.connection_settings import variables

    return variables(data_dir).get(name) or os.environ.get(name) or None
