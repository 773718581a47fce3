"""Counts of a run's operations: matrix products, their arithmetic, kernels and uploads to the device.

Counting slows a run, so a run is either counted or timed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten


@dataclass
class Counts:
    """Totals of a `with OpCounter()` block."""

    products: int = 0
    """Matrix products: a batched one counts as one, attention as two."""
    flop: float = 0.0
    """Of matrix products and convolutions, two a multiply-add."""
    uploads: int = 0
    """Tensors copied from the host to the device."""
    uploaded_bytes: int = 0
    kernels: int = 0
    """Operators that compute; views are left out."""
    convolutions: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """Calls by the shape of the weights, which differs between the image towers."""

    def per_image(self, images: int) -> dict[str, float]:
        """Return the share of each of `images` that were counted together."""
        return {name: getattr(self, name) / images for name in ("products", "flop", "uploads", "uploaded_bytes")}


class OpCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations inside a `with` block. A run on the CPU uploads nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts = Counts()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch publishes no types for operators
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        kwargs, packet = kwargs or {}, func.overloadpacket
        flop = _FLOP.get(packet)
        if flop is None and func not in _NOT_DECOMPOSED:
            with self:  # a composite operator is counted by its parts
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        self.counts.kernels += not func.is_view
        if flop is not None:
            self.counts.flop += flop(*args, **kwargs, out_val=out)
            self.counts.products += 2 if "attention" in str(packet) else 1
            if packet is _aten.convolution:
                self.counts.convolutions[tuple(args[1].shape)] += 1
        elif packet in (_aten._to_copy, _aten.copy_):  # noqa: SLF001 - the operator's name
            self._count_upload(args[1] if packet is _aten.copy_ else args[0], out)
        return out

    def _count_upload(self, source: Tensor, out: Tensor) -> None:
        if source.device.type == "cpu" and out.device.type != "cpu":
            self.counts.uploads += 1
            self.counts.uploaded_bytes += source.nbytes


_NOT_DECOMPOSED = frozenset({_aten.detach.default})
"""Operators whose decomposition is infinite."""


def _flop_of_product(matrix: int) -> Callable[..., float]:
    """Count a matrix-vector product, which torch's registry lacks; the matrix is argument `matrix`."""

    def count(*args: Any, **_: Any) -> float:  # noqa: ANN401
        return 2.0 * float(args[matrix].numel())

    return count


_FLOP: dict[Any, Callable[..., float]] = {
    **flop_registry,
    _aten.mv: _flop_of_product(0),
    _aten.addmv: _flop_of_product(1),
}
