"""Sigma, its gradient and its vectors against SVD, equation 9 and PyTorch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from unittest.mock import patch

import pytest
import torch
from norm_layers import LAYERS, exact_sigma
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from msngan.norms import SigmaBank, SpectralNorm, convert, estimate, stored

F64 = torch.float64
every_kind = pytest.mark.parametrize("kind", [kind for kind in LAYERS if "tokens" not in kind])


def close(a: object, b: object, rtol: float = 1e-10, atol: float = 1e-11) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def real(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=F64)


@every_kind
@pytest.mark.parametrize("norm", ["spectral", "bidirectional"])
def test_a_small_weight_and_its_gradient_are_those_of_division_by_the_exact_sigma(norm, kind):
    layer = convert(LAYERS[kind][0]().double(), norm)
    weight, target = stored(layer), torch.randn_like(stored(layer))
    sigma = exact_sigma(layer, weight, both=norm == "bidirectional" and weight.dim() > 2)
    close(layer.weight_norm.sigma(weight), sigma, rtol=1e-9)
    close(layer.weight, weight / sigma, rtol=1e-9)
    ours, exact = (
        torch.autograd.grad((each * target).sum(), weight)
        for each in (layer.weight, weight / sigma)
    )
    close(ours, exact, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "plain"), [("scaled", "spectral"), ("bidirectional_scaled", "bidirectional")]
)
def test_a_scale_multiplies_every_normalised_weight(name, plain):
    layer = nn.ConvTranspose2d(4, 6, 3).double()
    expected = convert(copy.deepcopy(layer), plain).weight
    close(convert(copy.deepcopy(layer), name).weight, 1.4 * expected)
    close(convert(layer, name, scale=0.7).weight, 0.7 * expected)


@pytest.mark.quick
@pytest.mark.parametrize("by", ["normalised", "quotient"])
def test_gradient_is_equation_9_for_any_u_and_v_and_orthogonal_to_the_weight(by):
    weight = real(5, 7).requires_grad_()
    norm = SpectralNorm(torch.randn_like(weight)).eval()
    upstream = torch.randn_like(weight)
    (gradient,) = torch.autograd.grad(getattr(norm, by)(weight), weight, upstream)
    u, v = norm.u[0], norm.v[0]
    sigma = u @ weight.detach() @ v
    inner = (upstream * weight.detach() / sigma).sum()
    close(gradient, (upstream - inner * torch.outer(u, v)) / sigma)
    assert abs((gradient * weight.detach()).sum().item()) < 1e-13


@pytest.mark.quick
@pytest.mark.parametrize("shape", [(200, 300), (64, 3, 4, 4), (20, 30)])
def test_sigma_is_right_at_once_and_after_steps_and_never_above(shape):
    weight = real(*shape)
    norm = SpectralNorm(weight)
    for _ in range(5):
        norm(weight)
        share = norm.last_sigma / torch.linalg.matrix_norm(weight.flatten(1), 2)
        assert 1 - 1e-3 < share < 1 + 1e-12
        weight += 0.03 * torch.randn_like(weight)


@pytest.mark.parametrize("training", [True, False])
def test_the_estimate_is_written_only_where_the_weight_has_changed(training):
    weight = torch.randn(20, 30)
    norm = SpectralNorm(weight).train(training)
    norm(weight)
    before = copy.deepcopy(norm.state_dict())
    for _ in range(2):
        norm(weight)
        close(norm.state_dict(), before, rtol=0, atol=0)
    norm(torch.randn(20, 30))
    after = norm.train().state_dict()
    assert all(torch.equal(after[name], before[name]) != training for name in after)


@pytest.mark.parametrize("norm", ["spectral", "bidirectional"])
@pytest.mark.parametrize("cast", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_u_and_v_are_float32_at_least_and_unit_whatever_the_cast(cast, norm):
    buffers = torch.promote_types(cast, torch.float32)
    layer = convert(nn.Conv2d(4, 6, 3), norm).to(cast)
    part, weight = layer.weight_norm, stored(layer)
    assert weight.dtype == layer.weight.dtype == cast
    for name, vector in part.named_buffers():
        assert vector.dtype == buffers, name
        if name.rpartition(".")[2] in ("u", "v"):
            assert vector.flatten(1).norm(dim=1).item() == pytest.approx(1, abs=1e-6)
    exact = exact_sigma(layer, weight.detach().to(buffers), both=norm == "bidirectional")
    close(part.sigma(weight).detach(), exact, rtol=1e-4)


@pytest.mark.parametrize("late", [False, True])
def test_the_vectors_lie_in_memory_as_the_weight_so_that_nothing_is_copied(late):
    layer, last = nn.Conv2d(4, 6, 3), torch.channels_last
    if late:
        layer = convert(layer, "spectral").to(memory_format=last)
    else:
        convert(layer.to(memory_format=last), "spectral")
    part, weight = layer.weight_norm, stored(layer)
    assert part.columns(part.v, weight).data_ptr() == part.v.data_ptr()
    assert part.matrix(weight).data_ptr() == weight.data_ptr()


@every_kind
def test_a_state_with_a_flat_v_and_no_sigma_is_read(kind):
    first, second = (convert(LAYERS[kind][0]().double(), "spectral") for _ in range(2))
    state = first.state_dict()
    state["weight_norm.v"] = state["weight_norm.v"].flatten(1)
    del state["weight_norm.last_sigma"]
    second.load_state_dict(state)
    torch.testing.assert_close(second.eval().weight, first.eval().weight)
    with SigmaBank(second).shared():
        close(second.weight, first.weight)


# torch's parametrization, with the same u and v.

PEERS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "conv": (lambda: nn.Conv2d(3, 5, 3, 2, 1), lambda: real(4, 3, 6, 6)),
    "conv, channels last": (
        lambda: nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last),
        lambda: real(4, 3, 6, 6),
    ),
    "transposed": (lambda: nn.ConvTranspose2d(3, 5, 4, 2, 1), lambda: real(4, 3, 3, 3)),
    "linear": (lambda: nn.Linear(7, 5), lambda: real(4, 7)),
    "embedding": (lambda: nn.Embedding(9, 5), lambda: torch.randint(9, (4, 6))),
}


@pytest.mark.parametrize("how", ["eval", "training", "lent"])
@pytest.mark.parametrize("kind", PEERS)
def test_spectral_is_torch_s_parametrization_with_the_same_u_and_v(kind, how):
    make, inputs = PEERS[kind]
    plain, x = make().to(F64), inputs()
    ours = convert(copy.deepcopy(plain), "spectral")
    theirs = parametrizations.spectral_norm(plain).eval()
    part, their = ours.weight_norm, theirs.parametrizations.weight[0]
    if how == "eval":  # any u and v, and the sigma that they give
        u = F.normalize(real(*part.u.shape), dim=1)
        weight = stored(ours).detach().movedim(int(kind == "transposed"), 0).flatten(1)
        part.u.copy_(u)
        part.v.copy_(F.normalize(u @ weight, dim=1).view(part.v.shape))
        part.last_sigma.copy_((u @ weight).norm())
        ours.eval()
        part.known_in_both(stored(ours))  # as after a load
    elif how == "training":
        ours(x)
    their._u.copy_(part.u.flatten())
    their._v.copy_(part.v.flatten())
    bank = SigmaBank(ours if how == "lent" else nn.Module())
    weights = [stored(ours), theirs.parametrizations.weight.original]
    found = []
    for layer, weight in zip((ours, theirs), weights, strict=True):
        source = x.clone().requires_grad_(x.is_floating_point())
        with bank.shared():
            y = layer(source)
        wanted = [
            each for each in (source, weight, getattr(layer, "bias", None)) if each is not None
        ]
        wanted = [each for each in wanted if each.requires_grad]
        torch.manual_seed(1)
        found.append([y, *torch.autograd.grad(y, wanted, torch.randn_like(y))])
    close(found[0], found[1])


# The branch of other devices, which reads no values.


def grams(count: int, ratio: float) -> Tensor:
    """Symmetric (2, count, count) with the second eigenvalue `ratio` times the first."""
    basis = torch.linalg.qr(real(2, count, count))[0]
    values = torch.linspace(0.01, ratio, count, dtype=F64)
    values[-1] = 1
    return basis @ torch.diag_embed(values.expand(2, count)) @ basis.mT


@pytest.fixture
def squaring() -> Iterator[None]:
    with patch("torch.compiler.is_compiling", return_value=True):
        yield


@pytest.mark.usefixtures("squaring")
@pytest.mark.parametrize("ratio", [0.1, 0.9, 0.99, 1.0])
@pytest.mark.parametrize(("count", "size"), [(2, 1.0), (4, 1e-12), (16, 1e12), (16, 1.0)])
def test_squaring_finds_what_eigh_does(size, count, ratio):
    gram = grams(count, ratio) * size
    values, vectors = torch.linalg.eigh(gram)
    value, vector = estimate.leading(gram)[:2]
    close(value, values[..., -1], 1e-4)
    close(vector.norm(dim=-1), torch.ones(2, dtype=F64))
    if ratio < 1:
        close((vector * vectors[..., -1]).sum(-1).abs(), torch.ones(2, dtype=F64), 1e-4)


@pytest.mark.usefixtures("squaring")
@pytest.mark.parametrize("content", [0.0, float("nan")])
def test_squaring_takes_zeros_and_nan_as_they_are(content):
    value, vector = estimate.leading(torch.full((2, 3, 3), content))[:2]
    torch.testing.assert_close(value, torch.full((2,), content), rtol=0, atol=0, equal_nan=True)
    assert vector.shape == (2, 3)


@pytest.mark.usefixtures("squaring")
def test_with_squaring_spectral_has_the_sigma_of_an_svd():
    part = SpectralNorm(weight := real(12, 20))
    for _ in range(30):
        part.iterate(weight)
    close(part.last_sigma, torch.linalg.svdvals(weight)[0], 1e-4)
