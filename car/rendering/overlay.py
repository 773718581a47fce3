"""Overlays: masks drawn on their image, with a legend."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from car.query_history import QueryTrace, format_area_share, query_traces
from car.rendering.palette import BLACK, Rgb, contrasting_color, label_color
from car.rendering.text import draw_text, text_width, truncate_text, wrap_text
from car.rle import decode_coco
from car.segmentation import Segmentation

Pixels = NDArray[np.uint8]

_LEAST_SIDE: Final = 720
"""Small images are enlarged by an integer factor until the long side has at least this many pixels."""
_TINT: Final = 0.18
"""Share of the label's color in a mask: the object's own colors stay visible."""
_FADED: Final = 0.85
"""How much of the color outside all masks is replaced by gray, so that the masks stand out."""
_CASING: Final = 0.65
_PAPER: Final[Rgb] = (250, 250, 248)
_GREY: Final[Rgb] = (120, 122, 126)
_NOTE: Final[Rgb] = (176, 92, 0)
_WIDE: Final = 1.5
"""Above this aspect ratio the legend is below the image instead of on its right."""


def draw_overlay(pixels: Pixels, segmentation: Segmentation, note: str = "") -> Image.Image:
    """Draw the masks on their image, outlined and numbered, with a legend of labels, scores and areas.

    `note` is written below the legend.

    `pixels` are uint8 (height, width, 3), RGB. Small images are enlarged so that the text is readable.
    """
    if pixels.shape != (segmentation.height, segmentation.width, 3) or pixels.dtype != np.uint8:
        raise ValueError(
            f"the image must be uint8 ({segmentation.height}, {segmentation.width}, 3) like its segmentation, "
            f"got {pixels.dtype} {pixels.shape}"
        )
    lives = query_traces(segmentation)
    shown = [life for life in lives if life.mask is not None]
    scale = max(1, -(-_LEAST_SIDE // max(pixels.shape[:2])))
    size = round(min(max(max(pixels.shape[:2]) * scale / 48, 15), 60))
    canvas = draw_masks(pixels, shown, scale)
    _number(canvas, shown, scale, size)
    return _beside(canvas, _legend(lives, segmentation, note, size, canvas.size))


def draw_masks(pixels: Pixels, shown: list[QueryTrace], scale: int) -> Image.Image:
    """Draw the masks, outlined and tinted in their labels' colors, on the image enlarged `scale` times and grayed."""
    height, width = pixels.shape[:2]
    enlarged = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.BICUBIC)
    original = np.asarray(enlarged)
    gray = np.asarray(enlarged.convert("L"))[..., None]
    canvas = np.rint(original * (1 - _FADED) + gray * _FADED).astype(np.uint8)
    thickness = max(2, round(max(canvas.shape[:2]) / 240))
    for life in shown:
        if life.mask is not None:
            _draw_mask(
                (canvas, original),
                decode_coco(life.mask.rle),
                life.mask.bbox,
                label_color(life.index, life.label),
                scale,
                thickness,
            )
    return Image.fromarray(canvas)


def _draw_mask(
    pixels: tuple[Pixels, Pixels],
    mask: NDArray[np.bool_],
    bbox: tuple[int, int, int, int],
    colour: Rgb,
    scale: int,
    thickness: int,
) -> None:
    """Draw one mask within its bounding box: `pixels` are the canvas, which is changed, and the original image."""
    x, y, width, height = bbox
    margin = 1 + thickness // scale
    top, left = max(0, y - margin), max(0, x - margin)
    near = mask[top : y + height + margin, left : x + width + margin]
    large = near.repeat(scale, axis=0).repeat(scale, axis=1)
    part, original = (image[top * scale :, left * scale :][: large.shape[0], : large.shape[1]] for image in pixels)
    casing = ~_shrunk(~large, max(1, thickness // 2)) & ~large
    part[large] = original[large]
    _blend(part, large, colour, _TINT)
    _blend(part, casing, BLACK, _CASING)
    part[large & ~_shrunk(large, thickness)] = colour


def _blend(part: Pixels, where: NDArray[np.bool_], colour: Rgb, share: float) -> None:
    part[where] = np.rint(part[where] * (1 - share) + np.asarray(colour) * share).astype(np.uint8)


def _shrunk(mask: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Erode the mask by `times` pixels; outside the image counts as inside the mask."""
    for _ in range(times):
        padded = np.pad(mask, 1, mode="edge")
        mask = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask


def interior_point(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """Return (x, y) of a pixel deep inside the mask; a centroid can be outside it."""
    stride = max(1, max(mask.shape) // 256)
    thin = mask[::stride, ::stride]
    if not thin.any():
        stride, thin = 1, mask
    while True:
        padded = np.pad(thin, 1)
        less = thin & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        if not less.any():
            ys, xs = np.nonzero(thin)
            # Of several deepest pixels, choose the one nearest to their mean.
            middle = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
            return int(xs[middle]) * stride, int(ys[middle]) * stride
        thin = less


def _number(canvas: Image.Image, shown: list[QueryTrace], scale: int, size: int) -> None:
    """Draw the legend's number on each mask, because colors alone do not distinguish hundreds of labels."""
    draw = ImageDraw.Draw(canvas)
    for number, life in enumerate(shown, start=1):
        if life.mask is None:
            continue
        x, y = ((2 * c + 1) * scale // 2 for c in interior_point(decode_coco(life.mask.rle)))
        across = _badge_width(number, size)
        # A number at the edge is moved inwards instead of clipped.
        x = min(max(x, across // 2 + 1), max(across // 2 + 1, canvas.width - across // 2 - 2))
        y = min(max(y, size), max(size, canvas.height - size))
        draw_badge(draw, (x - across // 2, y), number, size, label_color(life.index, life.label))


def draw_badge(draw: ImageDraw.ImageDraw, center: tuple[int, int], number: int, size: int, colour: Rgb) -> None:
    """Draw a number on its label's color; `position` is its left middle."""
    x, y = center
    across, half = _badge_width(number, size), round(size * 0.68)
    draw.rounded_rectangle(
        (x, y - half, x + across, y + half), radius=round(size * 0.4), fill=colour, outline=BLACK, width=1
    )
    draw_text(draw, (x + across / 2, y), str(number), size, contrasting_color(colour), anchor="mm")


def _badge_width(number: int, size: int) -> int:
    return text_width(str(number), size) + round(size * 0.8)


@dataclass(frozen=True)
class _Entry:
    number: int | None
    """None: kept by the recurrence, but without pixels."""
    colour: Rgb
    label: str
    score: str
    area: str


def _entries(lives: tuple[QueryTrace, ...], segmentation: Segmentation) -> list[_Entry]:
    entries: list[_Entry] = []
    without: list[_Entry] = []
    for life in lives:
        if life.mask is not None:
            area = format_area_share(life.mask.area, segmentation)
            entries.append(
                _Entry(
                    len(entries) + 1, label_color(life.index, life.label), life.label, f"{life.mask.score:.2f}", area
                )
            )
        elif life.survived:
            without.append(_Entry(None, _GREY, life.label, f"{life.last.score:.2f}", "no pixels"))
    return entries + without


def _legend(
    lives: tuple[QueryTrace, ...], segmentation: Segmentation, note: str, size: int, image: tuple[int, int]
) -> Image.Image:
    """Draw rows of number, label, score and area, in as many columns as the image's side needs."""
    entries = _entries(lives, segmentation)
    dropped = sum(not life.survived for life in lives)
    foot = f"{pluralize(len(lives), 'word')} queried, {dropped} dropped in {pluralize(len(segmentation.steps), 'step')}"
    row, gap = round(size * 1.75), round(size * 0.8)
    marks = max((_badge_width(e.number or 0, size) for e in entries), default=0) + gap // 2
    names = min(max((text_width(e.label, size) for e in entries), default=0), size * 16)
    scores = max((text_width(e.score, size) for e in entries), default=0) + gap
    areas = max((text_width(e.area, size) for e in entries), default=0) + gap
    column = marks + names + scores + areas + gap
    if image[0] >= _WIDE * image[1]:
        columns = max(1, min(len(entries), (image[0] - gap) // column))
    else:
        columns = -(-len(entries) // max(1, (image[1] - 2 * row) // row))
    rows = -(-len(entries) // max(columns, 1))
    width = max(columns * column + gap, text_width(foot, size) + 2 * gap)
    small = round(size * 0.85)
    notes = wrap_text(note, small, width - 2 * gap)
    sheet = Image.new("RGB", (width, (rows + 2) * row + len(notes) * 2 * small), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for place, entry in enumerate(entries):
        x, y = gap + place // rows * column, row // 2 + place % rows * row + row // 2
        _write_entry(draw, (x, y), entry, size, (marks, names, scores, areas))
    for number, line in enumerate((foot, *notes)):
        draw_text(
            draw, (gap, round((rows + 1.2) * row) + 2 * number * small), line, small, _GREY if not number else _NOTE
        )
    return sheet


def pluralize(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _write_entry(
    draw: ImageDraw.ImageDraw, position: tuple[int, int], entry: _Entry, size: int, widths: tuple[int, int, int, int]
) -> None:
    x, y = position
    marks, names, scores, areas = widths
    ink = BLACK if entry.number else _GREY
    if entry.number:
        draw_badge(draw, (x, y), entry.number, size, entry.colour)
    draw_text(draw, (x + marks, y), truncate_text(entry.label, size, names), size, ink)
    draw_text(draw, (x + marks + names + scores, y), entry.score, size, ink, anchor="rm")
    draw_text(draw, (x + marks + names + scores + areas, y), entry.area, size, _GREY, anchor="rm")


def _beside(image: Image.Image, legend: Image.Image) -> Image.Image:
    if image.width >= _WIDE * image.height:
        size, place = (max(image.width, legend.width), image.height + legend.height), (0, image.height)
    else:
        size, place = (image.width + legend.width, max(image.height, legend.height)), (image.width, 0)
    whole = Image.new("RGB", size, _PAPER)
    whole.paste(image, (0, 0))
    whole.paste(legend, place)
    return whole
