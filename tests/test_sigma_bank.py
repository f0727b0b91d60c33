"""SigmaBank: sigma is estimated once per update, and one weight is lent to all passes."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import SigmaBank, convert, stored


def two_layers(norm: str = "spectral") -> nn.Module:
    return convert(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), norm)


@pytest.mark.quick
def test_a_bank_iterates_in_updates_and_forwards_no_longer_do():
    network = two_layers().double()
    bank, layer = SigmaBank(network), network[0]
    bank.update()  # to double precision
    before = copy.deepcopy(layer.weight_norm.state_dict())
    for _ in range(3):
        network(torch.randn(5, 4, dtype=torch.float64))
    torch.testing.assert_close(layer.weight_norm.state_dict(), before, rtol=0, atol=0)
    with torch.no_grad():
        stored(layer).add_(1e-6 * torch.randn(8, 4))
    bank.update()
    assert not torch.equal(layer.weight_norm.u, before["u"])
    exact = torch.linalg.matrix_norm(stored(layer), 2)
    torch.testing.assert_close(layer.weight_norm.last_sigma, exact.detach(), rtol=1e-12, atol=0)


def test_shared_lends_one_weight_to_all_passes_and_takes_it_back():
    network = two_layers()
    bank = SigmaBank(network)
    with bank.shared():
        inside = [network[0].weight for _ in range(2)]
        assert inside[0] is inside[1]
    assert network[0].weight is not inside[0]
    with pytest.raises(KeyError), bank.shared():
        raise KeyError
    assert network[0].weight_norm._lent is None


def test_shared_without_grad_carries_no_graph():
    network = two_layers()
    with torch.no_grad(), SigmaBank(network).shared():
        weight = network[0].weight
    assert not weight.requires_grad


def test_a_copied_bank_iterates_the_copied_network():
    network = two_layers()
    copied, bank = copy.deepcopy((network, SigmaBank(network)))
    with torch.no_grad():
        stored(copied[0]).normal_()
    before = network[0].weight_norm.u.clone()
    started = copied[0].weight_norm.u.clone()
    bank.update()
    assert torch.equal(network[0].weight_norm.u, before)
    assert not torch.equal(copied[0].weight_norm.u, started)


def critic(layout: torch.memory_format = torch.contiguous_format) -> nn.Module:
    convolutions = [nn.Conv2d(3, 4, 3, 1, 1), nn.LeakyReLU(0.1), nn.Conv2d(4, 6, 4, 2, 1)]
    plain = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(24, 1)).double()
    return convert(plain.to(memory_format=layout), "spectral")


def images() -> Tensor:
    return torch.randn(5, 3, 4, 4, dtype=torch.float64)


@pytest.mark.parametrize("built", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("moved", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("both", [True, False])
def test_a_bank_s_iteration_is_that_of_each_norm_by_itself_in_any_layout(built, moved, both):
    banked = critic(built)
    for part in banked.modules() if both else [m for m in banked if isinstance(m, nn.Conv2d)]:
        if both:
            part.to(memory_format=moved)
        else:  # the weight alone: its vectors lie in memory in another order
            stored(part).data = stored(part).data.contiguous(memory_format=moved)
    alone = copy.deepcopy(banked)
    bank = SigmaBank(banked)
    for _ in range(3):
        bank.update()
        for layer in alone:
            if hasattr(layer, "weight_norm"):
                layer.weight_norm.iterate(stored(layer))
    torch.testing.assert_close(banked.state_dict(), alone.state_dict(), rtol=1e-12, atol=0)


def test_the_weight_is_divided_once_per_update():
    network = critic()
    bank = SigmaBank(network)
    places = []
    for _ in range(2):
        for _ in range(2):
            with bank.shared():
                places.append(network[0].weight)
        bank.update()
    assert places[0].data_ptr() == places[1].data_ptr()
    assert places[2].data_ptr() == places[3].data_ptr()
    assert places[0].data_ptr() != places[2].data_ptr()


def test_a_backward_pass_after_the_next_update_is_refused():
    network = critic()
    bank = SigmaBank(network)
    with bank.shared():
        loss = network(images()).sum()
    bank.update()
    with pytest.raises(RuntimeError, match="updated between a forward pass and its backward"):
        loss.backward()


@pytest.mark.parametrize("how", ["by hand", "from a state"])
def test_a_weight_written_between_updates_is_noticed(how):
    network, other = critic(), critic()
    bank = SigmaBank(network)
    with bank.shared():
        network(images())
    if how == "by hand":
        with torch.no_grad():
            stored(network[0]).mul_(3).add_(0.1)
    else:
        network.load_state_dict(other.state_dict())
    weight = stored(network[0]).detach()
    expected = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
    with bank.shared():
        torch.testing.assert_close(network[0].weight, expected, rtol=1e-11, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sigma_that_is_right_but_for_rounding_keeps_its_bits(dtype):
    network = critic().to(dtype)
    bank = SigmaBank(network)
    norm = network[0].weight_norm
    bank.update()
    with torch.no_grad():
        norm.last_sigma *= 1 + 8 * torch.finfo(dtype).eps
        stored(network[0]).add_(0)  # a new version
    before = norm.last_sigma.clone()
    with bank.shared():
        assert torch.equal(norm.last_sigma, before)
    with torch.no_grad():
        norm.last_sigma *= 1.001
        stored(network[0]).add_(0)
    with bank.shared():
        assert norm.last_sigma.item() == pytest.approx(before.item(), rel=1e-5)


def test_a_bank_that_leaves_each_pass_to_the_norms_lets_them_iterate_in_each():
    network = critic()
    bank = SigmaBank(network, each_pass=True)
    u = network[0].weight_norm.u
    seen = [u.clone()]
    for _ in range(2):
        with torch.no_grad():
            stored(network[0]).add_(0.1 * torch.randn_like(stored(network[0])))
        with bank.shared():
            network(images())
        seen.append(u.clone())
    bank.update()
    seen.append(u.clone())
    assert [torch.equal(a, b) for a, b in pairwise(seen)] == [False, False, True]
    projected = convert(nn.Sequential(nn.Linear(4, 3)), "lipschitz_projection")
    assert SigmaBank(projected, each_pass=True).parts


def test_a_bank_takes_a_network_in_low_precision():
    exact = critic().float()
    low = copy.deepcopy(exact).to(torch.bfloat16)
    x = images()
    for network in (exact, low):
        bank = SigmaBank(network)
        bank.update()
        with bank.shared():
            network(x.to(stored(network[0]).dtype)).float().sum().backward()
    assert stored(low[0]).grad.dtype == torch.bfloat16
    error = (stored(low[0]).grad.float() - stored(exact[0]).grad).norm()
    assert error < 0.1 * stored(exact[0]).grad.norm()
