"""`car demo`: start the service, label the sample images, stop."""

from pathlib import Path
from typing import Annotated

import typer

from cli.options import DATA_DIR, INTERRUPTED, DataFolder


def demo(
    *,
    data_dir: DataFolder = DATA_DIR,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Output folder; overlays go to DIR/overlays.")
    ] = Path("out/demo"),
    port: Annotated[int, typer.Option("--port", help="Port of the API; a free one if it is taken.")] = 9090,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the service running until Ctrl-C.")] = False,
) -> None:
    """Label the sample images end to end: start the service, show the results, stop.

    Exit code 0: every image was labeled; 1: some were not; 2: the service could not start.
    """
    from cli.service.demo_run import DemoOutput, label_demo_images

    output = DemoOutput(out)
    try:
        with output.started(data_dir, port) as service:
            all_labeled = label_demo_images(service, output)
            if keep:
                output.keep(service)
            output.line("stopping")
    except KeyboardInterrupt:
        output.line("stopped; the data are kept, and the next run continues with them")
        raise typer.Exit(INTERRUPTED) from None
    output.where(data_dir)
    if not all_labeled:
        raise typer.Exit(1)
