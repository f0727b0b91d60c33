"""Whoever reads a layer's weight reads the normed one, in networks of every kind."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from norm_layers import LAYERS, exact_sigma, pairs, some
from operator_layers import exact_norm
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd
from torchvision.models import SwinTransformer

from msngan.norms import NORMS, NormLayer, SampleNorm, SigmaBank, convert, fold, parts_of, stored


class First(nn.Module):
    """The first of what a module gives."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor, **options: Tensor) -> Tensor:
        output = self.module(*inputs, **options)
        return output if isinstance(output, Tensor) else output[0]


class WindowAttention(nn.Module):
    """As Swin's: it reads the weights and calls no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        qkv = F.linear(x, self.qkv.weight, self.qkv.bias)
        q, k, v = qkv.unflatten(-1, (3, 2, 4)).transpose(1, 3).unbind(2)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return F.linear(y, self.proj.weight, self.proj.bias)


class Tied(nn.Module):
    """A language model whose last projection is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Embedding(11, 8), nn.Linear(8, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self.body(self.embed(tokens)).tanh(), self.embed.weight)


class MirroredConv2d(nn.Conv2d):
    """A subclass of torch's whose own forward reads the weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight.flip(-1), self.bias, self.stride, self.padding)


class Cell(nn.Module):
    """An LSTM's cell with a state, without which half of its weights are not used."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(5, 6)

    def forward(self, x: Tensor, *state: Tensor) -> Tensor:
        return self.cell(x, state)[0]


class Masked(nn.Module):
    """An encoder with padding: what it gives for padding is anyone's choice."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        padding = torch.arange(x.shape[1]) >= torch.arange(len(x), 0, -1)[:, None] + 1
        y = self.encoder(x, src_key_padding_mask=padding)
        return y.masked_fill(padding[..., None], 0)


def swin() -> nn.Module:
    return SwinTransformer(
        [4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=4, stochastic_depth_prob=0
    )


def encoder_layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 12, dropout=0, batch_first=True)


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(encoder_layer(), 2)


def decoder_layer() -> nn.TransformerDecoderLayer:
    return nn.TransformerDecoderLayer(8, 2, 12, dropout=0, batch_first=True)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def integers(*shape: int) -> Tensor:
    return torch.randint(11, shape)


def attention(**options: Any) -> nn.Module:
    return First(nn.MultiheadAttention(8, 2, batch_first=True, **options))


Made = tuple[Callable[[], nn.Module], Callable[[], Sequence[Tensor]]]
# A network and its inputs, whose outputs have several values per channel.
NETWORKS: dict[str, Made] = {
    "window attention": (WindowAttention, lambda: [normal(3, 4, 8)]),
    "swin": (swin, lambda: [normal(2, 3, 16, 16)]),
    "tied": (Tied, lambda: [integers(3, 4)]),
    "attention": (attention, lambda: [normal(3, 4, 8)] * 3),
    "attention, sizes": (
        lambda: attention(kdim=6, vdim=5),
        lambda: [normal(3, 4, 8), normal(3, 5, 6), normal(3, 5, 5)],
    ),
    "attention, no bias": (lambda: attention(bias=False), lambda: [normal(3, 4, 8)] * 3),
    "encoder layer": (encoder_layer, lambda: [normal(3, 4, 8)]),
    "encoder layer, padding": (lambda: Masked(encoder_layer()), lambda: [normal(3, 4, 8)]),
    "encoder": (encoder, lambda: [normal(3, 4, 8)]),
    "encoder, padding": (lambda: Masked(encoder()), lambda: [normal(3, 4, 8)]),
    "decoder layer": (decoder_layer, lambda: [normal(3, 4, 8), normal(3, 5, 8)]),
    "lstm": (
        lambda: First(nn.LSTM(5, 6, 2, bidirectional=True, proj_size=3)),
        lambda: [normal(3, 4, 5)],
    ),
    "gru": (lambda: First(nn.GRU(5, 6)), lambda: [normal(3, 4, 5)]),
    "rnn": (lambda: First(nn.RNN(5, 6, bias=False)), lambda: [normal(3, 4, 5)]),
    "lstm cell": (Cell, lambda: [normal(4, 5), normal(4, 6), normal(4, 6)]),
    "gru cell": (lambda: nn.GRUCell(5, 6), lambda: [normal(4, 5), normal(4, 6)]),
    "rnn cell": (lambda: nn.RNNCell(5, 6), lambda: [normal(4, 5), normal(4, 6)]),
    "embedding": (lambda: nn.Embedding(11, 6), lambda: [integers(3, 4)]),
    "embedding bag": (lambda: nn.EmbeddingBag(11, 6), lambda: [integers(3, 4)]),
    "bilinear": (lambda: nn.Bilinear(4, 3, 6), lambda: [normal(3, 4, 4), normal(3, 4, 3)]),
    "conv transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2), lambda: [normal(3, 4, 3)]),
    "conv transpose3d": (lambda: nn.ConvTranspose3d(4, 6, 2), lambda: [normal(2, 4, 2, 2, 2)]),
    "depthwise": (lambda: nn.Conv2d(4, 4, 3, groups=4), lambda: [normal(3, 4, 4, 4)]),
    "own forward": (lambda: MirroredConv2d(4, 6, 3), lambda: [normal(3, 4, 4, 4)]),
}
NETWORKS |= {
    kind: (make, lambda shape=shape: [normal(*shape)])  # type: ignore[misc]
    for kind, (make, shape) in LAYERS.items()
    if kind not in ("linear", "linear on as many tokens as outputs")
}
# What each norm of sigma promises of the weight that it gives. The gate of an optional one is on.
OPTIONS: dict[str, dict[str, Any]] = {
    "optional_spectral": {"start": True, "off": 0.0},
    "spectral_clip": {"beta": 0.05},  # below any sigma here, so that it always clips
}
PROMISED = {
    "spectral": 1.0,
    "mean_spectral": 1.0,
    "spectral_bias": 1.0,
    "bidirectional": 1.0,
    "scaled": 1.4,
    "bidirectional_scaled": 1.4,
    "optional_spectral": 1.0,
    "spectral_clip": 0.05,
}
KEPT = ("instance", "layer")  # norms whose output part a fold keeps
every_pair = pytest.mark.parametrize(("kind", "norm"), some(pairs(NETWORKS)))
quiet = pytest.mark.filterwarnings("ignore:.*nested tensors:UserWarning")


def normed(kind: str, norm: str) -> nn.Module:
    """The network of a table's line under a norm, in float64, which shows small differences."""
    head = "head" if kind == "swin" else None  # (N, C) has no space for an instance norm
    network = NETWORKS[kind][0]().double()
    return convert(network, norm, head=head, report=True, **OPTIONS.get(norm, {}))[0]


def inputs_of(kind: str) -> Sequence[Tensor]:
    return NETWORKS[kind][1]()


def loss_of(output: Tensor) -> Tensor:
    ramp = torch.arange(output.numel(), dtype=output.dtype).cos().view(output.shape)
    return (output * (ramp + output)).mean()


def train(network: nn.Module, inputs: Sequence[Tensor], steps: int = 2) -> list[float]:
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(network(*inputs))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def same(a: Tensor, b: Tensor, tolerance: float = 1e-6) -> bool:
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def promised_sigma(layer: nn.Module, name: str, norm: str, weight: Tensor) -> float:
    """By SVD in float64: the sigma of which the norm promises that it is PROMISED[norm]."""
    weight = weight.detach().double()
    if norm == "spectral_clip" and isinstance(layer, _ConvNd):
        size = (layer.in_channels, *getattr(layer, name + "_norm").v.shape[2:])
        return float(exact_norm(fold(layer), weight, size))
    both = norm.startswith("bidirectional") and weight.dim() > 2
    return float(exact_sigma(layer, weight, both))


@quiet
@every_pair
def test_every_way_to_run_a_network_computes_the_same(norm, kind):
    network, inputs = normed(kind, norm), inputs_of(kind)
    train(network, inputs)
    network.eval()
    found = {"eval": network(*inputs).detach()}
    with torch.no_grad():
        found["no_grad"] = network(*inputs)
    with torch.inference_mode():
        found["inference_mode"] = network(*inputs)
    found["deepcopy"] = copy.deepcopy(network)(*inputs)
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    found["pickle"] = torch.load(file, weights_only=False)(*inputs)
    fresh = normed(kind, norm).eval()
    fresh.load_state_dict(network.state_dict())
    found["load_state_dict"] = fresh(*inputs)
    bank = SigmaBank(network)
    with bank.shared():
        found["shared"] = network(*inputs)
        with torch.no_grad():
            found["shared, no_grad"] = network(*inputs)
    found["after shared"] = network(*inputs)
    wrong = [way for way, output in found.items() if not same(output, found["eval"])]
    assert not wrong
    assert found["eval"].isfinite().all()


@quiet
@every_pair
def test_every_parameter_that_is_used_gets_a_gradient(norm, kind):
    network, inputs = normed(kind, norm), inputs_of(kind)
    # The output part of a layer whose weight is read, and which is not called, is not used.
    outputs = [m for n, m in network.named_modules() if n.endswith("output_norm")]
    called = set()
    for module in outputs:
        module.register_forward_hook(lambda module, *_: called.add(id(module)))
    losses = train(network, inputs)
    unused = {id(p) for m in outputs if id(m) not in called for p in m.parameters()}
    assert torch.tensor(losses).isfinite().all()
    for name, parameter in network.named_parameters():
        if id(parameter) not in unused:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    for layer, name, _ in parts_of(network):
        assert stored(layer, name).grad.any(), name


# Not so yet: what a fold makes of a layer whose output part is not called, or not by all readers.
OUTPUT_READ = {("window attention", "batch"), ("window attention", "batch_no_gain")}
OUTPUT_READ |= {("tied", n) for n, norm in NORMS.items() if norm.output and n not in KEPT}
FOLDED = [pair for pair in pairs(NETWORKS) if pair not in OUTPUT_READ]


@quiet
@pytest.mark.parametrize(("kind", "norm"), some(FOLDED))
def test_a_fold_is_of_the_plain_network_s_classes_and_computes_the_same(kind, norm):
    plain, network, inputs = NETWORKS[kind][0](), normed(kind, norm), inputs_of(kind)
    train(network, inputs)
    folded = fold(network)
    for name, part in plain.named_modules():
        assert type(folded.get_submodule(name)) is type(part), name
    kept = [name for name, part in folded.named_modules() if isinstance(part, SampleNorm)]
    assert not any(isinstance(part, NormLayer) for part in folded.modules())
    assert norm in KEPT or not kept
    keys = {key for key in folded.state_dict() if not key.startswith(tuple(kept))}
    missing, added = set(plain.state_dict()) - keys, keys - set(plain.state_dict())
    assert all(key.endswith("bias") for key in missing | added)
    expected = network.eval()(*inputs)
    assert same(folded(*inputs), expected)
    with torch.no_grad():
        assert same(folded(*inputs), expected)


@quiet
@pytest.mark.parametrize(("kind", "norm"), some(pairs(NETWORKS, PROMISED)))
def test_every_weight_that_is_read_has_the_promised_sigma(norm, kind):
    network, inputs = normed(kind, norm).float(), inputs_of(kind)
    inputs = [x.float() if x.is_floating_point() else x for x in inputs]
    train(network, inputs)
    for training in (True, False):
        network.train(training)
        for layer, name, _ in parts_of(network):
            sigma = promised_sigma(layer, name, norm, getattr(layer, name))
            if norm == "spectral_clip" and not getattr(layer, name + "_norm").known:
                continue  # a convolution that was not called
            assert 0.98 < sigma / PROMISED[norm] < 1.02, (name, training)


@quiet
@pytest.mark.parametrize("kind", ["encoder layer", "encoder, padding"])
def test_a_transformer_s_fast_path_is_taken_only_where_no_output_is_normed(kind, monkeypatch):
    fast, calls = torch._transformer_encoder_layer_fwd, []
    counted = lambda *a, **o: calls.append(1) or fast(*a, **o)  # noqa: E731
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", counted)
    for norm, taken in [("spectral", True), ("mean_spectral", False)]:
        network, calls[:] = normed(kind, norm).eval(), []
        with torch.no_grad():
            network(*inputs_of(kind))
        assert bool(calls) is taken


@pytest.mark.parametrize("kind", ["attention", "attention, no bias", "attention, sizes"])
def test_an_attention_s_output_is_centred_on_its_offset(kind):
    network = normed(kind, "mean_spectral")
    offset = network.module.out_proj.output_norm.bias
    with torch.no_grad():
        offset.copy_(normal(8))
    for _ in range(2):
        torch.testing.assert_close(network(*inputs_of(kind)).mean((0, 1)), offset)


TRACED = [
    ("window attention", "mean_spectral"),
    ("attention", "bidirectional"),
    ("encoder layer", "mean_spectral"),
    ("gru", "spectral_clip"),
    ("conv_transpose2d, 2 groups", "bidirectional"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "norm"), TRACED)
def test_exported_and_traced_networks_compute_the_same(kind, norm):
    network, inputs = normed(kind, norm), tuple(inputs_of(kind))
    train(network, inputs)
    expected = network.eval()(*inputs)
    assert same(torch.export.export(network, inputs).module()(*inputs), expected, 1e-3)
    with torch.no_grad():
        traced = torch.jit.trace(network, inputs, check_trace=False)
        assert same(traced(*inputs), expected, 1e-3)


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_network_computes_the_same():
    network, inputs = normed("conv2d", "mean_spectral"), inputs_of("conv2d")
    train(network, inputs)
    torch._dynamo.reset()
    compiled, expected = torch.compile(network, backend="aot_eager"), copy.deepcopy(network)
    for training in (True, False):
        network.train(training)
        assert same(compiled(*inputs), expected.train(training)(*inputs), 1e-3)
