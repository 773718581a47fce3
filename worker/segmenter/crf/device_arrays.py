"""What the dense CRF is made of, over torch: on any device, without a wait for it once the lattices stand."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from worker.segmenter.crf.arrays import Array


@dataclass(frozen=True)
class _Rows:
    """A CSR matrix as embedding_bag reads it: on a device one kernel that sums each row in order, without atomics; on a
    CPU quicker than torch's sparse product by a fifth to a half.
    """

    starts: Tensor
    indices: Tensor
    values: Tensor

    @property
    def nnz(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class DeviceArrays:
    """See Arrays."""

    device: torch.device

    at_once = 24

    def from_numpy(self, array: Array) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def to_numpy(self, array: Array) -> Any:  # noqa: ANN401 - see Arrays
        return array.cpu().numpy()

    def arange(self, stop: int) -> Tensor:
        return torch.arange(stop, device=self.device)

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def full(self, value: float, *shape: int) -> Tensor:
        return torch.full(shape, value, dtype=torch.float32, device=self.device)

    def zeros_bool(self, stop: int) -> Tensor:
        return torch.zeros(stop, dtype=torch.bool, device=self.device)

    def empty_int64(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.int32, device=self.device)

    def to_int64(self, array: Array) -> Tensor:
        return _as(array, torch.int64)

    def to_int32(self, array: Array) -> Tensor:
        return _as(array, torch.int32)

    def to_float32(self, array: Array) -> Tensor:
        return _as(array, torch.float32)

    def where(self, condition: Array, yes: Array, no: Array) -> Tensor:
        return torch.where(condition, yes, no)

    def concatenate(self, arrays: Sequence[Array]) -> Tensor:
        return torch.cat(list(arrays))

    def columns(self, arrays: Sequence[Array]) -> Tensor:
        return torch.stack(list(arrays), 1)

    def sorted(self, array: Array) -> Tensor:
        return torch.sort(array).values

    def search(self, sorted_array: Array, wanted: Array) -> Tensor:
        return torch.searchsorted(sorted_array, wanted)

    def matrix(self, starts: Array, indices: Array, values: Array, columns: int) -> _Rows:  # noqa: ARG002 - see Arrays
        return _Rows(starts, indices, values)

    def product(self, matrix: _Rows, table: Array) -> Tensor:
        return functional.embedding_bag(
            matrix.indices,
            table,
            matrix.starts,
            mode="sum",
            per_sample_weights=matrix.values,
            include_last_offset=True,
        )

    def padded(self, table: Array) -> Array:
        return table

    def exp_(self, array: Array) -> Array:
        return array.exp_()

    def log_(self, array: Array) -> Array:
        return array.log_()

    def exponentials(self, table: Array, total: Array) -> None:
        total += table.exp_().sum(1)[:, None]

    def divide(self, table: Array, total: Array) -> None:
        table /= total

    def sigmoid(self, table: Array) -> Array:
        # What e^80 divides is 0 in float32, and no label hangs on it.
        odds = (-table).clip(-80.0, 80.0).exp_()
        odds += 1
        return 1 / odds

    def add_unary_multi(self, table: Array, evidence: Array, background: Array) -> None:
        background -= table.sum(1)[:, None]
        table += evidence

    def add_unary_binary(self, table: Array, evidence: Array, ones: Array) -> None:
        table *= 2
        table -= ones
        table += evidence

    def max_argmax(self, table: Array) -> tuple[Tensor, Tensor]:
        best, who = table.max(1)
        return best, who

    def maximum(self, a: Array, b: Array) -> Tensor:
        return torch.maximum(a, b)

    def upsample(self, cams: Array, height: int, width: int) -> Tensor:
        # cv2.INTER_LINEAR to the last bits but one, which the tests hold.
        large = functional.interpolate(cams[None], (height, width), mode="bilinear", align_corners=False)[0]
        return large.reshape(len(cams), -1).T.contiguous()


def _as(array: Array, dtype: torch.dtype) -> Tensor:
    cast: Tensor = array.to(dtype)
    return cast
