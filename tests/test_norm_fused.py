"""The fused path of MSN (a bank's weights, centring in place) against its formula."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.norms import Centring, FusedSequential, SigmaBank, convert, statistics, stored

# All kernels, strides and paddings of the critic and the generator, and the other kinds.
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "3x3, stride 1": (lambda: nn.Conv2d(3, 5, 3, 1, 1), (4, 3, 8, 8)),
    "4x4, stride 2": (lambda: nn.Conv2d(3, 5, 4, 2, 1), (4, 3, 8, 8)),
    "3x3, no padding, dilated": (lambda: nn.Conv2d(3, 5, 3, dilation=2), (4, 3, 8, 8)),
    "3x3, same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), (4, 3, 8, 8)),
    "3x3, reflected": (lambda: nn.Conv2d(3, 5, 3, 1, 1, padding_mode="reflect"), (4, 3, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, 1, 1, groups=2), (4, 4, 8, 8)),
    "1d": (lambda: nn.Conv1d(3, 5, 3, 2, 1), (4, 3, 9)),
    "3d": (lambda: nn.Conv3d(2, 3, 3, 1, 1), (3, 2, 4, 4, 4)),
    "transposed, 4x4, stride 2": (lambda: nn.ConvTranspose2d(3, 5, 4, 2, 1), (4, 3, 4, 4)),
    "transposed, 4x4 of 1x1": (lambda: nn.ConvTranspose2d(3, 5, 4), (4, 3, 1, 1)),
    "transposed, grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2), (4, 4, 4, 4)),
    "linear": (lambda: nn.Linear(3, 5), (6, 3)),
    "linear on tokens": (lambda: nn.Linear(3, 5), (4, 7, 3)),
}


def matrix(weight: Tensor, layer: nn.Module) -> Tensor:
    """(groups, outputs / groups, inputs / groups * kernel), by explicit loops over groups."""
    groups = getattr(layer, "groups", 1)
    if isinstance(layer, nn.ConvTranspose2d):
        return torch.stack([w.transpose(0, 1).flatten(1) for w in weight.chunk(groups)])
    return torch.stack([w.flatten(1) for w in weight.chunk(groups)])


def operate(layer: nn.Module, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return x @ weight.T
    if isinstance(layer, nn.ConvTranspose2d):
        return F.conv_transpose2d(x, weight, None, layer.stride, layer.padding, 0, layer.groups)
    return layer._conv_forward(x, weight, None)


def by_formula(layer: nn.Module, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 6 and 7 with u and v constant, and the minibatch mean."""
    m = matrix(stored(layer), layer)
    sigma = torch.stack([u[g] @ m[g] @ v[g] for g in range(len(m))]).max()
    h = operate(layer, x, stored(layer) / sigma)
    axis = -1 if isinstance(layer, nn.Linear) else 1
    others = [each for each in range(h.dim()) if each != axis % h.dim()]
    mean = h.mean(others, keepdim=True)
    offset = layer.output_norm.bias.view([-1 if n > 1 else 1 for n in mean.shape])
    return h - mean + offset, mean.flatten()


@pytest.mark.parametrize(
    ("kind", "channels_last"),
    [(k, False) for k in LAYERS] + [(k, True) for k in LAYERS if len(LAYERS[k][1]) == 4],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_output_gradients_and_running_mean_are_those_of_the_formula(
    kind: str, channels_last: bool, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = convert(make().to(dtype), "mean_spectral")
    x = 1 + torch.randn(shape, dtype=dtype)
    if channels_last:
        layer, x = (
            layer.to(memory_format=torch.channels_last),
            x.to(memory_format=torch.channels_last),
        )
    layer.output_norm.bias.data.normal_()
    bank = SigmaBank(layer)
    stored(layer).data.mul_(3).add_(0.1)
    bank.update()
    u, v = layer.weight_norm.u.clone(), layer.weight_norm.v.flatten(1).clone()
    x.requires_grad_()
    inputs = {"x": x, **dict(layer.named_parameters())}

    def measured(y: Tensor, *means: Any) -> list[Tensor]:
        loss = (
            F.leaky_relu(y, 0.1) * torch.linspace(-1, 2, y.numel(), dtype=dtype).view(y.shape)
        ).sum()
        return [y.detach().clone(), *torch.autograd.grad(loss, inputs.values()), *means]

    with bank.shared():
        fused = measured(layer(x), layer.output_norm.running_mean)
    y, mean = by_formula(layer, x, u, v)
    plain = measured(y, 0.1 * mean)
    relative = 1e-6 if dtype == torch.float64 else 2e-4
    for one, other in zip(fused, plain, strict=True):
        assert one.shape == other.shape
        assert (one - other).norm() <= relative * other.norm()


def test_centring_writes_over_what_the_layer_put_out_and_keeps_nothing_for_the_backward_pass() -> (
    None
):
    layer = convert(nn.Conv2d(3, 5, 3), "mean_spectral")
    outputs, saved = [], []
    layer.output_norm.register_forward_pre_hook(lambda _, given: outputs.append(given[0]))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(torch.randn(4, 3, 6, 6))
    assert y.data_ptr() == outputs[0].data_ptr()
    assert all(tensor.data_ptr() != y.data_ptr() for tensor in saved)
    y.sum().backward()
    assert stored(layer).grad is not None


NORMED = ["none", "spectral", "mean_spectral", "mean_only", "weight_mean", "batch"]
NONE_SUCH = ("batch", "last")


def critics(norm: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The same network twice, as FusedSequential and as nn.Sequential."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, 1, 1), nn.LeakyReLU(0.1, inplace=True)]
    layers += [nn.Conv2d(4, 5, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True), nn.Conv2d(5, 6, 2)]
    layers += [nn.ReLU(), nn.Flatten(), nn.Linear(54, 1)]
    fused = convert(FusedSequential(*layers).double(), norm, head="7", **options)
    return fused, nn.Sequential(*copy.deepcopy(list(fused)))


@pytest.mark.parametrize(
    ("norm", "mode"),  # batch norm keeps no statistics of its last batch
    [(n, m) for n in NORMED for m in ("train", "running", "last", "eval") if (n, m) != NONE_SUCH],
)
def test_a_fused_sequence_has_the_bits_of_a_plain_one(norm: str, mode: str) -> None:
    found = []
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for module in critics(norm):
        module(x)
        module.train(mode != "eval")
        inputs = x.clone().requires_grad_()
        with statistics(module, mode) if mode in ("running", "last") else nullcontext():
            y = module(inputs)
        y.square().sum().backward()
        grads = {name: p.grad for name, p in module.named_parameters()}
        found.append({"y": y.detach(), "x": inputs.grad, **grads, **module.state_dict()})
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["mean_spectral", "mean_only"])
def test_a_gradient_penalty_through_a_fused_sequence_is_that_of_a_plain_one(norm: str) -> None:
    found = []
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for module in critics(norm):
        inputs = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module(inputs).square().sum(), inputs, create_graph=True)
        slope.square().sum().backward()
        found.append({name: p.grad for name, p in module.named_parameters()})
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_a_fused_sequence_under_autocast_is_a_plain_one() -> None:
    found = []
    x = torch.randn(4, 3, 8, 8)
    for module in critics("mean_spectral"):
        with torch.autocast("cpu", torch.bfloat16):
            y = module.float()(x)
        y.float().square().sum().backward()
        found.append([y.detach(), *(p.grad for p in module.parameters())])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["forward", "pre", "backward"])
@pytest.mark.parametrize("index", [0, 1])
def test_a_part_with_a_hook_is_called_by_itself(kind: str, index: int) -> None:
    fused, plain = critics("mean_spectral")
    x, seen, found = torch.randn(4, 3, 8, 8, dtype=torch.float64), [], []
    for module in (fused, plain):
        part, hook = module[index], lambda *given: seen.append(given[-1])
        if kind == "forward":
            part.register_forward_hook(hook)
        elif kind == "pre":
            part.register_forward_pre_hook(hook)
        else:
            module[1].inplace = False  # torch's backward hooks forbid it
            part.register_full_backward_hook(hook)
        module(x.clone().requires_grad_()).sum().backward()
        found.append(stored(module[0]).grad)
    assert len(seen) == 2
    assert torch.equal(*found)


@pytest.mark.parametrize("change", ["gain", "relu", "not in place", "hooked"])
def test_only_what_is_the_same_is_fused(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    activated = Centring.activated
    monkeypatch.setattr(
        Centring, "activated", lambda *given: calls.append(given[2]) or activated(*given)
    )
    fused, _ = critics("mean_spectral", gain=change == "gain")
    if change == "relu":
        fused[1], fused[3] = nn.ReLU(), nn.ReLU()
    if change == "not in place":
        fused[1].inplace = fused[3].inplace = False
    if change == "hooked":
        fused[0].output_norm.register_forward_hook(lambda *_: None)
    fused(torch.randn(4, 3, 8, 8, dtype=torch.float64))
    assert calls == ([0.2] if change == "hooked" else [])


def test_a_fused_sequence_gives_its_output_over_and_lets_no_other_gradient_be_written() -> None:
    fused, _ = critics("mean_spectral")
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    upstream = torch.randn(4, 6, 3, 3, dtype=torch.float64)
    part = FusedSequential(fused[4], nn.LeakyReLU(0.1, inplace=True))
    h = fused[2](fused[0](x)).detach()
    before = upstream.clone()
    part(h).backward(upstream)
    assert torch.equal(upstream, before)
