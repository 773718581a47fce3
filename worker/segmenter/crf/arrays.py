"""The few array operations that the dense CRF is made of, so that one text of it runs on numpy and on a device.

No torch here: pictures are finished without it. `device_arrays` has the same over torch.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy import sparse

from worker.segmenter.resizing import enlarge

Array = Any
"""A numpy array or a torch tensor: what is done with it is what both can do (operators, indexing, sum, round, clip)."""

Matrix = Any
"""A sparse matrix that was made by `Arrays.matrix`."""


@runtime_checkable
class Arrays(Protocol):
    """Where arrays lie and who computes with them. Everything is float32 but what `whole` or `places` made."""

    @property
    def at_once(self) -> int:
        """Words filtered together: columns of a table at most."""

    def from_numpy(self, array: Array) -> Array:
        """A numpy array."""

    def to_numpy(self, array: Array) -> Any:  # noqa: ANN401 - a numpy array of any kind
        """A numpy array again."""

    def arange(self, stop: int) -> Array:
        """Int64."""

    def empty(self, *shape: int) -> Array:
        """Float32, to be filled."""

    def full(self, value: float, *shape: int) -> Array:
        """Float32."""

    def zeros_bool(self, stop: int) -> Array:
        """All False."""

    def empty_int64(self, *shape: int) -> Array:
        """Int32, to be filled."""

    def to_int64(self, array: Array) -> Array:
        """As int64."""

    def to_int32(self, array: Array) -> Array:
        """As int32."""

    def to_float32(self, array: Array) -> Array:
        """As float32."""

    def where(self, condition: Array, yes: Array, no: Array) -> Array: ...

    def concatenate(self, arrays: Sequence[Array]) -> Array: ...

    def columns(self, arrays: Sequence[Array]) -> Array:
        """Side by side: row by row in memory."""

    def sorted(self, array: Array) -> Array:
        """Of int64, all different."""

    def search(self, sorted_array: Array, wanted: Array) -> Array: ...

    def matrix(self, starts: Array, indices: Array, values: Array, columns: int) -> Matrix:
        """CSR: row r has the `indices` and `values` from starts[r] to starts[r + 1]."""

    def product(self, matrix: Matrix, table: Array) -> Array:
        """Of a sparse matrix with a table (contiguous rows)."""

    def padded(self, table: Array) -> Array:
        """With columns more where products are quicker so."""

    def exp_(self, array: Array) -> Array:
        """In place."""

    def log_(self, array: Array) -> Array:
        """In place."""

    def exponentials(self, table: Array, total: Array) -> None:
        """In place; the sums of rows are added to `total`, a column."""

    def divide(self, table: Array, total: Array) -> None:
        """Each row by its number in a column."""

    def sigmoid(self, table: Array) -> Array:
        """1 / (1 + e^-x), in place or not."""

    def add_unary_multi(self, table: Array, evidence: Array, background: Array) -> None:
        """Takes the sums of a table's rows from `background`, a column, and adds the evidence to the table."""

    def add_unary_binary(self, table: Array, evidence: Array, ones: Array) -> None:
        """Twice the table, less `ones`, a column, and with the evidence."""

    def max_argmax(self, table: Array) -> tuple[Array, Array]:
        """The greatest of each row, and the first column that has it."""

    def maximum(self, a: Array, b: Array) -> Array: ...

    def upsample(self, cams: Array, height: int, width: int) -> Array:
        """Of (n, rows, columns), bilinear: (height * width, n)."""


class HostArrays:
    """numpy and scipy, in the calling thread."""

    at_once = 24
    """Tables of more rows leave the caches, those of fewer read the lattice too often."""

    def from_numpy(self, array: Array) -> Array:
        return array

    def to_numpy(self, array: Array) -> Any:  # noqa: ANN401 - see Arrays
        return array

    def arange(self, stop: int) -> Array:
        return np.arange(stop)

    def empty(self, *shape: int) -> Array:
        return np.empty(shape, np.float32)

    def full(self, value: float, *shape: int) -> Array:
        return np.full(shape, value, np.float32)

    def zeros_bool(self, stop: int) -> Array:
        return np.zeros(stop, bool)

    def empty_int64(self, *shape: int) -> Array:
        return np.empty(shape, np.int32)

    def to_int64(self, array: Array) -> Array:
        return array.astype(np.int64)

    def to_int32(self, array: Array) -> Array:
        return array.astype(np.int32)

    def to_float32(self, array: Array) -> Array:
        return array.astype(np.float32)

    def where(self, condition: Array, yes: Array, no: Array) -> Array:
        return np.where(condition, yes, no)

    def concatenate(self, arrays: Sequence[Array]) -> Array:
        return np.concatenate(arrays)

    def columns(self, arrays: Sequence[Array]) -> Array:
        return np.stack(arrays, 1)

    def sorted(self, array: Array) -> Array:
        return np.sort(array)

    def search(self, sorted_array: Array, wanted: Array) -> Array:
        return np.searchsorted(sorted_array, wanted)

    def matrix(self, starts: Array, indices: Array, values: Array, columns: int) -> Matrix:
        return sparse.csr_matrix((values, indices, starts), shape=(len(starts) - 1, columns))

    def product(self, matrix: Matrix, table: Array) -> Array:
        return matrix @ table

    def padded(self, table: Array) -> Array:
        # Rows of whole vectors: 8 channels take a fifth less than 7, and 4 a tenth less than 3.
        return np.pad(table, ((0, 0), (0, 1))) if table.shape[1] % 4 == 3 else table  # noqa: PLR2004

    def exp_(self, array: Array) -> Array:
        return np.exp(array, out=array)

    def log_(self, array: Array) -> Array:
        return np.log(array, out=array)

    def exponentials(self, table: Array, total: Array) -> None:
        total += _sums(np.exp(table, out=table))

    def divide(self, table: Array, total: Array) -> None:
        table /= total

    def sigmoid(self, table: Array) -> Array:
        # What e^80 divides is 0 in float32, and no label hangs on it.
        odds = self.exp_((-table).clip(-80.0, 80.0))
        odds += 1
        return 1 / odds

    def add_unary_multi(self, table: Array, evidence: Array, background: Array) -> None:
        background -= _sums(table)
        table += evidence

    def add_unary_binary(self, table: Array, evidence: Array, ones: Array) -> None:
        table *= 2
        table -= ones
        table += evidence

    def max_argmax(self, table: Array) -> tuple[Array, Array]:
        best, who = table[:, 0].copy(), np.zeros(len(table), np.int64)
        for column in range(1, table.shape[1]):  # quicker than max(1), as above
            who[table[:, column] > best] = column
            np.maximum(best, table[:, column], out=best)
        return best, who

    def maximum(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def upsample(self, cams: Array, height: int, width: int) -> Array:
        table = np.empty((height * width, len(cams)), np.float32)
        for k, cam in enumerate(cams):
            table[:, k] = enlarge(cam, height, width).ravel()
        return table


def _sums(table: Array) -> Array:
    return np.einsum("ij->i", table)[:, None]  # five times as quick as sum(1) of short rows
