"""Equations 6 to 10 of arXiv:1907.04003 on the layer that trains: closed forms, and gradcheck."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msngan.norms import MSNConv2d, MSNLinear, SigmaBank, WeightPart, stored


def layer() -> MSNConv2d:
    torch.manual_seed(0)
    made = MSNConv2d(3, 4, 3, padding=1).double()
    SigmaBank(made)  # takes the power iteration over: u and v stay as they are
    with torch.no_grad():
        made.output_norm.bias.normal_()
    return made


@pytest.fixture
def x() -> Tensor:
    return torch.randn(5, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def parts(made: MSNConv2d) -> tuple[Tensor, Tensor, Tensor]:
    """sigma, u (4,) and v (27,) of the layer's weight as a matrix."""
    norm = made.weight_norm
    u, v = norm.u[0], norm.columns(norm.v, stored(made))[0]
    return u @ stored(made).detach().flatten(1) @ v, u, v


@pytest.mark.quick
def test_equations_6_and_7_the_output_is_centred_and_offset(x: Tensor) -> None:
    made = layer()
    output = made(x)
    sigma, *_ = parts(made)  # as it is after that pass's iteration
    h = F.conv2d(x, stored(made) / sigma, padding=1)
    wanted = h - h.mean((0, 2, 3), keepdim=True) + made.output_norm.bias[:, None, None]
    torch.testing.assert_close(output, wanted)
    torch.testing.assert_close(made(x).mean((0, 2, 3)), made.output_norm.bias)


@pytest.mark.quick
def test_equations_8_and_9_the_gradient_of_the_weight_is_the_projected_one(x: Tensor) -> None:
    made = layer()
    g = torch.randn(5, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (made(x) * g).sum().backward()
    sigma, u, v = parts(made)
    normed = (stored(made).detach() / sigma).requires_grad_()
    h = F.conv2d(x, normed, padding=1)
    ((h - h.mean((0, 2, 3), keepdim=True)) * g).sum().backward()
    assert normed.grad is not None
    inner = (normed.grad * normed.detach()).sum()
    wanted = (normed.grad.flatten(1) - inner * torch.outer(u, v)) / sigma
    torch.testing.assert_close(stored(made).grad.flatten(1), wanted)
    # So the weight's length cannot change to first order.
    assert (stored(made).grad * stored(made).detach()).sum().abs() < 1e-12


@pytest.mark.quick
def test_equation_10_the_gradient_before_the_centring_has_no_mean(x: Tensor) -> None:
    made = layer()
    h = torch.randn(5, 4, 6, 6, dtype=torch.float64, requires_grad=True)
    g = torch.randn(5, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    made.output_norm.inplace = False
    (made.output_norm(h) * g).sum().backward()
    torch.testing.assert_close(h.grad, g - g.mean((0, 2, 3), keepdim=True))
    assert h.grad.sum((0, 2, 3)).abs().max() < 1e-12


@pytest.mark.parametrize("kind", ["convolution", "linear"])
def test_the_whole_layer_passes_gradcheck_in_input_weight_and_offset(
    kind: str, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Equation 9 takes u and v as constants, so nothing may be estimated in between.
    monkeypatch.setattr(WeightPart, "follow", lambda *_: None)
    made = layer()
    if kind == "linear":
        made = MSNLinear(6, 4).double()
        SigmaBank(made)
    inputs = (x[:2, :, :4, :4] if kind == "convolution" else x[:, 0, 0]).clone().requires_grad_()

    def output(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
        named = {"weight": weight, "output_norm.bias": offset}
        return torch.func.functional_call(made, named, (x,))

    weight, offset = stored(made).detach().clone(), made.output_norm.bias.detach().clone()
    arguments = (inputs, weight.requires_grad_(), offset.requires_grad_())
    assert torch.autograd.gradcheck(output, arguments)
    assert torch.autograd.gradgradcheck(output, arguments, fast_mode=True)
