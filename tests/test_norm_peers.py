"""The norms against torch's spectral norm, naive formulas and singular value decompositions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch
from operator_layers import exact_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from msngan.norms import SigmaBank, convert, estimate, stored
from msngan.norms.spectral import SpectralNorm

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


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


# A naive mean_spectral.


class Naive(nn.Module):
    """conv(x, W / sigma) - mean + m, sigma by an SVD whose u and v are constants."""

    def __init__(self, weight: Tensor, m: Tensor, convolve: Callable[..., Tensor]) -> None:
        super().__init__()
        self.weight, self.m = nn.Parameter(weight.clone()), nn.Parameter(m.clone())
        self.convolve = convolve
        self.mean = torch.zeros_like(m)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        u, _, vt = torch.linalg.svd(matrix.detach())
        h = self.convolve(x, self.weight / (u[:, 0] @ matrix @ vt[0]))
        axes = [each for each in range(h.dim()) if each != 1]
        shape = [1, -1] + [1] * (h.dim() - 2)
        if self.training:
            mean = h.sum(axes, keepdim=True) / (h.numel() / h.shape[1])
            self.mean = 0.9 * self.mean + 0.1 * mean.detach().flatten()
        else:
            mean = self.mean.view(shape)
        return h - mean + self.m.view(shape)


NAIVE: dict[str, tuple[Callable[[], nn.Module], Callable[..., Tensor], tuple[int, ...]]] = {
    "conv": (
        lambda: nn.Conv2d(3, 5, 3, 2, 1),
        lambda x, w: F.conv2d(x, w, None, 2, 1),
        (4, 3, 6, 6),
    ),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), F.conv3d, (3, 2, 4, 4, 4)),
    "linear": (lambda: nn.Linear(7, 5), F.linear, (4, 7)),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("banked", [True, False])
@pytest.mark.parametrize("kind", NAIVE)
def test_mean_spectral_is_the_naive_one(kind: str, banked: bool, training: bool) -> None:
    make, convolve, shape = NAIVE[kind]
    layer = convert(make().to(F64), "mean_spectral")
    layer.output_norm.bias.data.normal_()
    for _ in range(200):  # to the exact u and v
        layer.weight_norm.iterate(stored(layer))
    naive = Naive(stored(layer).detach(), layer.output_norm.bias.detach(), convolve)
    if banked:
        bank = SigmaBank(layer)
        for _ in range(50):
            bank.update()
    for _ in range(2):
        x = real(*shape) + 1
        close(layer(x), naive(x), 1e-8)
    close(layer.output_norm.running_mean, naive.mean, 1e-8)
    found = []
    for module, weight in ((layer.train(training), stored(layer)), (naive.train(training), None)):
        source = x.clone().requires_grad_()
        if banked and module is layer:
            with bank.shared():
                y = module(source)
        else:
            y = module(source)
        weight = naive.weight if weight is None else weight
        m = naive.m if module is naive else layer.output_norm.bias
        chosen = torch.linspace(-1, 2, y.numel(), dtype=F64).sin().view(y.shape)
        found.append([y, *torch.autograd.grad(y, [source, weight, m], chosen)])
    close(found[0], found[1], 1e-7, 1e-9)


# Sigma of every norm that has one.

MATRICES: dict[str, Callable[[], nn.Module]] = {
    "conv, stride": lambda: nn.Conv2d(4, 6, 3, 2, 1),
    "conv, dilation": lambda: nn.Conv2d(4, 6, 3, dilation=2),
    "conv, circular": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"),
    "conv, groups": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1),
    "transposed, groups": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2),
    "linear": lambda: nn.Linear(4, 6),
}
every_matrix = pytest.mark.parametrize("kind", MATRICES)


def svd(layer: nn.Module, weight: Tensor, inputs: bool = False) -> float:
    """The largest singular value by outputs, or by inputs: (inputs) x (outputs * kernel)."""
    transposed, groups = isinstance(layer, nn.ConvTranspose2d), getattr(layer, "groups", 1)
    blocks = matrix_of(weight.detach(), transposed, groups)
    if inputs and weight.dim() > 2:
        swapped = weight.detach().chunk(groups)
        blocks = torch.stack([(w if transposed else w.transpose(0, 1)).flatten(1) for w in swapped])
    return float(torch.linalg.svdvals(blocks).max())


@every_matrix
@pytest.mark.parametrize(
    "norm", ["spectral", "mean_spectral", "spectral_bias", "scaled", "released_spectral"]
)
def test_the_norm_of_the_weight_as_a_matrix_is_what_is_promised(norm: str, kind: str) -> None:
    layer = convert(MATRICES[kind]().to(F64), norm)
    wanted = 1.4 if norm == "scaled" else 1
    for _ in range(3):
        with torch.no_grad():
            stored(layer).add_(0.3 * torch.randn_like(stored(layer)))
        assert svd(layer, layer.weight) == pytest.approx(wanted, rel=0.02)


@every_matrix
@pytest.mark.parametrize("norm", ["bidirectional", "bidirectional_scaled"])
def test_the_bidirectional_sigma_is_the_mean_of_those_by_outputs_and_inputs(
    norm: str, kind: str
) -> None:
    layer = convert(MATRICES[kind]().to(F64), norm)
    weight = stored(layer)
    sigma = (svd(layer, weight) + svd(layer, weight, inputs=True)) / 2
    scale = 1.4 if norm == "bidirectional_scaled" else 1
    close(layer.weight, scale * weight / sigma, rtol=0.02, atol=1e-6)


@every_matrix
@pytest.mark.parametrize("norm", ["spectral_clip", "lipschitz_projection"])
def test_the_norm_of_the_operator_is_bounded_by_what_is_promised(norm: str, kind: str) -> None:
    plain = MATRICES[kind]().to(F64)
    plain.weight.data.mul_(3)
    shape = (4,) if kind == "linear" else (4, 5, 6)
    layer = convert(copy.deepcopy(plain), norm)
    x = real(2, *shape)
    layer(x)
    sigma = float(exact_norm(plain, plain.weight.detach(), shape))
    assert sigma > 1.2
    part = layer.weight_norm
    assert float(part.sigma(plain.weight.detach())) == pytest.approx(sigma, rel=0.01)
    if norm == "lipschitz_projection":
        SigmaBank(layer).update()
    assert float(exact_norm(plain, layer.weight.detach(), shape)) == pytest.approx(1, rel=0.02)


# The bank's fast path, and the branch of other devices.


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_bank_s_fast_path_gives_each_part_s_own_numbers(layout: torch.memory_format) -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 20, 3), nn.Conv2d(20, 2, 5), nn.Linear(9, 30), nn.Embedding(4, 7)
    )
    net = convert(net.to(F64).to(memory_format=layout), "spectral")
    alone = copy.deepcopy(net)
    bank = SigmaBank(net)
    assert len(bank._fast) == 4
    for _ in range(3):
        noise = [0.1 * torch.randn_like(stored(layer)) for layer in net]
        for layers in (net, alone):
            for layer, each in zip(layers, noise, strict=True):
                stored(layer).data.add_(each)
        bank.update()
        for layer in alone:
            layer.weight_norm.iterate(stored(layer))
        for mine, own in zip(net, alone, strict=True):
            part, other = mine.weight_norm, own.weight_norm
            close(part.last_sigma, other.last_sigma, 1e-3)
            assert abs(float((part.u * other.u).detach().sum())) == pytest.approx(1, abs=0.02)
            sigma = svd(own, stored(own))
            assert float(part.last_sigma) == pytest.approx(sigma, rel=0.02)
            product = torch.bmm(
                part.matrix(stored(mine)), part.columns(part.v, stored(mine))[..., None]
            )
            assert float((part.u[..., None] * product).detach().sum()) == pytest.approx(
                sigma, rel=0.02
            )


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
