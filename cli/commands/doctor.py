"""`car doctor`, as the command line has it."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import DATA_DIR, AsJson, DataFolder

if TYPE_CHECKING:
    from cli.doctor.diagnoses import Finding

_STYLES = {"good": "green", "note": "yellow", "wrong": "bold red", "skipped": "dim"}


def doctor(
    *,
    project: Annotated[
        int | None, typer.Option("--project", min=1, metavar="N", help="Also this project of Label Studio.")
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="This service as Label Studio reaches it, as it was given to `connect`."),
    ] = None,
    as_json: AsJson = False,
    data_dir: DataFolder = DATA_DIR,
) -> None:
    """Look at the service, at Label Studio, and at the way between them. All stays as it is.

    Exit code 0: nothing is wrong; 1: something is, and is named with what to do.
    """
    from cli.doctor.checkup import Checkup
    from cli.doctor.diagnoses import Verdict
    from cli.service.connection_settings import api_address, variables

    wrong = 0
    found = Checkup(variables(data_dir), api_address(data_dir), project=project, url=url).findings()
    for finding in found:
        wrong += finding.verdict is Verdict.WRONG
        if as_json:
            typer.echo(json.dumps(asdict(finding)))
        else:
            _show(finding, project)
    if not as_json:
        typer.echo("nothing is wrong" if not wrong else f"{wrong} wrong, each with what to do")
    if wrong:
        raise typer.Exit(1)


def _show(finding: "Finding", project: int | None) -> None:
    """One check a line, as soon as it is done; beneath it what to do."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    head = Text.assemble(
        (f"{finding.verdict:<7} ", _STYLES[finding.verdict]), (finding.check, "bold"), f": {finding.detail}"
    )
    if finding.code:
        head.append(f" ({finding.code})", "dim")
    console.print(head)
    if finding.do and finding.verdict != "good":
        do = finding.do if project is None else finding.do.replace("--project N", f"--project {project}")
        console.print(Text(f"        {do}", "cyan" if finding.verdict == "wrong" else "dim"))
