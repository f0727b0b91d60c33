"""convert puts a norm on any network, and fold takes it off again, exactly."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from norm_layers import LAYERS, pairs, some
from torch import Tensor, nn

from msngan.networks import Critic
from msngan.norms import (
    NORMS,
    NormLayer,
    SigmaBank,
    WeightPart,
    configured,
    convert,
    fold,
    normalise,
    statistics,
    stored,
)

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
OF_THE_INPUT = ("instance", "layer")  # norms that no plain layer can express

every_norm = pytest.mark.parametrize("name", sorted(NORMS))


def look_trained(module: nn.Module) -> None:
    """Random parameters and running statistics for all norms in it."""
    for key, value in module.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 2)
        elif key.endswith(("bias", "running_mean", "gain")) or "output_norm.weight" in key:
            value.normal_()


def assert_folded(module: nn.Module, x: Tensor, *, kept: bool = False) -> nn.Module:
    """Fold it, compare with eval, and see that the module itself has not changed.

    kept: whether output norms stay, which depend on the input.
    """
    module.train()
    module(x)  # for a norm that has to see the size of the input
    before = copy.deepcopy(module.state_dict())
    folded = fold(module)
    assert not any(isinstance(part, (NormLayer, WeightPart)) for part in folded.modules())
    assert any(hasattr(part, "output_norm") for part in folded.modules()) == kept
    assert not any(part.training for part in folded.modules())
    assert all(part.training for part in module.modules())
    torch.testing.assert_close(module.state_dict(), before, rtol=0, atol=0)
    expected = module.eval()(x)
    tolerance = TOLERANCE[x.dtype] * expected.abs().max().item()
    torch.testing.assert_close(folded(x), expected, rtol=0, atol=tolerance)
    return folded


@pytest.mark.parametrize(("kind", "name"), some(pairs(LAYERS)))
@pytest.mark.parametrize(
    ("bias", "conv_bias", "dtype"),
    [(True, True, torch.float64), (True, False, torch.float32), (False, False, torch.float64)],
)
def test_a_folded_layer_is_torch_s_and_computes_the_same(name, kind, bias, conv_bias, dtype):
    make, shape = LAYERS[kind]
    plain = make().to(dtype)
    if not bias:
        plain.bias = None
    layer = normalise(copy.deepcopy(plain), NORMS[name], conv_bias=conv_bias)
    look_trained(layer)
    kept = name in OF_THE_INPUT
    folded = assert_folded(layer, torch.randn(shape, dtype=dtype), kept=kept)
    assert folded.weight.dtype == dtype
    if not kept:
        assert type(folded) is type(plain)
        assert set(folded.state_dict()) <= {"weight", "bias"}


@pytest.mark.parametrize(
    ("kind", "name"), pairs(["conv2d", "conv_transpose2d", "conv_transpose2d, 2 groups"])
)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_fold_keeps_the_memory_format(name, kind, memory_format):
    make, shape = LAYERS[kind]
    layer = normalise(make(), NORMS[name]).to(memory_format=memory_format)
    look_trained(layer)
    folded = assert_folded(layer, torch.randn(shape), kept=name in OF_THE_INPUT)
    assert folded.weight.stride() == make().to(memory_format=memory_format).weight.stride()


@every_norm
def test_a_fold_of_a_narrow_layer_is_rounded_once(name):
    layer = normalise(nn.Conv2d(4, 6, 3), NORMS[name])
    look_trained(layer)
    layer.to(torch.bfloat16)
    wide, narrow = fold(copy.deepcopy(layer).float()), fold(layer)
    assert narrow.weight.dtype == torch.bfloat16
    step = torch.finfo(torch.bfloat16).eps
    if NORMS[name].weight is None:  # else W' itself is in the layer's precision
        torch.testing.assert_close(narrow.weight, wide.weight.bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(narrow.weight.float(), wide.weight, rtol=1.5 * step, atol=0)
    if narrow.bias is not None:
        torch.testing.assert_close(narrow.bias, wide.bias.bfloat16(), rtol=0, atol=0)


OPTIONS: list[tuple[str, dict[str, object]]] = [
    *((name, {"gain": True}) for name in ("mean_spectral", "mean_only")),
    *((name, {"gain": False}) for name in ("weight", "weight_mean", *OF_THE_INPUT)),
    *((name, {"scale": 3.0}) for name in ("scaled", "bidirectional_scaled")),
    ("mean_spectral", {"offset": False}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
@pytest.mark.parametrize("kind", ["conv2d, 2 groups", "conv_transpose2d, 2 groups"])
def test_a_norm_with_options_folds_to_the_same(name, options, kind):
    make, shape = LAYERS[kind]
    layer = normalise(make(), configured(name, options))
    look_trained(layer)
    assert_folded(layer, torch.randn(shape), kept=name in OF_THE_INPUT)


@pytest.mark.parametrize("name", OF_THE_INPUT)
def test_a_norm_of_the_input_stays_while_the_weight_is_folded(name):
    norm = replace(NORMS["spectral"], output=NORMS[name].output)
    layer = normalise(nn.Conv2d(4, 6, 3), norm)
    look_trained(layer)
    weight = layer.eval().weight
    folded = assert_folded(layer, torch.randn(5, 4, 5, 5), kept=True)
    assert not torch.equal(weight, stored(layer))
    names = {"weight", "bias", "output_norm.weight", "output_norm.bias"}
    assert set(folded.state_dict()) == names
    assert_folded(folded, torch.randn(5, 4, 5, 5), kept=True)


def test_a_fold_shares_no_memory_with_its_source():
    critic = Critic(width=2, size=8)
    folded = fold(critic)
    for parameter in folded.parameters():
        parameter.data.zero_()
    assert all(p.any() for name, p in critic.named_parameters() if name.endswith("weight"))


@pytest.mark.quick
def test_fold_leaves_temporary_states_as_they_are():
    critic = Critic(width=2, size=8)
    bank = SigmaBank(critic)
    x = torch.randn(5, 3, 8, 8)
    with statistics(critic, "running"), bank.shared():
        folded = fold(critic)
        torch.testing.assert_close(folded(x), critic(x))
        assert not any(conv.output_norm.training for conv in critic.body[::2][:7])


def test_a_layer_used_under_two_names_stays_one_layer():
    shared = nn.Linear(4, 4)
    network = convert(nn.ModuleDict({"first": shared, "second": shared}), "spectral")
    folded = fold(network)
    assert type(folded["first"]) is nn.Linear
    assert folded["first"] is folded["second"]


class Foreign(nn.Module):
    """A user's network: nested, with a subclass of Linear inside the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 4, 3))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).flatten(2).transpose(1, 2)
        return self.last(self.attention(x, x, x)[0].mean(1)).squeeze(1)


@pytest.mark.quick
@every_norm
def test_a_converted_network_trains_under_the_optimizer_it_had(name):
    network = Foreign()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    before = dict(network.named_parameters())
    result = convert(network, name, head="last")
    assert result is network
    after = dict(network.named_parameters())
    assert all(after[key] is before[key] for key in before if key in after)
    # Optimizers and their states go by the order.
    assert [key for key in before if key in after] == [key for key in after if key in before]
    biases = {"features.0.bias", "features.2.bias", "attention.out_proj.bias"}
    assert before.keys() - after.keys() == (biases if NORMS[name].cancels_bias else set())
    start = after["features.0.weight"].clone()
    network(torch.randn(5, 3, 6, 6)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(after["features.0.weight"], start)


def test_hooks_and_mode_survive_conversion():
    layer, seen = nn.Linear(4, 6).eval(), []
    layer.register_forward_hook(lambda *_: seen.append(1))
    convert(layer, "mean_spectral")(torch.randn(5, 4))
    assert seen == [1]
    assert not any(part.training for part in layer.modules())


def test_fold_refuses_an_output_norm_that_it_cannot_express():
    layer = normalise(nn.Linear(4, 6), NORMS["spectral"])
    layer.output_norm = nn.LayerNorm(6)
    with pytest.raises(TypeError, match="LayerNorm cannot be folded"):
        fold(layer)
