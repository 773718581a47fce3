"""The kernels of lattice.c: a CPU's own array operations, where a compiler was there when the package was built.

Calls let go of the GIL, so a finisher's other threads go on.
"""

import ctypes
import zlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from worker.segmenter.crf.arrays import Array, HostArrays

_LANES = 4
"""Columns of every table: rows of one vector. Twice as many take 2.5 times as long, as fewer points fit into caches."""

_WHOLE, _REAL = ctypes.c_int64, ctypes.c_float
_BYTES, _INTS, _LONGS, _FLOATS = (
    np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS") for dtype in (np.uint8, np.int32, np.int64, np.float32)
)
_SIGNATURES: dict[str, list[Any]] = {
    "simplices": [_WHOLE, _WHOLE, _FLOATS, _FLOATS, _REAL, _INTS, _BYTES, _FLOATS],
    "turn": [_WHOLE, _BYTES, _LONGS, _LONGS],
    "sort": [_WHOLE, _WHOLE, _WHOLE, _LONGS, _LONGS],
    "number": [_WHOLE, _WHOLE, _WHOLE, _WHOLE, _WHOLE, _LONGS, _LONGS, _INTS],
    "meet": [_WHOLE, _LONGS, _WHOLE, _WHOLE, _LONGS, _WHOLE, _WHOLE, _INTS],
    "filter": [*[_WHOLE] * 3, _INTS, _FLOATS, _FLOATS, _INTS, _REAL, *[_FLOATS] * 4],
    "exponentials": [_WHOLE, _FLOATS, _FLOATS],
    "divide": [_WHOLE, _FLOATS, _FLOATS],
    "chances": [_WHOLE, _FLOATS],
    "compete": [_WHOLE, _FLOATS, _FLOATS, _FLOATS],
    "oppose": [_WHOLE, _FLOATS, _FLOATS, _FLOATS],
}


@cache
def kernels() -> ctypes.CDLL | None:
    """None where they were not compiled from this source, or for another kind of machine."""
    folder = resources.files(__package__)
    return load(str(folder / f"lattice-{zlib.crc32((folder / 'lattice.c').read_bytes()):08x}.so"))


def load(library: str) -> ctypes.CDLL | None:
    with suppress(OSError):
        loaded = ctypes.CDLL(library)
        for name, arguments in _SIGNATURES.items():
            function = getattr(loaded, name)
            function.argtypes, function.restype = arguments, _WHOLE if name == "number" else None
        return loaded
    return None


def host_arrays() -> HostArrays:
    """The quickest of this machine's CPU."""
    compiled = kernels()
    return HostArrays() if compiled is None else CompiledArrays(compiled)


@dataclass(frozen=True)
class CompiledArrays(HostArrays):
    """Tables have four columns. Those that no word needs are never anybody's."""

    kernels: ctypes.CDLL

    at_once = _LANES

    def padded(self, table: Array) -> Array:
        spare = -table.shape[1] % _LANES
        return np.pad(table, ((0, 0), (0, spare))) if spare else table

    def upsample(self, cams: Array, height: int, width: int) -> Array:
        return self.padded(super().upsample(cams, height, width))

    def exponentials(self, table: Array, total: Array) -> None:
        self.kernels.exponentials(len(table), table, total)

    def divide(self, table: Array, total: Array) -> None:
        self.kernels.divide(len(table), table, total)

    def sigmoid(self, table: Array) -> Array:
        self.kernels.chances(len(table), table)
        return table

    def add_unary_multi(self, table: Array, evidence: Array, background: Array) -> None:
        self.kernels.compete(len(table), table, evidence, background)

    def add_unary_binary(self, table: Array, evidence: Array, ones: Array) -> None:
        self.kernels.oppose(len(table), table, evidence, ones)
