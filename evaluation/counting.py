"""What a piece of work asks of the device, counted as it runs: products of matrices, their arithmetic, uploads.

Counting takes time of its own, so a run is either counted or timed.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


@dataclass
class Counts:
    """Of everything that ran within `with Counting(...)`."""

    products: float = 0
    """Calls of the device's product of matrices, batched ones and attention counted as one and two."""
    flop: float = 0.0
    """Of those and of convolutions, two a multiply-add."""
    uploads: float = 0
    """Tensors that went from the host to the device."""
    uploaded_bytes: float = 0

    convolutions: Counter[tuple[int, ...]] = field(default_factory=Counter)
    """By the shape of their weights: an image tower begins with one of its own."""

    def of_one(self, company: int) -> "Counts":
        """Of one of so many that were counted together; `convolutions` is left out."""
        parts = {name: value / company for name, value in self.to_json().items()}
        return Counts(**parts)

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "convolutions"}


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fills `counts` while it is entered. On a CPU nothing is sent anywhere."""

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
        kwargs = kwargs or {}
        counted = _COUNTED.get(func.overloadpacket)
        if counted is None and func not in _WHOLE:
            with self:  # what is made of other operators is counted by them
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        out = func(*args, **kwargs)
        if counted is not None:
            products, flop = counted(args, out)
            self.counts.products += products
            self.counts.flop += flop
            if func.overloadpacket is _aten.convolution:
                self.counts.convolutions[tuple(args[1].shape)] += 1
        elif func.overloadpacket in (_aten._to_copy, _aten.copy_):  # noqa: SLF001 - the operator's name
            self._upload(func.overloadpacket, args, out)
        return out

    def _upload(self, packet: Any, args: tuple[Any, ...], out: Tensor) -> None:  # noqa: ANN401
        source = args[1] if packet is _aten.copy_ else args[0]
        if source.device.type == "cpu" and out.device.type != "cpu":
            self.counts.uploads += 1
            self.counts.uploaded_bytes += source.nbytes


_WHOLE = frozenset({_aten.detach.default})
"""Decomposing it would never end."""


def _matrices(first: int) -> Callable[[tuple[Any, ...], Any], tuple[int, float]]:
    """Of (b, i, k) by (b, k, j), where the left one is argument `first`."""

    def count(args: tuple[Any, ...], out: Any) -> tuple[int, float]:  # noqa: ANN401
        return 1, 2.0 * out.numel() * args[first].shape[-1]

    return count


def _linear(args: tuple[Any, ...], out: Any) -> tuple[int, float]:  # noqa: ANN401
    return 1, 2.0 * out.numel() * args[0].shape[-1]


def _attention(args: tuple[Any, ...], out: Any) -> tuple[int, float]:  # noqa: ANN401, ARG001
    """softmax(q k) v: two products."""
    query, key, value = args[:3]
    pairs = math.prod(query.shape[:-1]) * key.shape[-2]
    return 2, 2.0 * pairs * (query.shape[-1] + value.shape[-1])


def _convolution(args: tuple[Any, ...], out: Any) -> tuple[int, float]:  # noqa: ANN401
    return 1, 2.0 * out.numel() * math.prod(args[1].shape[1:])


_COUNTED: dict[Any, Callable[[tuple[Any, ...], Any], tuple[int, float]]] = {
    _aten.mm: _matrices(0),
    _aten.mv: _matrices(0),
    _aten.bmm: _matrices(0),
    _aten.addmm: _matrices(1),
    _aten.addmv: _matrices(1),
    _aten.baddbmm: _matrices(1),
    _aten.linear: _linear,
    _aten.convolution: _convolution,
    _aten.scaled_dot_product_attention: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,  # noqa: SLF001
    _aten._scaled_dot_product_flash_attention: _attention,  # noqa: SLF001
    _aten._scaled_dot_product_efficient_attention: _attention,  # noqa: SLF001
    _aten._scaled_dot_product_cudnn_attention: _attention,  # noqa: SLF001
}
