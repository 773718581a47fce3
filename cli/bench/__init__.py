"""`car bench`: what the parts cost on this machine, beside a goal or the plain way of doing the same."""

import typer

from cli.bench.crf import crf
from cli.bench.engine import engine
from cli.bench.every import every
from cli.bench.flow import flow
from cli.bench.latency import latency
from cli.bench.listing import listing
from cli.bench.memory import memory
from cli.bench.predict import predict
from cli.bench.results import results
from cli.bench.sam import sam
from cli.bench.segmenter import segmenter

bench = typer.Typer(help="Measure the parts on this machine.", no_args_is_help=True)
bench.command("all")(every)
bench.command()(segmenter)
bench.command()(crf)
bench.command()(sam)
bench.command()(flow)
bench.command()(memory)
bench.command()(engine)
bench.command()(listing)
bench.command()(latency)
bench.command()(results)
bench.command()(predict)

__all__ = ["bench"]
