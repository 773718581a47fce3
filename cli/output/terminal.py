"""The output of all commands: nothing that a user or a server wrote can steer the terminal."""

from collections.abc import Iterable

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from car.printable import printable_lines


class Terminal(Console):
    """A console that shows control characters of texts as escapes."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n" or segment.text.isprintable():
                yield segment
            else:
                yield Segment(printable_lines(segment.text), segment.style)


def echo(text: object = "", *, err: bool = False) -> None:
    """Print a line, with control characters as escapes; line breaks stay."""
    typer.echo(printable_lines(text), err=err)
