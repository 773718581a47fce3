"""Floating-point operations of SAM's matrices, two a multiply-add, computed from the shapes."""

from worker.segmenter.sam.automatic_masks import resized_size
from worker.segmenter.sam.network import SamSizes

_TOKENS = 7
"""Tokens of a point: one for quality, four for masks, the point and the end of the prompt."""
_LAYERS = 2
_OUTPUTS = 3


def tera_flop(sizes: SamSizes, size: tuple[int, int], points: int, masked_points: int) -> dict[str, float]:
    """Return the arithmetic of one image of `size` (height, width), ours and the package's, if `masked_points` of its
    points get a mask.
    """
    resized = resized_size(size, sizes.image_size)
    rows, columns = (-(-side // sizes.patch) for side in resized)
    flop = {
        "encode": _encode(sizes, padded=False),
        "decode": points * _prompt(sizes) + masked_points * _masks(sizes, rows * columns),
        "official_encode": _encode(sizes, padded=True),
        "official_decode": points * (_official_prompt(sizes) + _masks(sizes, sizes.grid**2)),
    }
    return {name: count / 1e12 for name, count in flop.items()}


def _encode(sizes: SamSizes, *, padded: bool) -> float:
    """Count the image encoder. `padded`: the missing patches of half-filled windows are projected too."""
    patches, c, out = sizes.grid**2, sizes.width, sizes.prompt_width
    windows, side = (-(-sizes.grid // sizes.window)) ** 2, sizes.window
    window_patches = windows * side**2
    total = 2 * patches * 3 * sizes.patch**2 * c + 2 * patches * (c * out + 9 * out**2)
    for block in range(sizes.depth):
        is_global = block in sizes.global_blocks
        total += 8 * (window_patches if padded and not is_global else patches) * c**2 + 16 * patches * c**2
        each, grid, count = (patches, sizes.grid, 1) if is_global else (side**2, side, windows)
        total += count * (4 * each**2 * c + 4 * each * grid * c * sizes.relative_positions)
    return float(total)


def _prompt(sizes: SamSizes) -> float:
    """Count a point without its masks: patches attend to heads x tokens rows, positions to the tokens of each head."""
    patches, c = sizes.grid**2, sizes.prompt_width
    folded = 2 * patches * sizes.decoder_heads * _TOKENS * c
    shared = 2 * _TOKENS * patches * c // 2
    first = 3 * shared + folded
    later = (_LAYERS - 1) * (2 * shared + 4 * folded) + shared + 2 * folded
    return float(first + later + _tokens(sizes))


def _official_prompt(sizes: SamSizes) -> float:
    patches, c = sizes.grid**2, sizes.prompt_width
    projection, attention = 2 * patches * c * c // 2, 4 * _TOKENS * patches * c // 2
    return float((2 * _LAYERS + 1) * (2 * projection + attention) + _tokens(sizes))


def _tokens(sizes: SamSizes) -> float:
    c = sizes.prompt_width
    return float(_LAYERS * _TOKENS * (4 * c * sizes.decoder_mlp + 8 * c**2 + 8 * c * c // 2))


def _masks(sizes: SamSizes, patches: int) -> float:
    c = sizes.prompt_width
    return float(3 * patches * c**2 + 2 * 16 * patches * (c // 8) * _OUTPUTS)
