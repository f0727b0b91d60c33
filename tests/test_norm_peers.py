"""The norms against torch's spectral norm, naive formulas and singular value decompositions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from msngan.norms import SigmaBank, convert, estimate, stored
from msngan.norms.spectral import SpectralNorm

F64 = torch.float64


def close(a: object, b: object, rtol: float = 1e-10, atol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def real(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


def matrix_of(weight: Tensor, transposed: bool = False, groups: int = 1) -> Tensor:
    """The blocks (groups, outputs, the rest) of a weight, by slices alone."""
    if transposed:
        blocks = [each.transpose(0, 1).flatten(1) for each in weight.chunk(groups)]
    else:
        blocks = [each.flatten(1) for each in weight.chunk(groups)]
    return torch.stack(blocks)


# torch's parametrization, with the same u and v.

PEERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "conv": (lambda: nn.Conv2d(3, 5, 3, 2, 1), lambda: real(4, 3, 6, 6)),
    "conv, channels last": (
        lambda: nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
        lambda: real(4, 3, 6, 6),
    ),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3), lambda: real(4, 3, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 4, 2, 1), lambda: real(4, 3, 3, 3)),
    "linear": (lambda: nn.Linear(7, 5), lambda: real(4, 7)),
    "embedding": (lambda: nn.Embedding(9, 5), lambda: torch.randint(9, (4, 6))),
}


@pytest.mark.parametrize("how", ["eval", "training", "lent"])
@pytest.mark.parametrize("kind", PEERS)
def test_spectral_is_torch_s_parametrization_with_the_same_u_and_v(kind: str, how: str) -> None:
    make, inputs = PEERS[kind]
    plain, x = make().to(F64), inputs()
    ours = convert(copy.deepcopy(plain), "spectral")
    theirs = parametrizations.spectral_norm(plain).eval()
    part, their = ours.weight_norm, theirs.parametrizations.weight[0]
    if how == "eval":  # any u and v, and the sigma that they give
        u = F.normalize(real(*part.u.shape), dim=1)
        weight = matrix_of(stored(ours).detach(), kind == "transposed")
        product = torch.bmm(u[:, None], weight)[:, 0]
        part.u.copy_(u)
        part.v.copy_((product / product.norm()).view(part.v.shape))
        part.last_sigma.copy_(product.norm())
        ours.eval()
        part.known_in_both(stored(ours))  # as after a load
    elif how == "training":
        ours(x)
    their._u.copy_(part.u.flatten())
    their._v.copy_(part.v.flatten())
    found = []
    for layer in (ours, theirs):
        source = x.clone().requires_grad_(x.is_floating_point())
        if how == "lent" and layer is ours:
            bank = SigmaBank(ours)
            with bank.shared():
                y = layer(source)
        else:
            y = layer(source)
        weight = stored(ours) if layer is ours else theirs.parametrizations.weight.original
        wanted = [
            each
            for each in (source, weight, getattr(layer, "bias", None))
            if isinstance(each, Tensor) and each.requires_grad
        ]
        torch.manual_seed(1)
        found.append([y, *torch.autograd.grad(y, wanted, torch.randn_like(y))])
    close(found[0], found[1])


# The branch of other devices, which reads no values.


@pytest.mark.parametrize("banked", [True, False])
def test_one_product_of_the_bank_is_one_of_each_part(banked: bool) -> None:
    """With the more-while-it-moves loops off, to rounding."""
    net = convert(nn.Sequential(nn.Conv2d(3, 20, 3), nn.Linear(9, 30)).to(F64), "spectral")
    alone = copy.deepcopy(net)
    with torch.no_grad():
        for layer, other in zip(net, alone, strict=True):
            stored(layer).normal_()
            stored(other).copy_(stored(layer))
    if banked:
        with patch("msngan.norms.bank.ENOUGH", 1e9):
            SigmaBank(net).update()
    else:
        with patch("msngan.norms.spectral.ENOUGH", 1e9):
            for layer in net:
                layer.weight_norm.iterate(stored(layer))
    for mine, own in zip(net, alone, strict=True):
        part, other = mine.weight_norm, own.weight_norm
        block = other.block.mT
        a = other.matrix(stored(own).detach())
        z = a @ a.mT @ block
        vector = torch.linalg.eigh(block.mT @ z)[1][..., -1:]
        sigma = (z @ vector).norm() / (a.mT @ block @ vector).norm()
        close(part.last_sigma, sigma, 1e-9)


def grams(count: int, ratio: float) -> Tensor:
    """Symmetric (2, count, count) with the second eigenvalue `ratio` times the first."""
    basis = torch.linalg.qr(real(2, count, count))[0]
    values = torch.linspace(0.01, ratio, count, dtype=F64)
    values[-1] = 1
    return basis @ torch.diag_embed(values.expand(2, count)) @ basis.mT


@pytest.mark.parametrize("ratio", [0.1, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("count", [2, 4, 16])
@pytest.mark.parametrize("size", [1.0, 1e-12, 1e12])
def test_squaring_finds_what_eigh_does(size: float, count: int, ratio: float) -> None:
    gram = grams(count, ratio) * size
    values, vectors = torch.linalg.eigh(gram)
    with patch("torch.compiler.is_compiling", return_value=True):
        value, vector = estimate.leading(gram)[:2]
    close(value, values[..., -1], 1e-4)
    close(vector.norm(dim=-1), torch.ones(2, dtype=F64))
    if ratio < 1:
        close((vector * vectors[..., -1]).sum(-1).abs(), torch.ones(2, dtype=F64), 1e-4)


@pytest.mark.parametrize("content", [0.0, float("nan")])
def test_squaring_takes_zeros_and_nan_as_they_are(content: float) -> None:
    gram = torch.full((2, 3, 3), content)
    with patch("torch.compiler.is_compiling", return_value=True):
        value, vector = estimate.leading(gram)[:2]
    torch.testing.assert_close(value, torch.full((2,), content), rtol=0, atol=0, equal_nan=True)
    assert vector.shape == (2, 3)


def test_with_squaring_spectral_has_the_sigma_of_an_svd() -> None:
    part = SpectralNorm(weight := real(12, 20))
    with patch("torch.compiler.is_compiling", return_value=True):
        for _ in range(30):
            part.iterate(weight)
    close(part.last_sigma, torch.linalg.svdvals(weight)[0], 1e-4)
