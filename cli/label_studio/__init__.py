"""`car label-studio`: connect a project, keep it up to date, and show its progress."""

import typer

from cli.label_studio.connect import connect
from cli.label_studio.feedback import feedback
from cli.label_studio.status import status
from cli.label_studio.sync import backfill, sync

app = typer.Typer(
    help="Connect Label Studio projects, sync their tasks, and show progress and feedback.", no_args_is_help=True
)
for command in (connect, sync, backfill, status, feedback):
    app.command()(command)
