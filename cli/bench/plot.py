"""Stages and their floors as a picture: a long bar for what is, a dark one in it for what must be."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw

from car.lettering import fit, write
from cli.errors import OutputError

PlotFile = Annotated[
    Path | None, typer.Option("--plot", help="Draw the stages beside their floors into this PNG file.")
]

_WIDTH, _NAMES, _FIGURES = 900, 170, 250
_ROW, _BAR, _MARGIN, _TEXT = 30, 18, 16, 15
_PAPER, _INK, _FAINT, _TIME, _FLOOR = (255, 255, 255), (30, 30, 30), (120, 120, 120), (148, 186, 226), (28, 78, 138)


@dataclass(frozen=True)
class Bar:
    """What a stage took, and its floor where it is known."""

    name: str
    seconds: float
    floor: float | None = None


def draw(file: Path, charts: Sequence[tuple[str, Sequence[Bar]]], unit: str) -> None:
    """One chart below the other, all on one scale so that they can be compared.

    Raises:
        OutputError: the file cannot be written.

    """
    height = _MARGIN + sum(_ROW * (len(bars) + 2) for _, bars in charts)
    sheet = Image.new("RGB", (_WIDTH, height + _MARGIN), _PAPER)
    pen = ImageDraw.Draw(sheet)
    longest = max((bar.seconds for _, bars in charts for bar in bars), default=0.0) or 1.0
    top = _MARGIN
    for title, bars in charts:
        write(pen, (_MARGIN, top + _ROW / 2), f"{title}: {unit}, and the floor of each stage", _TEXT + 2, _INK)
        top += _ROW
        for bar in bars:
            _draw_bar(pen, top, bar, (_WIDTH - _NAMES - _FIGURES - _MARGIN) / longest)
            top += _ROW
        top += _ROW
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(file)
    except (OSError, ValueError) as error:
        raise OutputError(f"{file} cannot be written: {error}") from None


def _draw_bar(pen: ImageDraw.ImageDraw, top: int, bar: Bar, pixels_a_second: float) -> None:
    middle = top + _ROW / 2
    write(pen, (_MARGIN, middle), fit(bar.name, _TEXT, _NAMES - 2 * _MARGIN), _TEXT, _INK)
    end = _NAMES + max(1.0, bar.seconds * pixels_a_second)
    pen.rectangle((_NAMES, middle - _BAR / 2, end, middle + _BAR / 2), fill=_TIME)
    told = f"{bar.seconds:.3g} s"
    if bar.floor:
        floor = _NAMES + max(1.0, bar.floor * pixels_a_second)
        pen.rectangle((_NAMES, middle - _BAR / 2, floor, middle + _BAR / 2), fill=_FLOOR)
        told += f" = {bar.seconds / bar.floor:,.1f} x {bar.floor:.2g} s"
    write(pen, (max(end, _NAMES) + 8, middle), told, _TEXT, _FAINT)
