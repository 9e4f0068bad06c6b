"""The 3 x 3 convolution: the same numbers and gradients as torch's, whichever way they are made."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vitreous import convolution
from vitreous.convolution import conv3x3, filter_gradient


@pytest.mark.parametrize(
    ("batch", "channels", "out", "height", "width"), [(5, 7, 6, 4, 4), (3, 4, 9, 2, 5), (2, 3, 4, 1, 1)]
)
def test_the_gradient_of_the_filters_is_that_of_the_convolution(
    batch: int, channels: int, out: int, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "CHUNK", 2 * height * width * 9 * channels * 8)  # two pictures at a time
    x = torch.randn(batch, channels, height, width, dtype=torch.float64)
    filters = torch.randn(out, channels, 3, 3, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, filters, padding=1)
    up = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, filters, up)
    torch.testing.assert_close(filter_gradient(x, up), expected)


def test_bf16_pictures_give_a_gradient_that_is_summed_up_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "CHUNK", 1)  # one picture at a time: 300 sums
    x, up = torch.ones(300, 1, 1, 1, dtype=torch.bfloat16), torch.ones(300, 1, 1, 1, dtype=torch.bfloat16)
    total = filter_gradient(x, up)  # in bf16, 256 + 1 is 256
    assert total.dtype == torch.float32
    assert total[0, 0, 1, 1] == 300


def learnt(x: Tensor, filters: Tensor, up: Tensor) -> tuple[Tensor, ...]:
    """The result under bf16 autocast, and what x and the filters learn from ``up``."""
    x, filters = x.clone().requires_grad_(), filters.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = conv3x3(x, filters)
    return y, *torch.autograd.grad(y, [x, filters], up.to(y.dtype))


def test_with_matrix_units_it_learns_the_same_from_small_grids_of_many_channels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, filters, up = torch.randn(6, 8, 4, 4), torch.randn(64, 8, 3, 3), torch.randn(6, 64, 4, 4)
    monkeypatch.setattr(convolution, "has_matrix_units", lambda: False)
    plain = learnt(x, filters, up)
    calls = []
    monkeypatch.setattr(convolution, "filter_gradient", lambda *given: calls.append(given) or filter_gradient(*given))
    monkeypatch.setattr(convolution, "has_matrix_units", lambda: True)
    ours = learnt(x, filters, up)
    assert len(calls) == 1
    for one, other in zip(plain, ours, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).norm() < 0.01 * one.norm()


@pytest.mark.parametrize(
    "why", ["a large grid", "no autocast", "frozen filters", "nothing is learnt", "autocast in another type"]
)
def test_elsewhere_it_is_torchs_own(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "has_matrix_units", lambda: True)
    side = 5 if why == "a large grid" else 4
    x, filters = torch.randn(2, 8, side, side), torch.randn(64, 8, 3, 3, requires_grad=why != "frozen filters")
    dtype = torch.float16 if why == "autocast in another type" else torch.bfloat16
    with (
        torch.autocast("cpu", dtype, enabled=why != "no autocast"),
        torch.set_grad_enabled(why != "nothing is learnt"),
    ):
        y = conv3x3(x, filters)
        expected = F.conv2d(x, filters, padding=1)
    assert torch.equal(y, expected)
    assert "ByProducts" not in str(y.grad_fn)


def test_pictures_that_learn_nothing_leave_the_filters_gradient_as_it_is() -> None:
    x, filters, up = torch.randn(2, 8, 4, 4), torch.randn(64, 8, 3, 3, requires_grad=True), torch.randn(2, 64, 4, 4)
    (ours,) = torch.autograd.grad(convolution._ByProducts.apply(x, filters), filters, up)
    (torchs,) = torch.autograd.grad(F.conv2d(x, filters, padding=1), filters, up)
    torch.testing.assert_close(ours, torchs)


def test_a_gradient_of_the_gradient_is_refused() -> None:
    x, filters = torch.randn(2, 8, 4, 4), torch.randn(64, 8, 3, 3, requires_grad=True)
    loss = convolution._ByProducts.apply(x, filters).square().sum()
    (once,) = torch.autograd.grad(loss, filters, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        once.sum().backward()
