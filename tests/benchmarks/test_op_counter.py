"""benchmarks.op_counter: what ran is what is counted, with gradients, without, and in inference mode."""

import pytest
import torch
from torch.nn import functional

from benchmarks.op_counter import OpCounter


@pytest.fixture(params=[torch.enable_grad, torch.no_grad, torch.inference_mode])
def grad(request):
    with request.param():
        yield


def counted(work):
    with OpCounter() as counting:
        work()
    return counting.counts


@pytest.mark.usefixtures("grad")
def test_products_are_counted_with_their_arithmetic():
    a, b = torch.rand(3, 5), torch.rand(5, 7)
    assert (counted(lambda: a @ b).products, counted(lambda: a @ b).flop) == (1, 2 * 3 * 5 * 7)
    batched = counted(lambda: a.expand(4, 3, 5) @ b.expand(4, 5, 7))
    assert (batched.products, batched.flop) == (1, 4 * 2 * 3 * 5 * 7)


@pytest.mark.usefixtures("grad")
def test_layers_are_counted_as_the_products_that_they_are():
    layer, x = torch.nn.Linear(5, 7), torch.rand(2, 3, 5)
    assert counted(lambda: layer(x)).flop == 2 * 6 * 5 * 7
    conv = torch.nn.Conv2d(3, 8, kernel_size=4, stride=4)
    assert counted(lambda: conv(torch.rand(1, 3, 8, 8))).flop == 2 * 4 * 8 * 3 * 16


@pytest.mark.usefixtures("grad")
def test_fused_attention_counts_as_its_two_products():
    q, k, v = torch.rand(1, 2, 5, 8), torch.rand(1, 2, 9, 8), torch.rand(1, 2, 9, 8)
    seen = counted(lambda: functional.scaled_dot_product_attention(q, k, v))
    assert (seen.products, seen.flop) == (2, 2 * 2 * 5 * 9 * 16)


def test_only_what_leaves_the_host_is_an_upload():
    seen = counted(lambda: torch.zeros(10).double())
    assert (seen.uploads, seen.uploaded_bytes) == (0, 0)
    seen = counted(lambda: torch.zeros(10).to("meta"))
    assert (seen.uploads, seen.uploaded_bytes) == (1, 40)
