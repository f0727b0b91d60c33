"""MSNConv2d, MSNConvTranspose2d, MSNLinear: torch's layers with W / sigma, minus mean, plus m."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msngan.norms import MSNConv2d, MSNConvTranspose2d, MSNLinear, NormLayer, stored

IMAGES, TOKENS = (5, 4, 7, 7), (5, 3, 4)
Case = tuple[type[NormLayer], type[nn.Module], dict[str, Any], tuple[int, ...]]
CASES: dict[str, Case] = {
    "plain": (MSNConv2d, nn.Conv2d, {"kernel_size": 3}, IMAGES),
    "strided": (MSNConv2d, nn.Conv2d, {"kernel_size": 4, "stride": 2, "padding": 1}, IMAGES),
    "dilated": (MSNConv2d, nn.Conv2d, {"kernel_size": (3, 2), "dilation": (2, 1)}, IMAGES),
    "grouped": (MSNConv2d, nn.Conv2d, {"kernel_size": 3, "groups": 2}, IMAGES),
    "same": (MSNConv2d, nn.Conv2d, {"kernel_size": 3, "padding": "same"}, IMAGES),
    "reflected": (
        MSNConv2d,
        nn.Conv2d,
        {"kernel_size": 3, "padding": 2, "padding_mode": "reflect"},
        IMAGES,
    ),
    "transposed": (MSNConvTranspose2d, nn.ConvTranspose2d, {"kernel_size": 3}, IMAGES),
    "transposed, all options": (
        MSNConvTranspose2d,
        nn.ConvTranspose2d,
        {
            "kernel_size": 3,
            "stride": 2,
            "padding": 1,
            "output_padding": 1,
            "groups": 2,
            "dilation": 2,
        },
        IMAGES,
    ),
    "linear": (MSNLinear, nn.Linear, {}, (5, 4)),
    "linear on tokens": (MSNLinear, nn.Linear, {}, TOKENS),
}
every_case = pytest.mark.parametrize("case", CASES)


def pair(case: str) -> tuple[NormLayer, nn.Module, Tensor]:
    """An MSN layer with random m and running mean, torch's with W / sigma, and an input."""
    kind, plain_kind, options, shape = CASES[case]
    layer = kind(4, 6, **options).double()
    layer.output_norm.bias.data.normal_()
    layer.output_norm.running_mean.normal_()
    layer.weight_norm.settle(stored(layer))  # in float64
    layer.weight_norm.managed = True  # so that sigma stands still
    plain = plain_kind(4, 6, bias=False, **options).double()
    # sigma itself is compared with SVD in test_spectral.
    plain.weight.data.copy_(stored(layer) / layer.weight_norm.sigma(stored(layer)))
    return layer, plain, 1 + torch.randn(shape, dtype=torch.float64)


def per_channel(y: Tensor, values: Tensor, layer: nn.Module) -> Tensor:
    shape = [1] * y.dim()
    shape[-1 if isinstance(layer, nn.Linear) else 1] = 6
    return values.view(shape)


@every_case
def test_training_is_the_plain_layer_minus_its_mean_plus_m(case: str) -> None:
    layer, plain, x = pair(case)
    y = plain(x)
    axes = [i for i in range(y.dim()) if i != (1 if y.dim() == 4 else y.dim() - 1)]
    expected = y - y.mean(axes, keepdim=True) + per_channel(y, layer.output_norm.bias, layer)
    torch.testing.assert_close(layer(x), expected)


@every_case
def test_evaluation_is_the_plain_layer_minus_the_running_mean_plus_m(case: str) -> None:
    layer, plain, x = pair(case)
    y = plain(x)
    shift = layer.output_norm.bias - layer.output_norm.running_mean
    torch.testing.assert_close(layer.eval()(x), y + per_channel(y, shift, layer))


@every_case
def test_the_state_holds_weight_offset_and_running_mean_and_survives_a_round_trip(
    case: str,
) -> None:
    layer, _, x = pair(case)
    assert set(layer.state_dict()) == {
        "weight",
        "weight_norm.block",
        "weight_norm.last_sigma",
        "weight_norm.u",
        "weight_norm.v",
        "output_norm.bias",
        "output_norm.running_mean",
        "output_norm.num_batches_tracked",
    }
    kind, _, options, _ = CASES[case]
    other = kind(4, 6, **options).double()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))


@every_case
def test_the_repr_and_the_type_are_those_of_the_torch_layer(case: str) -> None:
    kind, plain_kind, options, _ = CASES[case]
    layer = kind(4, 6, **options)
    assert isinstance(layer, plain_kind)
    plain = repr(plain_kind(4, 6, bias=False, **options))
    assert plain.partition("(")[2].rstrip(")") in repr(layer)


def test_a_transposed_layer_takes_an_output_size() -> None:
    layer, plain, x = pair("transposed")
    strided = MSNConvTranspose2d(4, 6, 3, stride=2)
    assert strided(x.float(), output_size=[16, 16]).shape == (5, 6, 16, 16)
    assert strided(x.float(), [15, 15]).shape == (5, 6, 15, 15)
    with pytest.raises(ValueError, match="requested an output size"):
        strided(x.float(), output_size=[40, 40])
    layer.eval()
    assert torch.equal(layer(x, output_size=[9, 9]), layer(x))


@pytest.mark.parametrize(
    ("kind", "plain_kind", "arguments"),
    [
        (MSNLinear, nn.Linear, (4, 6, False)),
        (MSNConv2d, nn.Conv2d, (4, 6, 3, 2, 1, 2, 2, False, "circular")),
        (MSNConvTranspose2d, nn.ConvTranspose2d, (4, 6, 3, 2, 1, 1, 2, False, 2)),
    ],
)
def test_all_arguments_may_be_positional_in_the_order_of_torch(
    kind: type[NormLayer], plain_kind: type[nn.Module], arguments: tuple[Any, ...]
) -> None:
    layer, plain = kind(*arguments), plain_kind(*arguments)
    assert plain.extra_repr() == layer.extra_repr()
    assert stored(layer).shape == plain.weight.shape
    assert layer.output_norm.bias is None


def test_bias_says_whether_m_is_learned_and_the_layer_itself_never_has_one() -> None:
    with_offset, without = MSNConv2d(4, 6, 3), MSNConv2d(4, 6, 3, bias=False)
    assert with_offset.bias is without.bias is None
    assert with_offset.output_norm.bias.tolist() == [0] * 6
    assert without.output_norm.bias is None
    assert sum(p.numel() for p in with_offset.parameters()) == 4 * 6 * 9 + 6
    assert sum(p.numel() for p in without.parameters()) == 4 * 6 * 9


def test_dtype_is_taken_as_torch_takes_it() -> None:
    layer = MSNConv2d(4, 6, 3, dtype=torch.float64)
    assert {p.dtype for p in layer.parameters()} == {torch.float64}
    assert layer.weight_norm.u.dtype == layer.output_norm.running_mean.dtype == torch.float64
