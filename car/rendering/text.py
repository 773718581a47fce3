"""Text on images in any script: in an installed font that has the letters, or else transliterated."""

import unicodedata
from functools import lru_cache

from PIL import ImageDraw, ImageFont

from car.rendering.palette import Rgb

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font covers little more than ASCII; these are tried in order for other letters.
_WIDER = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "WenQuanYi Micro Hei.ttf",
    "msyh.ttc",
    "PingFang.ttc",
    "Arial Unicode.ttf",
)
_NO_GLYPH = "\uffff"


def draw_text(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, size: int, color: Rgb, *, anchor: str = "lm"
) -> None:
    """Draw one line of text; `anchor` is Pillow's, by default left and middle."""
    font, spelled = choose_font(text, size)
    draw.text(
        position, spelled, font=font, fill=color, anchor=anchor if isinstance(font, ImageFont.FreeTypeFont) else None
    )


def text_width(text: str, size: int) -> int:
    """Return the width of one line of text in pixels."""
    font, spelled = choose_font(text, size)
    return round(font.getlength(spelled))


def truncate_text(text: str, size: int, width: int) -> str:
    """Return the text, truncated with an ellipsis if it does not fit."""
    if text_width(text, size) <= width:
        return text
    few, many = 0, len(text)
    while few < many:
        middle = (few + many + 1) // 2
        few, many = (middle, many) if text_width(text[:middle] + "...", size) <= width else (few, middle - 1)
    return text[:few].rstrip() + "..."


def wrap_text(text: str, size: int, width: int) -> list[str]:
    """Return the text as lines of at most this width; longer words are truncated."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(truncate_text(word, size, width))
    return lines


@lru_cache(maxsize=4096)
def choose_font(text: str, size: int) -> tuple[Font, str]:
    """Return a font and the text as it can be drawn in it."""
    plain = ImageFont.load_default(size=size)
    if text.isascii():
        return plain, text
    if isinstance(plain, ImageFont.FreeTypeFont):
        for font in (plain, *_wider_fonts(size)):
            if all(_has(font, letter) for letter in set(text)):
                return font, text
        # Combining marks are removed: é becomes e.
        bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
        return plain, "".join(letter if _has(plain, letter) else "?" for letter in bare)
    return plain, text.encode("ascii", "replace").decode()


@lru_cache(maxsize=64)
def _wider_fonts(size: int) -> tuple[ImageFont.FreeTypeFont, ...]:
    return tuple(ImageFont.truetype(name, size) for name in _wider_names())


@lru_cache(maxsize=1)
def _wider_names() -> tuple[str, ...]:
    """Return the installed ones of the fonts."""
    return tuple(name for name in _WIDER if _opens(name))


def _opens(name: str) -> bool:
    try:
        ImageFont.truetype(name, 12)
    except OSError:
        return False
    return True


def _has(font: ImageFont.FreeTypeFont, letter: str) -> bool:
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NO_GLYPH))
