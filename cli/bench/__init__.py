"""`car bench`: what the parts cost on this machine, beside a goal or the plain way of doing the same."""

import typer

from cli.bench.engine import engine
from cli.bench.latency import latency
from cli.bench.listing import listing
from cli.bench.predict import predict
from cli.bench.results import results
from cli.bench.segmenter import segmenter

bench = typer.Typer(help="Measure the parts on this machine.", no_args_is_help=True)
bench.command()(segmenter)
bench.command()(engine)
bench.command()(listing)
bench.command()(latency)
bench.command()(results)
bench.command()(predict)

__all__ = ["bench"]
