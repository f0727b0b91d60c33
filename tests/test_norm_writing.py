"""Sigma is never stale: whoever wrote a weight, what the layer computes with keeps its promise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import pytest
import torch
from conftest import same_bits
from norm_layers import pairs
from test_norm_reading import NETWORKS, PROMISED, First, promised_sigma
from torch import Tensor, nn
from torch.nn.utils import prune

from msngan.norms import (
    MSNConv2d,
    MSNConvTranspose2d,
    MSNLinear,
    SigmaBank,
    convert,
    fold,
    parts_of,
    stored,
)

KINDS = ["conv1d", "conv2d", "conv_transpose2d", "conv2d, 2 groups", "linear on tokens"]
KINDS += ["embedding", "gru", "attention"]
MSN: dict[str, Callable[[], nn.Module]] = {
    "MSN conv2d": lambda: MSNConv2d(4, 6, 3, stride=2, padding=1),
    "MSN conv_transpose2d": lambda: MSNConvTranspose2d(4, 6, 4, 2, 1),
    "MSN linear on tokens": lambda: MSNLinear(4, 6),
}
# Below any sigma that is written here, so that a weight is always clipped.
OPTIONS: dict[str, dict[str, Any]] = {
    "optional_spectral": {"start": True, "off": 0.0},
    "spectral_clip": {"beta": 1e-5},
}
PROMISE = {**PROMISED, "spectral_clip": 1e-5}
CASES = [(kind, norm) for kind in KINDS for norm in PROMISED]
CASES += [(kind, "mean_spectral") for kind in MSN]
SOME = [*pairs(KINDS, PROMISED), *((kind, "mean_spectral") for kind in MSN)]
# Each norm on a layer with two matrices and on one whose memory layout differs, and all kinds of
# layers under one norm of each form. Each way of writing in each mode meets a third of them.
WRITTEN = [
    (kind, norm)
    for kind, norm in CASES
    if norm in ("spectral", "mean_spectral") or kind in ("conv_transpose2d", "attention")
]


def plain(kind: str) -> nn.Module:
    return First(NETWORKS[kind.removeprefix("MSN ")][0]())


def normed(kind: str, norm: str) -> nn.Module:
    return (
        First(MSN[kind]()) if kind in MSN else convert(plain(kind), norm, **OPTIONS.get(norm, {}))
    )


def inputs_of(kind: str) -> Sequence[Tensor]:
    inputs = NETWORKS[kind.removeprefix("MSN ")][1]()
    return [x.float() if x.is_floating_point() else x for x in inputs]


# Ways of writing the weights of a network: its layers and their weights' names.
Weights = list[tuple[nn.Module, str]]
Way = Callable[[nn.Module, Weights], object]


def one_by_one(write: Callable[[nn.Module, str], object], grad: bool = False) -> Way:
    """The way that writes each weight of a layer by its name."""

    def way(network: nn.Module, weights: Weights) -> None:
        with torch.set_grad_enabled(grad):
            for layer, name in weights:
                write(layer, name)

    return way


def by_apply(network: nn.Module, weights: Weights, data: bool) -> None:
    """DCGAN's weights_init."""

    def init(module: nn.Module) -> None:
        for layer, name in weights:
            if layer is module:
                weight = getattr(module, name)
                nn.init.normal_(weight.data if data else weight, 0, 0.02)

    network.apply(init)


def by_loading(network: nn.Module, weights: Weights, strict: bool) -> None:
    state = network.state_dict()
    fresh = {key: torch.randn_like(x) for key, x in state.items() if "norm." not in key}
    network.load_state_dict(fresh, strict)


def by_reset(network: nn.Module, weights: Weights) -> None:
    for module in dict(weights):
        own = "_reset" if isinstance(module, nn.MultiheadAttention) else "reset"
        getattr(module, f"{own}_parameters")()


def by_replacing_data(layer: nn.Module, name: str) -> None:
    weight = stored(layer, name)
    weight.data = torch.randn_like(weight)


def by_replacing(layer: nn.Module, name: str) -> None:
    setattr(layer, name, nn.Parameter(torch.randn_like(stored(layer, name))))


def by_step(network: nn.Module, weights: Weights, optimizer: Callable[..., Any]) -> None:
    parameters = [stored(layer, name) for layer, name in weights]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer(parameters, lr=0.5).step()


def by_vector(network: nn.Module, weights: Weights) -> None:
    parameters = [stored(layer, name) for layer, name in weights]
    vector = nn.utils.parameters_to_vector(parameters)
    nn.utils.vector_to_parameters(torch.randn_like(vector), parameters)


def by_moving(network: nn.Module, weights: Weights) -> None:
    """Parameters in another precision, in new memory."""
    network.double()
    one_by_one(lambda layer, name: stored(layer, name).add_(1))(network, weights)
    network.float()


WAYS: dict[str, Way] = {
    "apply": partial(by_apply, data=False),
    "apply, .data": partial(by_apply, data=True),
    "nn.init of layer.weight": one_by_one(lambda *at: nn.init.normal_(getattr(*at), 0, 0.02), True),
    "load_state_dict": partial(by_loading, strict=True),
    "load_state_dict, strict=False": partial(by_loading, strict=False),
    "reset_parameters": by_reset,
    "sign of layer.weight": one_by_one(lambda *at: getattr(*at).neg_()),
    "sign of the parameter": one_by_one(lambda *at: stored(*at).neg_()),
    "data.normal_": one_by_one(lambda *at: stored(*at).data.normal_(), True),
    "data.abs_": one_by_one(lambda *at: stored(*at).data.abs_(), True),
    "data = ": one_by_one(by_replacing_data, True),
    "times 1000": one_by_one(lambda *at: stored(*at).mul_(1e3)),
    "times 0.001": one_by_one(lambda *at: stored(*at).mul_(1e-3)),
    "clipped, as in the first WGAN": one_by_one(lambda *at: stored(*at).data.clamp_(-0.1, 0.1)),
    "replaced": one_by_one(by_replacing, True),
    "SGD, foreach": partial(by_step, optimizer=partial(torch.optim.SGD, foreach=True)),
    "Adam": partial(by_step, optimizer=torch.optim.Adam),
    "Adam, fused": partial(by_step, optimizer=partial(torch.optim.Adam, fused=True)),
    "vector_to_parameters": by_vector,
    "double and back": by_moving,
    "pruned": one_by_one(lambda *at: prune.random_unstructured(*at, 0.5), True),
}
zero = one_by_one(lambda *at: stored(*at).zero_())
random_data = WAYS["data.normal_"]


def weights_of(network: nn.Module) -> Weights:
    return [(layer, name) for layer, name, _ in parts_of(network)]


# What happens around the write; the weights are read where each yields, in the network it yields.
Write = Callable[[], None]
Modes = Iterator[nn.Module]


def in_eval(network: nn.Module, write: Write, inputs: Sequence[Tensor]) -> Modes:
    network.eval()(*inputs)
    write()
    yield network


def in_training(network: nn.Module, write: Write, inputs: Sequence[Tensor]) -> Modes:
    write()
    yield network


def in_training_after_eval(network: nn.Module, write: Write, inputs: Sequence[Tensor]) -> Modes:
    write()
    network.eval()(*inputs)
    yield network.train()


def in_a_bank(network: nn.Module, write: Write, inputs: Sequence[Tensor]) -> Modes:
    bank = SigmaBank(network)
    with bank.shared():
        network(*inputs)
    write()
    with bank.shared():
        yield network


def in_a_fold(network: nn.Module, write: Write, inputs: Sequence[Tensor]) -> Modes:
    write()
    yield fold(network)


def loaded_elsewhere(network: nn.Module, write: Write, inputs: Sequence[Tensor]) -> Modes:
    other = copy.deepcopy(network).eval()
    other(*inputs)
    write()
    if not any(key.endswith("_mask") for key in network.state_dict()):
        other.load_state_dict(network.state_dict())
        yield other


MODES = [in_eval, in_training, in_training_after_eval, in_a_bank, in_a_fold, loaded_elsewhere]


@cache
def trained(kind: str, norm: str) -> nn.Module:
    """A network after a training step, to be copied."""
    torch.manual_seed(0)
    network = normed(kind, norm)
    network(*inputs_of(kind)).square().mean().backward()
    torch.optim.SGD(network.parameters(), 0.1).step()
    network(*inputs_of(kind))
    network.zero_grad()
    return network


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.__name__)
@pytest.mark.parametrize("way", WAYS)
def test_what_a_layer_computes_with_keeps_its_promise_whatever_wrote_it(way, mode):
    wrong = {}
    first = (list(WAYS).index(way) + MODES.index(mode)) % 3
    for kind, norm in WRITTEN[first::3]:
        if mode is in_a_fold and (kind, norm) == ("embedding", "mean_spectral"):
            continue  # its mean goes into the weight
        network = copy.deepcopy(trained(kind, norm))
        weights = weights_of(network)
        paths = {layer: path for path, layer in network.named_modules()}
        write = partial(WAYS[way], network, weights)
        for read in mode(network, write, inputs_of(kind)):
            for layer, name in weights:
                weight = getattr(read.get_submodule(paths[layer]), name)
                sigma = promised_sigma(layer, name, norm, weight)
                # A training pass without a bank improves the estimate of an operator once.
                once = norm == "spectral_clip" and mode in (in_training, in_training_after_eval)
                if not 0.98 < sigma / PROMISE[norm] < (1.1 if once else 1.02):
                    wrong[kind, norm, name] = sigma
    assert not wrong


def output_and_gradients(network: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    network.zero_grad()
    output = network(*inputs)
    (output * torch.arange(output.numel()).cos().view(output.shape)).sum().backward()
    return [output, *(p.grad for p in network.parameters() if p.grad is not None)]


def state_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: x.clone() for name, x in network.state_dict().items()}


@pytest.mark.parametrize("mode", ["from birth", "later", "bank"])
@pytest.mark.parametrize(("kind", "norm"), [case for case in SOME if "scaled" not in case[1]])
def test_zero_weights_have_sigma_one_and_the_gradient_without_the_norm(kind, norm, mode):
    network, inputs = normed(kind, norm), inputs_of(kind)
    if mode != "from birth":
        network(*inputs)
    bank = SigmaBank(network) if mode == "bank" else None
    zero(network, weights_of(network))
    reference = convert(plain(kind), "mean_only" if norm == "mean_spectral" else "none")
    state = {k: x for k, x in network.state_dict().items() if "norm." not in k}
    reference.load_state_dict(state, strict=False)
    output_and_gradients(reference, inputs)
    with bank.shared() if bank else nullcontext():
        output_and_gradients(network, inputs)
    expected = dict(reference.named_parameters())
    for name, parameter in network.named_parameters():
        if "weight" in name:
            torch.testing.assert_close(parameter.grad, expected[name].grad)


@pytest.mark.parametrize("mode", ["eval", "training", "bank"])
@pytest.mark.parametrize(("kind", "norm"), SOME)
def test_nan_stays_nan_and_a_good_weight_recovers(kind, norm, mode):
    if (norm, mode) == ("spectral_clip", "training"):
        pytest.skip("its estimate stays NaN")
    network, inputs = copy.deepcopy(trained(kind, norm)), inputs_of(kind)
    weights = weights_of(network)
    network.train(mode != "eval")
    bank = SigmaBank(network) if mode == "bank" else None
    good = [stored(layer, name).detach().clone() for layer, name in weights]
    for values in (None, good):
        with torch.no_grad():
            for index, (layer, name) in enumerate(weights):
                weight = stored(layer, name)
                weight.fill_(torch.nan) if values is None else weight.copy_(2 * values[index])
        for _ in range(2):
            if bank:
                bank.update()
            with bank.shared() if bank else nullcontext():
                network(*inputs)
                for layer, name in weights:
                    read = getattr(layer, name)
                    if values is None:
                        assert read.isnan().all()
                    else:
                        sigma = promised_sigma(layer, name, norm, read)
                        assert 0.98 < sigma / PROMISE[norm] < 1.02


@pytest.mark.parametrize(("kind", "norm"), SOME)
def test_evaluation_writes_nothing_the_second_time(kind, norm):
    network, inputs = copy.deepcopy(trained(kind, norm)).eval(), inputs_of(kind)
    random_data(network, weights_of(network))
    network(*inputs)
    before = state_of(network)
    network(*inputs)
    with torch.no_grad():
        network(*inputs)
    assert same_bits(state_of(network), before)


@pytest.mark.parametrize("banked", [False, True])
@pytest.mark.parametrize(("kind", "norm"), SOME)
def test_evaluation_between_steps_changes_no_bit_of_training(kind, norm, banked):
    inputs, states = inputs_of(kind), []
    for evaluates in (False, True):
        network = copy.deepcopy(trained(kind, norm))
        optimizer = torch.optim.Adam(network.parameters(), 0.05)
        bank = SigmaBank(network, optimizer) if banked else None
        for _ in range(3):
            with bank.shared() if bank else nullcontext():
                output_and_gradients(network, inputs)
            optimizer.step()
            if evaluates:
                network.eval()
                network(*inputs)
                with torch.no_grad(), bank.shared() if bank else nullcontext():
                    network(*inputs)
                network.train()
        states.append(state_of(network))
    assert same_bits(*states)
