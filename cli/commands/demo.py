"""`car demo`: starts the service, shows it at work, stops it."""

from pathlib import Path
from typing import Annotated

import typer

_INTERRUPTED = 130

DataDirOption = Annotated[
    Path, typer.Option("--data-dir", metavar="DIR", help="Where it keeps its data.", envvar="CAR_DATA_DIR")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Overlays are saved in DIR/overlays.")]


def demo(
    *,
    data_dir: DataDirOption = Path(".car"),
    out: Out = Path("out/demo"),
    port: Annotated[
        int, typer.Option("--port", help="Where the API listens; another port where this one is taken.")
    ] = 9090,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running at the end, until Ctrl-C.")] = False,
) -> None:
    """Show everything at work: start the service, label the demo pictures from a bucket, look at the results, stop.

    Exit code 0: every picture was labeled; 1: some were not; 2: the service could not be started.
    """
    from cli.service.demo_run import DemoOutput, label_demo_pictures

    show = DemoOutput(out)
    try:
        with show.started(data_dir, port) as background:
            done = label_demo_pictures(background, show)
            if keep:
                show.keep(background)
            show.line("stopping")
    except KeyboardInterrupt:
        show.line("stopped; the data stay, and the next run goes on with them")
        raise typer.Exit(_INTERRUPTED) from None
    show.where(data_dir)
    if not done:
        raise typer.Exit(1)
