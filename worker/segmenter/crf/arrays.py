"""The array operations of the dense CRF, so that one implementation runs on numpy, on C kernels and on a device.

No torch here, because postprocessing runs without it.
"""

from typing import Any

import numpy as np

from worker.segmenter.resizing import enlarge

Array = Any
"""A numpy array or a torch tensor, used only as both can be (operators, indexing, sum, round, clip)."""

Matrix = Any
"""A sparse matrix made by `Arrays.matrix`."""


class Arrays:
    """numpy and scipy, in the calling thread; subclasses use C kernels or torch.

    Arrays are float32 unless a method says otherwise. A table has a row per pixel and a column per label.
    """

    xp: Any = np
    """The namespace of the array API: numpy or torch."""
    device: Any = "cpu"
    max_columns = 24
    """Labels that are filtered together. Wider tables leave the caches, narrower ones read the lattice too often."""

    def from_numpy(self, array: Array) -> Array:
        return self.xp.asarray(array, device=self.device)

    def to_numpy(self, array: Array) -> Any:  # noqa: ANN401 - a numpy array of any dtype
        return array

    def arange(self, stop: int) -> Array:
        """Return int64."""
        return self.xp.arange(stop, device=self.device)

    def empty(self, *shape: int) -> Array:
        return self.xp.empty(shape, dtype=self.xp.float32, device=self.device)

    def full(self, value: float, *shape: int) -> Array:
        return self.xp.full(shape, value, dtype=self.xp.float32, device=self.device)

    def empty_int32(self, *shape: int) -> Array:
        return self.xp.empty(shape, dtype=self.xp.int32, device=self.device)

    def to_int64(self, array: Array) -> Array:
        return self.xp.asarray(array, dtype=self.xp.int64)

    def to_int32(self, array: Array) -> Array:
        return self.xp.asarray(array, dtype=self.xp.int32)

    def to_float32(self, array: Array) -> Array:
        return self.xp.asarray(array, dtype=self.xp.float32)

    def sorted(self, array: Array) -> Array:
        """Sort int64 values that are all different."""
        return np.sort(array)

    def matrix(self, starts: Array, indices: Array, values: Array, columns: int) -> Matrix:
        """Return a CSR matrix: row r has the `indices` and `values` from starts[r] to starts[r + 1]."""
        from scipy import sparse  # noqa: PLC0415 - takes half a second, and the compiled kernels do not need it

        return sparse.csr_matrix((values, indices, starts), shape=(len(starts) - 1, columns))

    def product(self, matrix: Matrix, table: Array) -> Array:
        """Multiply a sparse matrix by a table with contiguous rows."""
        return matrix @ table

    def pad_columns(self, table: Array) -> Array:
        """Append zero columns if that makes products faster."""
        # Rows of whole vectors: 8 channels take a fifth less than 7, and 4 a tenth less than 3.
        return np.pad(table, ((0, 0), (0, 1))) if table.shape[1] % 4 == 3 else table  # noqa: PLR2004

    def row_sums(self, table: Array) -> Array:
        """Return a column."""
        return np.einsum("ij->i", table)[:, None]  # five times as fast as sum(1) for short rows

    def exp_and_sum(self, table: Array, total: Array) -> None:
        """Exponentiate in place and add the sums of rows to `total`, a column."""
        total += self.row_sums(self.xp.exp(table, out=table))

    def divide_rows(self, table: Array, total: Array) -> None:
        """Divide each row in place by its entry of `total`, a column."""
        table /= total

    def sigmoid(self, table: Array) -> Array:
        """Return 1 / (1 + e^-x); the table may be overwritten."""
        # 1 / e^80 is 0 in float32, and no label depends on it.
        odds = (-table).clip(-80.0, 80.0)
        self.xp.exp(odds, out=odds)
        odds += 1
        return 1 / odds

    def add_unary_multi(self, table: Array, unary: Array, background: Array) -> None:
        """Subtract the sums of a table's rows from `background`, a column, and add the unary to the table."""
        background -= self.row_sums(table)
        table += unary

    def add_unary_binary(self, table: Array, unary: Array, filtered_ones: Array) -> None:
        """Double the table, subtract `filtered_ones`, a column, and add the unary."""
        table *= 2
        table -= filtered_ones
        table += unary

    def max_argmax(self, table: Array) -> tuple[Array, Array]:
        """Return each row's maximum and the first column that has it."""
        maximum, argmax = table[:, 0].copy(), np.zeros(len(table), np.int64)
        for column in range(1, table.shape[1]):  # faster than max(1) for short rows
            argmax[table[:, column] > maximum] = column
            np.maximum(maximum, table[:, column], out=maximum)
        return maximum, argmax

    def upsample(self, cams: Array, height: int, width: int) -> Array:
        """Enlarge CAMs (n, rows, columns) bilinearly into a table (height * width, n)."""
        table = np.empty((height * width, len(cams)), np.float32)
        for k, cam in enumerate(cams):
            table[:, k] = enlarge(cam, height, width).ravel()
        return table
