"""The norm of a layer as a linear map, against its matrix's singular values."""

from __future__ import annotations

import copy

import pytest
import torch
from operator_layers import BOUNDED, LAYERS, bounded, exact_norm
from torch import Tensor, nn

from msngan.norms import OperatorNorm, SigmaBank, configured, normalise, stored

every_kind = pytest.mark.parametrize("kind", LAYERS)
every_bound = pytest.mark.parametrize("name", BOUNDED)


def converged(kind: str) -> tuple[nn.Module, OperatorNorm, Tensor, tuple[int, ...]]:
    """A plain layer in float64, an estimate of its norm after many updates, weight and shape."""
    make, shape = LAYERS[kind]
    plain = make().double()
    part = OperatorNorm(plain)
    part.prepare(plain.weight, torch.zeros(1, *shape, dtype=torch.float64))
    for _ in range(100):
        part.iterate(plain.weight)
    return plain, part, plain.weight, shape


@every_kind
def test_sigma_and_its_gradient_are_those_of_the_largest_singular_value(kind: str) -> None:
    plain, part, weight, shape = converged(kind)
    sigma = exact_norm(plain, weight.detach(), shape)
    torch.testing.assert_close(part.sigma(weight).detach(), sigma, rtol=1e-6, atol=0)
    (found,) = torch.autograd.grad(part.sigma(weight), weight)
    (exact,) = torch.autograd.grad(exact_norm(plain, weight, shape), weight)
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3 * exact.abs().max().item())


@every_kind
def test_the_estimate_at_the_first_input_is_near_and_never_above(kind: str) -> None:
    make, shape = LAYERS[kind]
    plain = make().double()
    part = OperatorNorm(plain)
    part.prepare(plain.weight, torch.zeros(1, *shape, dtype=torch.float64))
    share = part.sigma(plain.weight).item() / exact_norm(plain, plain.weight, shape).item()
    assert 1 - 1e-3 < share < 1 + 1e-12


@pytest.mark.parametrize(
    ("size", "padding_mode", "expected"),
    [(2, "zeros", 2**0.5), (3, "zeros", 3**0.5), (4, "circular", 2.0)],
)
def test_the_norm_of_a_sum_of_neighbours_is_that_worked_out_by_hand(
    size: int, padding_mode: str, expected: float
) -> None:
    padding = "same" if padding_mode == "circular" else 0
    conv = nn.Conv1d(1, 1, 2, bias=False, padding=padding, padding_mode=padding_mode).double()
    conv.weight.data.fill_(1)
    part = OperatorNorm(conv)
    part.prepare(conv.weight, torch.zeros(1, 1, size, dtype=torch.float64))
    assert part.sigma(conv.weight).item() == pytest.approx(expected, rel=1e-9)


def test_the_largest_size_of_each_axis_that_training_has_seen_counts() -> None:
    _, layer, _ = bounded("conv2d", "spectral_clip")
    sizes = []
    for height, width in [(5, 4), (3, 4), (4, 6), (5, 6)]:
        layer(torch.randn(2, 2, height, width, dtype=torch.float64))
        sizes.append(tuple(layer.weight_norm.v.shape))
    assert sizes == [(1, 2, 5, 4), (1, 2, 5, 4), (1, 2, 5, 6), (1, 2, 5, 6)]


def test_the_size_of_one_image_without_a_batch_is_learnt() -> None:
    _, layer, x = bounded("conv2d", "spectral_clip")
    layer(x[0])
    assert layer.weight_norm.v.shape == (1, 2, 5, 4)


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (2, 5), (2,), (2, 2, 2, 5, 4)])
def test_an_input_that_the_layer_refuses_leaves_no_trace(shape: tuple[int, ...]) -> None:
    _, layer, _ = bounded("conv2d", "spectral_clip")
    with pytest.raises(RuntimeError, match=r"expected input|Expected \dD"):
        layer(torch.randn(shape, dtype=torch.float64))
    assert not layer.weight_norm.known


@every_bound
@pytest.mark.parametrize("seen", [True, False])
def test_a_state_loads_before_any_forward_whether_a_size_is_known_or_not(
    name: str, seen: bool
) -> None:
    _, layer, x = bounded("conv2d", name)
    if seen:
        layer(x)
    for other_size in [None, (2, 2, 8, 3)]:
        _, other, _ = bounded("conv2d", name)
        if other_size:
            other(torch.randn(other_size, dtype=torch.float64))
        other.load_state_dict(layer.state_dict())
        assert other.weight_norm.known == seen
        assert torch.equal(other.weight_norm.v, layer.weight_norm.v)
        assert torch.equal(other.eval()(x), copy.deepcopy(layer).eval()(x))


def test_a_state_of_another_layer_is_refused_and_leaves_an_estimate() -> None:
    _, layer, x = bounded("conv2d", "spectral_clip")
    layer(x)
    _, other, y = bounded("conv2d, groups", "spectral_clip")
    other(y)
    before = layer.weight
    with pytest.raises(RuntimeError, match=r"size mismatch for weight_norm\.v"):
        layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer.weight, before, rtol=1e-4, atol=0)


@every_bound
def test_the_start_is_the_same_in_every_process_and_draws_on_no_generator(name: str) -> None:
    found = []
    for seed in (1, 2):
        torch.manual_seed(0)
        _, layer, x = bounded("conv2d", name)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        layer(x)
        assert torch.equal(torch.get_rng_state(), before)
        found.append(layer.weight_norm.v)
    assert torch.equal(*found)


def test_a_first_forward_compiles_without_a_graph_break() -> None:
    _, layer, x = bounded("conv2d", "spectral_clip")
    twin = copy.deepcopy(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    for _ in range(4):  # an iteration each
        y = compiled(x)
    for mode in (True, False):
        torch.testing.assert_close(y, twin.train(mode)(x), rtol=1e-3, atol=1e-3)
        y = compiled.eval()(x)


@every_bound
def test_iterations_are_so_many_at_each_update(name: str) -> None:
    _, once, x = bounded("conv2d", name)
    thrice = normalise(LAYERS["conv2d"][0]().double(), configured(name, dict(iterations=3)))
    once(x)
    thrice(x)
    thrice.load_state_dict(once.state_dict())
    SigmaBank(thrice).update()
    for _ in range(3):
        once.weight_norm.iterate(stored(once))
    torch.testing.assert_close(thrice.weight_norm.v, once.weight_norm.v)
    torch.testing.assert_close(stored(thrice), stored(once))
