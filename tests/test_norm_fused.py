"""The fused path of MSN (a bank's weights, centring in place) against its formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.norms import SigmaBank, convert

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
    m = matrix(layer.weight, layer)
    sigma = torch.stack([u[g] @ m[g] @ v[g] for g in range(len(m))]).max()
    h = operate(layer, x, layer.weight / sigma)
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
    layer.weight.data.mul_(3).add_(0.1)
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
    original = layer.operate

    def watched(*arguments: Any) -> Tensor:
        outputs.append(original(*arguments))
        return outputs[-1]

    layer.operate = watched
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = layer(torch.randn(4, 3, 6, 6))
    assert y.data_ptr() == outputs[0].data_ptr()
    assert all(tensor.data_ptr() != y.data_ptr() for tensor in saved)
    y.sum().backward()
    assert layer.weight.grad is not None


def test_a_standalone_centring_leaves_its_input_alone() -> None:
    from msngan.norms import Centring

    x = torch.randn(4, 3, 6, 6)
    before = x.clone()
    Centring(3)(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("gain", [False, True])
@pytest.mark.parametrize("cast", [False, True])
def test_evaluation_subtracts_the_running_mean_in_full_precision(gain: bool, cast: bool) -> None:
    layer = convert(nn.Conv2d(1, 1, 1), "mean_only", gain=gain).eval()
    norm = layer.output_norm
    with torch.no_grad():
        layer.weight.fill_(1.0)
        norm.running_mean.fill_(100.3)  # 100.5 in bfloat16
        norm.bias.fill_(0.25)
        if gain:
            norm.weight.fill_(2.0)
    x = torch.randint(96, 105, (4, 1, 6, 6)).float()
    expected = (x - 100.3) * (2 if gain else 1) + 0.25
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=cast):
        y = layer(x).float()
    torch.testing.assert_close(y, expected, rtol=1e-2 if cast else 1e-5, atol=1e-2)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_gradient_penalty_is_that_of_the_formula(kind: str) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = convert(make().double(), "mean_spectral")
    layer.weight.data.mul_(3).add_(0.1)
    bank = SigmaBank(layer)
    bank.update()
    u, v = layer.weight_norm.u.clone(), layer.weight_norm.v.flatten(1).clone()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)

    def measured(y: Tensor) -> list[Tensor]:
        weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)
        (slope,) = torch.autograd.grad((y.tanh() * weights).sum(), x, create_graph=True)
        inputs = (layer.weight, layer.output_norm.bias)
        return [slope.detach(), *torch.autograd.grad(slope.square().sum(), inputs)]

    with bank.shared():
        fused = measured(layer(x))
    for one, other in zip(fused, measured(by_formula(layer, x, u, v)[0]), strict=True):
        assert (one - other).norm() <= 1e-9 * other.norm()
