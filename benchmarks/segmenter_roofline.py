"""The floor of each stage of an image, from the models' shapes and the work of the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.roofline import Floor
from evaluation.random_models import Shape
from worker.segmenter import proposals

_CRF_ITERATIONS = 10
_FLOAT32 = 4


@dataclass(frozen=True, kw_only=True)
class Demand:
    """The work of one image."""

    height: int
    width: int
    shapes: tuple[Shape, Shape]
    """Of f and of g."""
    weight_bytes: tuple[int, int]
    """Bytes of one weight of f, and of one of g's blocks."""
    queries_of_steps: Sequence[int]
    survivors: int
    products: int
    """Vector-Jacobian products."""
    crops: int
    """Encoded by g."""
    text_tokens: tuple[int, int]
    """Of all texts together, start and end included: through f's text tower, and through g's."""


def floors(demand: Demand) -> Mapping[str, Floor]:
    """Return the floors by stage of the segmenter; `text` is once a vocabulary."""
    f, g = demand.shapes
    weights_of_g = _weights(g, g.depth - 1, demand.weight_bytes[1])
    return {
        "text": _texts(f, demand.text_tokens[0]) + _texts(g, demand.text_tokens[1]),
        "encode": _encode(demand),
        "proposal": _propose(demand) + _prompt(demand),
        "classifier": Floor(crop_flop(g) * demand.crops, weights_of_g * _g_steps(demand)),
        "crf": _crf(demand),
    }


def image_flop(shape: Shape, height: int, width: int) -> float:
    """Return the operations of f: every block without the final projections; two per multiply-add, matrices only."""
    return _forward(shape, _tokens(shape, height, width), shape.depth)


def crop_flop(shape: Shape) -> float:
    """Return the operations of one crop through g, which reads the class token after the second to last block."""
    tokens, c = _tokens(shape, shape.image_size, shape.image_size), shape.width
    keys_and_values = 4 * tokens * c**2
    class_token = 20 * c**2 + 4 * tokens * c
    return _forward(shape, tokens, shape.depth - 2) + keys_and_values + class_token


def _tokens(shape: Shape, height: int, width: int) -> int:
    return (height // shape.patch) * (width // shape.patch) + 1


def _forward(shape: Shape, tokens: int, blocks: int) -> float:
    c = shape.width
    embedding = 2 * (tokens - 1) * 3 * shape.patch**2 * c
    return float(embedding + blocks * (24 * tokens * c**2 + 4 * tokens**2 * c))


def _encode(demand: Demand) -> Floor:
    """Count the forward pass, the part of the backward pass that all texts share, and CAA's matrix squared."""
    f = demand.shapes[0]
    height, width = proposals.padded_size(demand.height, demand.width)
    tokens = _tokens(f, height, width)
    shared = 16 * tokens * f.width**2
    affinity = 2.0 * (tokens - 1) ** 3
    return Floor(image_flop(f, height, width) + shared + affinity, _weights(f, f.depth, demand.weight_bytes[0]))


def _propose(demand: Demand) -> Floor:
    """Count a vector-Jacobian product per text (five of (tokens x width) by (width x width) and one with the attention
    map), its map over patches, and CAA of every step's queries.
    """
    f = demand.shapes[0]
    height, width = proposals.padded_size(demand.height, demand.width)
    tokens, c = _tokens(f, height, width), f.width
    product = 10 * tokens * c**2 + 2 * tokens**2 * c + 2 * tokens * c
    return Floor(demand.products * product + sum(demand.queries_of_steps) * 2.0 * (tokens - 1) ** 2)


def _prompt(demand: Demand) -> Floor:
    """Count reads of image and background and the write of the crop, per crop."""
    crop = 2 * 3 * demand.height * demand.width + 3 * demand.shapes[1].image_size ** 2
    return Floor(moved=float(demand.crops * crop))


def _crf(demand: Demand) -> Floor:
    """Count a read and a write of the probability of each pixel and label per iteration."""
    labels = demand.survivors + 1
    return Floor(moved=2.0 * _FLOAT32 * _CRF_ITERATIONS * labels * demand.height * demand.width)


def _texts(shape: Shape, tokens: int) -> Floor:
    """Count the text towers without attention, which is negligible for short texts."""
    blocks = shape.text_depth * 24 * shape.text_width**2
    return Floor(float(tokens * blocks))


def _g_steps(demand: Demand) -> int:
    """Return the steps that ran g: a single query needs no classification."""
    return sum(queries > 1 for queries in demand.queries_of_steps) if demand.crops else 0


def _weights(shape: Shape, blocks: int, number: int) -> float:
    return float(number * blocks * 12 * shape.width**2)
