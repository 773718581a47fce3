"""`car bench`: measure a machine before it is bought."""

import typer

from cli.commands.bench.crf import crf
from cli.commands.bench.engine import engine
from cli.commands.bench.sam import sam
from cli.commands.bench.segmenter import segmenter

bench = typer.Typer(help="Measure the speed of the models and of the service on this machine.", no_args_is_help=True)
for command in (segmenter, crf, sam, engine):
    bench.command()(command)
