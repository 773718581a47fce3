"""Array operations by the kernels of lattice.c, if a compiler was there when the package was built.

Calls release the GIL, so other threads of the process go on.
"""

import ctypes
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from worker.segmenter.crf.arrays import Array, Arrays

_VECTOR = 4
"""Columns of every table: a row is one vector. Twice as many take 2.5 times as long, as caches hold fewer points."""

_INT64, _FLOAT32 = ctypes.c_int64, ctypes.c_float
_BYTES, _INTS, _LONGS, _FLOATS = (
    np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS") for dtype in (np.uint8, np.int32, np.int64, np.float32)
)
_SIGNATURES: dict[str, list[Any]] = {
    "simplices": [_INT64, _INT64, _FLOATS, _FLOATS, _FLOAT32, _INTS, _BYTES, _FLOATS],
    "next_keys": [_INT64, _BYTES, _LONGS, _LONGS],
    "sort": [_INT64, _INT64, _INT64, _LONGS, _LONGS],
    "number_points": [_INT64, _INT64, _INT64, _INT64, _INT64, _LONGS, _LONGS, _INTS],
    "find_neighbours": [_INT64, _LONGS, _INT64, _INT64, _LONGS, _INT64, _INT64, _INTS],
    "filter": [*[_INT64] * 3, _INTS, _FLOATS, _FLOATS, _INTS, _FLOAT32, *[_FLOATS] * 4],
    "exp_and_sum": [_INT64, _FLOATS, _FLOATS],
    "divide_rows": [_INT64, _FLOATS, _FLOATS],
    "sigmoid": [_INT64, _FLOATS],
    "add_unary_multi": [_INT64, _FLOATS, _FLOATS, _FLOATS],
    "add_unary_binary": [_INT64, _FLOATS, _FLOATS, _FLOATS],
}


@cache
def kernels() -> ctypes.CDLL | None:
    """Load the kernels; None if they were not compiled from this source or for this kind of machine."""
    folder = resources.files(__package__)
    return load(str(folder / f"lattice-{zlib.crc32((folder / 'lattice.c').read_bytes()):08x}.so"))


def load(library: str) -> ctypes.CDLL | None:
    with suppress(OSError):
        loaded = ctypes.CDLL(library)
        for name, arguments in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, _INT64 if name == "number_points" else None
        return loaded
    return None


def host_arrays() -> Arrays:
    """Return the fastest operations for this machine's CPU."""
    compiled = kernels()
    return Arrays() if compiled is None else CompiledArrays(compiled)


@dataclass(frozen=True)
class CompiledArrays(Arrays):
    """Tables have four columns; those without a label are ignored."""

    kernels: ctypes.CDLL

    max_columns = _VECTOR

    def pad_columns(self, table: Array) -> Array:
        spare = -table.shape[1] % _VECTOR
        return np.pad(table, ((0, 0), (0, spare))) if spare else table

    def upsample(self, cams: Array, height: int, width: int) -> Array:
        return self.pad_columns(super().upsample(cams, height, width))

    def exp_and_sum(self, table: Array, total: Array) -> None:
        self.kernels.exp_and_sum(len(table), table, total)

    def divide_rows(self, table: Array, total: Array) -> None:
        self.kernels.divide_rows(len(table), table, total)

    def sigmoid(self, table: Array) -> Array:
        self.kernels.sigmoid(len(table), table)
        return table

    def add_unary_multi(self, table: Array, unary: Array, background: Array) -> None:
        self.kernels.add_unary_multi(len(table), table, unary, background)

    def add_unary_binary(self, table: Array, unary: Array, filtered_ones: Array) -> None:
        self.kernels.add_unary_binary(len(table), table, unary, filtered_ones)
