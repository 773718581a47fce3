"""The query history as an image: one row per label, one column per step."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from car.query_history import QueryTrace, format_area_share, query_traces, select_steps, sort_for_display
from car.rendering.overlay import Pixels, draw_masks
from car.rendering.palette import BLACK, Rgb, heatmap, label_color
from car.rendering.text import draw_text, text_width, truncate_text
from car.segmentation import QueryScore, Segmentation, Step

_PAPER: Final[Rgb] = (250, 250, 248)
_LINE: Final[Rgb] = (222, 222, 218)
_GREY: Final[Rgb] = (120, 122, 126)
_FALLEN: Final[Rgb] = (196, 52, 44)
_SIZE: Final = 17
_SMALL: Final = 14
_CELL: Final = 168
_GAP: Final = 12
_STEPS_SHOWN: Final = 8
_NAMES: Final = 230


class StepCams(Protocol):
    """The CAMs of one step; worker.segmenter's StepTrace is one."""

    @property
    def step(self) -> Step: ...

    @property
    def cams(self) -> NDArray[np.float32]:
        """(queries, rows, columns), 0..1, in the order of the step's queries."""


@dataclass(frozen=True)
class _Layout:
    """The layout of a history image, in pixels."""

    steps: tuple[int, ...]
    names: int
    """Width of the column of labels."""
    thumb: tuple[int, int]
    """Width and height of a cell's image; height 0 without CAMs."""

    @property
    def row(self) -> int:
        return self.thumb[1] + 3 * _SIZE + _GAP

    @property
    def head(self) -> int:
        return 6 * _SIZE

    @property
    def width(self) -> int:
        return self.x_of(len(self.steps) + 1)

    def x_of(self, column: int) -> int:
        return _GAP + self.names + _GAP + column * (_CELL + _GAP)


def draw_history(
    pixels: Pixels, segmentation: Segmentation, step_cams: Sequence[StepCams] = (), *, rows: int = 12
) -> Image.Image:
    """Draw each label's score by step, dropped labels struck through, and the masks in the last column.

    `pixels` are uint8 (height, width, 3), RGB. With `looks`, one per step, each cell shows the label's CAM as a heat
    map. Survivors come first, then as many dropped labels as fit into `rows`.
    """
    lives = sort_for_display(query_traces(segmentation))
    shown, left = lives[:rows], lives[rows:]
    cams = {
        (query.label, look.step.step): cam
        for look in step_cams
        for query, cam in zip(look.step.queries, look.cams, strict=True)
    }
    names = max((text_width(life.label, _SIZE) for life in shown), default=0) + 2 * _SIZE
    longest = max((step.step for step in segmentation.steps), default=0)
    thumb = _inside(pixels.shape[1], pixels.shape[0], (_CELL, 126 if cams else 0))
    sheet = _Layout(select_steps(longest, _STEPS_SHOWN), min(max(names, 140), _NAMES), thumb)
    canvas = Image.new("RGB", (sheet.width, sheet.head + max(1, len(shown)) * sheet.row + 2 * _SIZE), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _write_head(draw, sheet, segmentation, lives)
    for number, life in enumerate(shown):
        _draw_row(canvas, sheet, sheet.head + number * sheet.row, life, (pixels, segmentation), cams)
    foot = f"and {len(left)} more, dropped" if left else ""
    draw_text(draw, (_GAP, canvas.height - _SIZE), foot, _SMALL, _GREY)
    return canvas


def _inside(width: int, height: int, room: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size of the same aspect ratio that fits, at least one pixel; (0, 0) if there is no room."""
    if not all(room):
        return 0, 0
    share = min(room[0] / width, room[1] / height)
    return max(1, round(width * share)), max(1, round(height * share))


def _write_head(
    draw: ImageDraw.ImageDraw, sheet: _Layout, segmentation: Segmentation, lives: tuple[QueryTrace, ...]
) -> None:
    kept = sum(life.survived for life in lives)
    summary = f"{len(lives)} queried, {kept} kept; stopped: {str(segmentation.stop_reason).replace('_', ' ')}"
    draw_text(draw, (_GAP, 1.3 * _SIZE), truncate_text(summary, _SIZE, sheet.width - 2 * _GAP), _SIZE, BLACK)
    y = sheet.head - 1.3 * _SIZE
    for column, step in enumerate(sheet.steps):
        asked = [life for life in lives if step in life.queries]
        kept = sum(life.queries[step].kept for life in asked)
        before = sheet.steps[column - 1] if column else 0
        mark = "" if step == before + 1 else "... "
        draw_text(draw, (sheet.x_of(column), y - 1.3 * _SIZE), f"{mark}step {step}", _SIZE, BLACK)
        draw_text(draw, (sheet.x_of(column), y), f"{len(asked)} queried, {kept} kept", _SMALL, _GREY)
    draw_text(draw, (sheet.x_of(len(sheet.steps)), y - 1.3 * _SIZE), "mask", _SIZE, BLACK)
    found = len(segmentation.masks)
    draw_text(draw, (sheet.x_of(len(sheet.steps)), y), f"{found} found", _SMALL, _GREY)


def _draw_row(
    canvas: Image.Image,
    sheet: _Layout,
    top: int,
    life: QueryTrace,
    result: tuple[Pixels, Segmentation],
    cams: Mapping[tuple[str, int], NDArray[np.float32]],
) -> None:
    draw = ImageDraw.Draw(canvas)
    draw.line((_GAP, top, canvas.width - _GAP, top), fill=_LINE)
    middle = top + (sheet.row // 2 if sheet.thumb[1] else _GAP // 2 + _SIZE)
    draw.rounded_rectangle(
        (_GAP, middle - _SIZE // 2, _GAP + _SIZE, middle + _SIZE // 2),
        radius=4,
        fill=label_color(life.index, life.label),
    )
    name = truncate_text(life.label, _SIZE, sheet.names - 2 * _SIZE)
    draw_text(draw, (_GAP + 1.6 * _SIZE, middle), name, _SIZE, BLACK if life.survived else _GREY)
    if not life.survived:
        _strike(draw, (_GAP + 1.6 * _SIZE, middle), text_width(name, _SIZE))
    for column, step in enumerate(sheet.steps):
        if step in life.queries:
            query, place = life.queries[step], (sheet.x_of(column), top + _GAP // 2)
            _draw_heat(canvas, place, sheet.thumb, result[0], cams.get((life.label, step)), dropped=not query.kept)
            _draw_score(draw, (place[0], place[1] + sheet.thumb[1]), query, label_color(life.index, life.label))
            if not query.kept:
                # Nothing follows in this row, so the text may extend to the right edge.
                at = (place[0], place[1] + sheet.thumb[1] + 2.3 * _SIZE)
                draw_text(
                    draw, at, truncate_text(_rival(query), _SMALL, canvas.width - place[0] - _GAP), _SMALL, _FALLEN
                )
    _draw_result(canvas, sheet, top, life, result)


def _draw_heat(
    canvas: Image.Image,
    position: tuple[int, int],
    size: tuple[int, int],
    pixels: Pixels,
    cam: NDArray[np.float32] | None,
    *,
    dropped: bool,
) -> None:
    if cam is None or not size[1]:
        return
    grey = Image.fromarray(pixels).convert("L").resize(size, Image.Resampling.BICUBIC)
    spread = Image.fromarray(np.asarray(cam, np.float32)).resize(size, Image.Resampling.BILINEAR)
    warmth = np.asarray(spread).clip(0, 1)
    share = (0.25 + 0.65 * warmth)[..., None]
    mixed = np.asarray(grey)[..., None] * (1 - share) * 0.8 + heatmap(warmth) * share
    if dropped:
        mixed = mixed * 0.45 + np.asarray(_PAPER) * 0.55
    canvas.paste(Image.fromarray(np.rint(mixed).astype(np.uint8)), position)
    if dropped:
        corners = (position[0], position[1] + size[1] - 1, position[0] + size[0] - 1, position[1])
        ImageDraw.Draw(canvas).line(corners, fill=_FALLEN, width=2)


def _draw_score(draw: ImageDraw.ImageDraw, position: tuple[int, int], query: QueryScore, colour: Rgb) -> None:
    """Draw the score as a bar and a number."""
    x, y, number = position[0], position[1] + _SIZE, f"{query.score:.2f}"
    full = _CELL - text_width("0.00", _SIZE) - _GAP
    draw.rounded_rectangle((x, y - 4, x + full, y + 4), radius=4, fill=_LINE)
    if query.score * full >= 1:
        end = x + max(8, round(full * query.score))
        draw.rounded_rectangle((x, y - 4, end, y + 4), radius=4, fill=colour if query.kept else _GREY)
    draw_text(draw, (x + full + _GAP, y), number, _SIZE, BLACK if query.kept else _GREY)
    if not query.kept:
        _strike(draw, (x + full + _GAP, y), text_width(number, _SIZE))


def _rival(query: QueryScore) -> str:
    """Return why a label was dropped: its rival, or a low score."""
    return f"looks like {query.rival} {query.rival_score:.2f}" if query.rival_score is not None else "too weak"


def _draw_result(
    canvas: Image.Image, sheet: _Layout, top: int, life: QueryTrace, result: tuple[Pixels, Segmentation]
) -> None:
    pixels, segmentation = result
    draw, x = ImageDraw.Draw(canvas), sheet.x_of(len(sheet.steps))
    if life.mask is None:
        if life.survived:
            draw_text(draw, (x, top + sheet.row // 2), "kept, but no pixels", _SMALL, _GREY)
        return
    if sheet.thumb[1]:
        # Drawn at full size and then reduced, so that thin masks do not vanish.
        scale = max(1, round(2 * sheet.thumb[0] / pixels.shape[1]))
        painted = draw_masks(pixels, [life], scale).resize(sheet.thumb, Image.Resampling.BOX)
        canvas.paste(painted, (x, top + _GAP // 2))
    area = f"{format_area_share(life.mask.area, segmentation)} of the image"
    draw_text(draw, (x, top + _GAP // 2 + sheet.thumb[1] + _SIZE), area, _SMALL, BLACK)


def _strike(draw: ImageDraw.ImageDraw, position: tuple[float, float], width: int) -> None:
    draw.line((position[0] - 2, position[1] + 1, position[0] + width + 2, position[1] + 1), fill=_FALLEN, width=2)
