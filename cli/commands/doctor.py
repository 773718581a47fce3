"""`car doctor`: prints the findings of cli.doctor."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DATA_DIR, AsJson, DataFolder
from cli.output.terminal import Terminal, echo

if TYPE_CHECKING:
    from cli.doctor.diagnoses import Finding

_STYLES = {"good": "green", "note": "yellow", "wrong": "bold red", "skipped": "dim"}


def doctor(
    *,
    project: Annotated[
        int | None, typer.Option("--project", min=1, metavar="N", help="Also check this Label Studio project.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="URL of this service as Label Studio reaches it (--url of `connect`)."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Check the service, Label Studio and the connection between them; nothing is changed.

    Exit code 0: no problem was found; 1: each problem is printed with its fix.
    """
    from cli.doctor.checkup import Checkup
    from cli.doctor.diagnoses import Verdict
    from cli.service.connection_settings import api_address, variables

    problems = 0
    for finding in Checkup(variables(data_dir), api_address(data_dir), project=project, url=url).findings():
        problems += finding.verdict is Verdict.WRONG
        if as_json:
            echo(json.dumps(asdict(finding)))
        else:
            _print(finding, project)
    if not as_json:
        echo(f"{problems or 'no'} problem{'s' if problems > 1 else ''} found")
    if problems:
        raise typer.Exit(1)


def _print(finding: "Finding", project: int | None) -> None:
    """Print one check and, on the next line, what to do about it."""
    from rich.text import Text

    console = Terminal(highlight=False, soft_wrap=True)
    head = Text.assemble(
        (f"{finding.verdict:<7} ", _STYLES[finding.verdict]), (finding.check, "bold"), f": {finding.detail}"
    )
    if finding.code:
        head.append(f" ({finding.code})", "dim")
    console.print(head)
    if finding.do and finding.verdict != "good":
        fix = finding.do if project is None else finding.do.replace("--project N", f"--project {project}")
        console.print(Text(f"        {fix}", "cyan" if finding.verdict == "wrong" else "dim"))
