"""Norms between modes: a write before a copy, inference mode, casts, compile, fx, packed input."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from norm_layers import ONE_OF_EACH_KIND
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from msngan.norms import NORMS, SigmaBank, WeightPart, convert, fold, parts_of, stored

WEIGHTS = [name for name in sorted(NORMS) if NORMS[name].weight]
SOME = [name for name in ONE_OF_EACH_KIND if name in WEIGHTS]
SIGMA = [name for name in WEIGHTS if name not in ("weight", "weight_mean", "released_spectral")]


def small(norm: str) -> nn.Sequential:
    return convert(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), norm)


def convolutions(norm: str) -> nn.Sequential:
    return convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), norm)


def largest(weight: Tensor) -> Tensor:
    return torch.linalg.svdvals(weight.detach().flatten(1).double())[0]


NEXT: dict[str, Callable[[nn.Module], Tensor]] = {
    "stored": lambda net: stored(net[0]),
    "a copy": lambda net: stored(copy.deepcopy(net)[0]),
    "a pickle": lambda net: stored(pickle.loads(pickle.dumps(net))[0]),
    "a state": lambda net: net.state_dict()["0.weight"],
    "a read": lambda net: (net[0].weight, stored(net[0]))[1],
    "a pass": lambda net: (net(torch.randn(3, 6)), stored(net[0]))[1],
}


@pytest.mark.parametrize("what", NEXT)
@pytest.mark.parametrize("norm", SOME)
def test_an_initialiser_of_the_weight_that_was_read_is_there_whatever_comes_next(norm, what):
    net = small(norm).eval()
    nn.init.constant_(net[0].weight, 3.0)
    assert torch.equal(NEXT[what](net), torch.full((5, 6), 3.0))


@pytest.mark.parametrize("norm", WEIGHTS)
def test_an_initialiser_never_reaches_a_tensor_of_the_caller_s(norm):
    net = small(norm).eval()
    nn.init.constant_(net[0].weight, 3.0)
    mine = {"0.weight": torch.eye(5, 6)}
    torch.func.functional_call(net, mine, (torch.randn(3, 6),))
    assert torch.equal(mine["0.weight"], torch.eye(5, 6))
    if norm != "released_spectral":
        assert torch.equal(stored(net[0]), torch.full((5, 6), 3.0))


def test_a_later_write_to_the_parameter_wins():
    net = small("spectral")
    nn.init.constant_(net[0].weight, 3.0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(2.0)
    net(torch.randn(3, 6))
    assert torch.equal(stored(net[0]), torch.full((5, 6), 2.0))


@pytest.mark.parametrize("banked", [True, False])
@pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)
def test_inference_mode_between_any_two_steps_does_no_harm(norm, banked):
    net, x = convolutions(norm), torch.randn(5, 3, 9, 9)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    bank = SigmaBank(net, optimizer) if banked else None
    for write in (False, True, True):
        with bank.shared() if bank else nullcontext():
            net.train()(x).square().mean().backward()
        optimizer.step()
        with torch.inference_mode():
            for training in (True, False):
                with bank.shared() if bank else nullcontext():
                    net.train(training)(x)
                if write:
                    stored(net[0]).normal_()
                    net(x)
        with torch.no_grad():
            stored(net[0]).normal_()
        inside = net.eval()(x)
        torch.testing.assert_close(fold(net)(x), inside, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)
def test_a_network_that_meets_inference_mode_first_trains_afterwards(norm):
    net, x = convolutions(norm), torch.randn(5, 3, 9, 9)
    state = copy.deepcopy(net.state_dict())
    with torch.inference_mode():
        net(x)
        net.load_state_dict(state, strict=False)
        net(x)
    net(x).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)


@pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)
def test_a_fold_before_any_pass_says_nothing(norm):
    net = convolutions(norm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folded = fold(net)
        folded(torch.randn(2, 3, 9, 9))
    assert not folded._forward_hooks
    assert not folded._forward_pre_hooks


class Auxiliary(nn.Module):
    """As googlenet: a layer that a pass in eval leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.aux(self.body(x)) if self.training else self.body(x)


@pytest.mark.parametrize("norm", ["mean_spectral", "batch"])
def test_a_layer_that_the_first_pass_leaves_out_is_not_warned_of(norm):
    net = convert(Auxiliary(), norm).eval()
    net.apply(lambda part: nn.init.normal_(part.weight) if isinstance(part, nn.Linear) else None)
    net.aux.weight.detach().norm()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(torch.randn(3, 4))


def test_a_compiled_network_is_compiled_once():
    compiled: list[object] = []

    def backend(module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        compiled.append(module)
        return module.forward

    torch._dynamo.reset()
    net = torch.compile(small("mean_spectral"), backend=backend, fullgraph=True)
    for _ in range(3):
        net(torch.randn(4, 6))
    assert len(compiled) == 1


@pytest.mark.parametrize("which", ["all", "one"])
@pytest.mark.parametrize("norm", SIGMA)
def test_a_cast_after_the_bank_was_made_is_followed(norm, which):
    net = small(norm)
    bank = SigmaBank(net)
    bank.update()
    (net if which == "all" else net[2]).double()
    for _ in range(2):
        with torch.no_grad():
            for layer, name, _ in parts_of(net):
                stored(layer, name).normal_()
        bank.update()
        with bank.shared():
            net[2](net[0](torch.randn(3, 6).to(stored(net[0]))).to(torch.float64))
    if norm in ("spectral", "mean_spectral"):
        torch.testing.assert_close(float(largest(net[2].eval().weight)), 1.0, rtol=0.02, atol=0)


@pytest.mark.parametrize("norm", ["spectral", "mean_spectral", "batch"])
def test_a_recurrent_layer_takes_packed_input(norm):
    net = convert(nn.LSTM(4, 5), norm)
    packed = pack_padded_sequence(torch.randn(6, 3, 4), [6, 4, 2])
    assert net(packed)[0].data.shape == (12, 5)


@pytest.mark.parametrize("norm", ["spectral", "bidirectional", "spectral_clip", "weight"])
def test_a_traced_graph_reads_the_weight_of_each_pass(norm):
    net, x = small(norm).eval(), torch.randn(3, 6)
    graph = torch.fx.symbolic_trace(net)
    with torch.no_grad():
        stored(net[0]).normal_()
    assert torch.equal(graph(x), net(x))


def test_an_expanded_weight_is_normed():
    layer = nn.Linear(4, 4, bias=False)
    layer.weight = nn.Parameter(torch.ones(1).expand(4, 4))
    convert(layer, "spectral")
    torch.testing.assert_close(layer(torch.ones(1, 4)), torch.ones(1, 4))


@pytest.mark.parametrize("norm", SIGMA)
def test_a_state_in_half_precision_can_be_assigned(norm):
    net = small(norm)
    half = {k: v.half() if v.is_floating_point() else v for k, v in net.state_dict().items()}
    net.load_state_dict(half, assign=True)
    for _, _, part in parts_of(net):
        assert isinstance(part, WeightPart)
        names = part.precise
        assert all(getattr(part, name).dtype == torch.float32 for name in names)
    net.float()(torch.randn(3, 6)).sum().backward()
