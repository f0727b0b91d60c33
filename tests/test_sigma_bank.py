"""SigmaBank: one power iteration per update, and one weight for all passes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import SigmaBank, convert


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def two_layers(norm: str = "spectral") -> nn.Module:
    return convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), norm)


def test_a_bank_iterates_once_per_update_and_forwards_no_longer_do() -> None:
    network = two_layers().double()
    bank = SigmaBank(network)
    layer = network[0]
    with torch.no_grad():
        layer.weight.normal_()
    before = layer.weight_norm.u[0].clone()
    for _ in range(3):
        network(torch.randn(5, 4, dtype=torch.float64))
    assert torch.equal(layer.weight_norm.u[0], before)
    bank.update()
    v = unit(layer.weight.detach().T @ before)
    torch.testing.assert_close(layer.weight_norm.v[0], v)
    torch.testing.assert_close(layer.weight_norm.u[0], unit(layer.weight.detach() @ v))


def test_shared_lends_one_weight_to_all_passes_and_takes_it_back() -> None:
    network = two_layers()
    bank = SigmaBank(network)
    with bank.shared():
        inside = [network[0].effective_weight() for _ in range(2)]
        assert inside[0] is inside[1]
    assert network[0].effective_weight() is not inside[0]


def test_one_backward_through_shared_weights_is_the_sum_of_separate_ones() -> None:
    network = two_layers()
    bank = SigmaBank(network)
    x, y = torch.randn(2, 5, 4)
    with bank.shared():
        (network(x).square().sum() + network(y).square().sum()).backward()
    shared = [parameter.grad.clone() for parameter in network.parameters()]
    network.zero_grad()
    network(x).square().sum().backward()
    network(y).square().sum().backward()
    torch.testing.assert_close(shared, [parameter.grad for parameter in network.parameters()])


def test_shared_ends_when_the_block_raises() -> None:
    network = two_layers()
    bank = SigmaBank(network)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), bank.shared():
        network(torch.randn(5, 3))
    assert network[0].effective_weight() is not network[0].effective_weight()
    lent = network[0].effective_weight()
    with torch.no_grad():
        network[0].weight.mul_(2).add_(1)
    bank.update()
    assert not torch.equal(network[0].effective_weight(), lent)


def test_shared_without_grad_carries_no_graph() -> None:
    network = two_layers()
    with torch.no_grad(), SigmaBank(network).shared():
        weight = network[0].effective_weight()
    assert not weight.requires_grad


@pytest.mark.parametrize("inside", [True, False])
def test_a_deep_copy_computes_the_same_from_weights_of_its_own(inside: bool) -> None:
    network = two_layers("mean_spectral")
    bank = SigmaBank(network)
    x = torch.randn(5, 4)
    if inside:
        with bank.shared():
            duplicate = copy.deepcopy(network)
    else:
        network(x).sum().backward()
        duplicate = copy.deepcopy(network)
    assert torch.equal(network.eval()(x), duplicate.eval()(x))
    with torch.no_grad():
        duplicate[0].weight.zero_().add_(1)
    duplicate[0].weight_norm.iterate(duplicate[0].weight)
    assert not torch.equal(network[0].weight_norm.u, duplicate[0].weight_norm.u)
    assert not torch.equal(network(x), duplicate(x))


def test_a_copied_bank_iterates_the_copied_network() -> None:
    network = two_layers()
    copied, bank = copy.deepcopy((network, SigmaBank(network)))
    with torch.no_grad():
        copied[0].weight.normal_()
    before = network[0].weight_norm.u.clone()
    started = copied[0].weight_norm.u.clone()
    bank.update()
    assert torch.equal(network[0].weight_norm.u, before)
    assert not torch.equal(copied[0].weight_norm.u, started)
