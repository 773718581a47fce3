"""Make characters visible that a terminal would obey or could not show."""

_JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def printable(text: object) -> str:
    """Return the text with escapes for characters that could steer a terminal, forge a line or cannot be printed.

    Joiners stay: Persian, Hindi and emoji are written with them.
    """
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS else ascii(letter)[1:-1] for letter in str(text)
    )


def printable_lines(text: object) -> str:
    """Return the text like `printable`, but keep its line breaks."""
    return "\n".join(map(printable, str(text).split("\n")))
