"""The smoothness of a loss along its gradient: a quadratic loss by hand, and a normed layer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from msngan.norms import SigmaBank, convert, stored
from msngan.training.smoothness import STEPS, along_gradient, smoothness

RATE = 0.05


def by_hand(weight: np.ndarray, curvature: np.ndarray, offset: np.ndarray) -> dict[str, float]:
    """Of w^T H w / 2 - b^T w, whose gradient is H w - b and changes by H d."""
    gradient = curvature @ weight - offset
    size, bent = np.linalg.norm(gradient), np.linalg.norm(curvature @ gradient)
    along = [
        -s * RATE * size**2 + (s * RATE) ** 2 * gradient @ curvature @ gradient / 2
        for s in (0, *STEPS)
    ]
    return {
        "loss_range": max(along) - min(along),
        "gradient_change": max(STEPS) * RATE * bent / size,
        "beta_smoothness": bent / size,
    }


def test_a_quadratic_loss_by_hand():
    draw = np.random.default_rng(0)
    root, offset, start = draw.normal(size=(5, 5)), draw.normal(size=5), draw.normal(size=5)
    curvature = root @ root.T
    w = torch.tensor(start, requires_grad=True)
    h, b = torch.from_numpy(curvature), torch.from_numpy(offset)
    unused = torch.ones(2, dtype=torch.float64, requires_grad=True)
    found = along_gradient(lambda: w @ h @ w / 2 - b @ w, [w, unused], RATE)
    assert found == pytest.approx(by_hand(start, curvature, offset), rel=1e-9)
    assert unused.tolist() == [1, 1]


def test_a_linear_network_with_a_squared_loss_by_hand():
    torch.manual_seed(0)
    layer = nn.Linear(3, 1, bias=False).double()
    x, y = torch.randn(7, 3).double(), torch.randn(7).double()
    kept = layer.weight.detach().clone()

    def loss(network: nn.Module) -> Tensor:
        return (network(x).flatten() - y).square().mean() / 2

    found = smoothness(layer, loss, RATE)
    curvature, offset = (x.T @ x / 7).numpy(), (x.T @ y / 7).numpy()
    assert found == pytest.approx(by_hand(kept[0].numpy(), curvature, offset), rel=1e-9)
    assert torch.equal(layer.weight, kept)
    assert layer.weight.grad is None


def test_a_spectral_norm_is_differentiated_with_constant_vectors():
    torch.manual_seed(0)
    layer = nn.Linear(4, 3, bias=False).double()
    network = convert(nn.Sequential(layer), "spectral")
    bank = SigmaBank(network)
    with torch.no_grad():
        stored(layer).mul_(3)
    bank.update()
    x, y = torch.randn(6, 4).double(), torch.randn(6, 3).double()
    part = layer.weight_norm
    u, v = part.u.clone(), part.v.clone()
    weight = stored(layer).detach().clone().requires_grad_()

    def plain() -> Tensor:
        sigma = u.flatten() @ weight @ v.flatten()
        return (x @ (weight / sigma).T - y).square().mean()

    expected = along_gradient(plain, [weight], RATE)
    found = smoothness(network, lambda network: (network(x) - y).square().mean(), RATE)
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("case", ["zero gradient", "infinite", "diverges on the way"])
def test_what_has_no_smoothness_is_nan(case):
    w = torch.full((2,), 3.0, requires_grad=True)
    losses = {
        "zero gradient": lambda: (w * 0).sum(),
        "infinite": lambda: (w * math.inf).sum(),
        "diverges on the way": lambda: (w - 3 + RATE).log().sum() * 4,
    }
    assert all(math.isnan(each) for each in along_gradient(losses[case], [w], RATE).values())
