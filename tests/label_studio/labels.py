"""Labeling configurations of the shapes world, one for each way to show a mask."""

from demo.scenes import WORDS

_SEEN_ON = {
    "red": "#00e5ff",
    "orange": "#00b3ff",
    "yellow": "#8a2bff",
    "green": "#ff2bd6",
    "blue": "#ffe100",
    "purple": "#a8ff00",
}
"""By the colour of an object one in which a mask is seen on it."""


def labels(words: tuple[str, ...] = WORDS, tag: str = "Label") -> str:
    return "".join(f'<{tag} value="{word}" background="{_SEEN_ON[word.split()[0]]}"/>' for word in words)


def config(kind: str, words: tuple[str, ...] = WORDS, more: str = "") -> str:
    """With one control of the kind: Brush, Polygon, Rectangle, Bitmask; or Choices."""
    image = '<Image name="image" value="$image"/>'
    if kind == "Choices":
        control = f'<Choices name="what" toName="image" choice="multiple">{labels(words, "Choice")}</Choices>'
    else:
        control = f'<{kind}Labels name="what" toName="image">{labels(words)}</{kind}Labels>'
    return f"<View>{image}{control}{more}</View>"
