"""A norm goes on the layers that are chosen, with its options, and on no other."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msngan.networks import Critic
from msngan.norms import NORMS, Norm, NormLayer, SpectralNorm, convert, select

NAMES = ["body.0", "body.2", "tail.up", "head"]
RELEASED: dict[str, Any] = {
    "norm_layers": [3, 5, 6],
    "other_norm": "spectral",
    "norm_options": {"gain": True},
}

every_norm = pytest.mark.parametrize("norm", sorted(NORMS))
with_norms = pytest.mark.parametrize("norm", sorted(set(NORMS) - {"none"}))


class Network(nn.Module):
    """Four layers, nested."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.tail = nn.ModuleDict({"up": nn.ConvTranspose2d(4, 2, 3)})
        self.head = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.tail["up"](self.body(x)).mean((2, 3)))


def normed(module: nn.Module) -> list[str]:
    return [name for name, part in module.named_modules() if isinstance(part, NormLayer)]


def assert_unchanged(module: nn.Module, act: Callable[[], object], message: str) -> None:
    """`act` is refused in one line and the module is as it was, object by object."""
    parts = [(part, type(part), dict(part._parameters)) for part in module.modules()]
    state = copy.deepcopy(module.state_dict())
    with pytest.raises(ValueError, match=r".") as caught:
        act()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    after = list(module.modules())
    assert len(after) == len(parts)
    for now, (part, kind, parameters) in zip(after, parts, strict=True):
        assert now is part
        assert type(now) is kind
        assert all(now._parameters[name] is parameters[name] for name in parameters)
    torch.testing.assert_close(module.state_dict(), state, rtol=0, atol=0)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, NAMES),
        ([0], ["body.0"]),
        ([-1], ["head"]),
        ([3, 1, 1], ["body.2", "head"]),
        (["body.*"], ["body.0", "body.2"]),
        (["*.2", "he?d"], ["body.2", "head"]),
        (["*"], NAMES),
        (["Conv2d"], ["body.0", "body.2"]),
        (["ConvTranspose2d", "Linear"], ["tail.up", "head"]),
        (["!head"], NAMES[:3]),
        (["!Conv2d", "!head"], ["tail.up"]),
        (["!body.0", "body.*", -1], ["body.2", "head"]),
        (("tail.up",), ["tail.up"]),
    ],
    ids=str,
)
def test_the_layers_that_an_item_selects_get_the_norm_and_the_others_are_left(layers, expected):
    network = Network()
    before = {name: network.get_submodule(name) for name in NAMES}
    plain = copy.deepcopy(before)
    assert convert(network, "mean_spectral", layers=layers) is network
    assert normed(network) == expected
    for name in NAMES:
        assert network.get_submodule(name) is before[name]
        if name not in expected:
            assert type(before[name]) is type(plain[name])
            torch.testing.assert_close(
                before[name].state_dict(), plain[name].state_dict(), rtol=0, atol=0
            )
    network(torch.randn(5, 3, 8, 8)).sum().backward()


@pytest.mark.parametrize("layers", [None, [0], [-1], ["*"], [""], ["Linear"], ["!Conv2d*", 0]])
def test_a_module_that_is_a_layer_is_its_own_only_layer(layers):
    layer = nn.Linear(4, 6)
    if layers == ["!Conv2d*", 0]:
        refuse = partial(convert, layer, "spectral", layers=layers)
        assert_unchanged(layer, refuse, "the layers are (the module itself)")
        return
    assert convert(layer, "mean_spectral", layers=layers) is layer
    assert normed(layer) == [""]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        *(([name], ["first"]) for name in ("first", "second", 0, "!third")),
        (["first", "second"], ["first"]),
        (["!second"], ["third"]),
    ],
)
def test_a_shared_layer_goes_by_any_of_its_names_and_is_converted_once(layers, expected):
    shared = nn.Linear(4, 4)
    network = nn.ModuleDict({"first": shared, "second": shared, "third": nn.Linear(4, 4)})
    convert(network, "mean_spectral", layers=layers, head="second")
    assert network["first"] is network["second"]
    assert normed(network) == expected
    assert not isinstance(getattr(shared, "weight_norm", None), NormLayer)
    assert getattr(shared, "output_norm", None) is None
    assert hasattr(network["third"], "output_norm") == (expected == ["third"])


@pytest.mark.parametrize("layers", [None, [0, 1], ["Conv2d"]])
def test_a_layer_with_a_norm_is_refused_by_name(layers):
    network = convert(Network(), "spectral", layers=[1])
    refuse = partial(convert, network, "mean_spectral", layers=layers)
    assert_unchanged(network, refuse, "layers that already have a norm: body.2; leave them out")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([4], "there is no layer 4; the layers are 0 to 3, or -4 to -1 from the end"),
        ([0, -5], "there is no layer -5"),
        (["boby.*"], "no layer matches 'boby.*' (did you mean 'body."),
        (["body.0", "heed"], "no layer matches 'heed' (did you mean 'head'?); the layers are"),
        (["body"], "no layer matches 'body' (did you mean 'body.*'?)"),
        (["conv2d"], "no layer matches 'conv2d' (did you mean 'Conv2d'?)"),
        (["Conv3d"], "their classes are Conv2d, ConvTranspose2d, Linear"),
        (["!heed"], "no layer matches '!heed' (did you mean 'head'?)"),
        (["head", "!head"], "layers ['head', '!head'] leave no layer"),
        (["!*"], "leave no layer"),
        ([], "layers []: give a list"),
        ("head", "layers 'head': give a list"),
        ([1.5], "layers: 1.5 is not an index, a pattern of names or a class name"),
        ([True], "layers: True is not an index"),
    ],
    ids=str,
)
def test_an_item_that_selects_nothing_is_named_with_what_there_is(layers, message):
    network = Network()
    refuse = partial(convert, network, "mean_spectral", layers=layers)
    assert_unchanged(network, refuse, message)


def test_a_long_list_of_layers_is_cut():
    network = nn.Sequential(*(nn.Linear(1, 1) for _ in range(20)))
    refuse = partial(convert, network, "spectral", layers=["x"])
    assert_unchanged(network, refuse, "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 8 more;")


def test_a_network_without_layers_is_refused():
    refuse = partial(convert, nn.ReLU(), "spectral")
    assert_unchanged(
        nn.ReLU(), refuse, "ReLU has no layer to put a norm on: none with a weight matrix"
    )


@pytest.mark.parametrize("kind", ["Own", "Linear", "0"])
def test_a_subclass_of_a_layer_is_chosen_by_its_name_and_by_that_of_its_base(kind):
    class Own(nn.Linear):
        """May compute something else."""

    network = convert(nn.Sequential(Own(4, 4), nn.Conv2d(4, 4, 1)), "spectral", layers=[kind])
    assert normed(network) == ["0"]
    assert isinstance(network[0], Own)


def test_an_unknown_head_is_refused_and_a_head_that_is_not_chosen_is_left():
    network = Network()
    refuse = partial(convert, network, "mean_spectral", layers=[0], head="body")
    assert_unchanged(network, refuse, "no layer 'body' to be the head; layers are body.0,")
    convert(network, "mean_spectral", layers=[0], head="head")
    assert type(network.head) is nn.Linear


def test_a_norm_that_refuses_one_layer_changes_none(monkeypatch):
    def picky(layer: nn.Module, name: str) -> nn.Module:
        if isinstance(layer, nn.Linear):
            raise ValueError("no linear layers")
        return SpectralNorm.of(layer, name)

    monkeypatch.setitem(NORMS, "picky", Norm(weight=picky))
    network = Network()
    assert_unchanged(network, partial(convert, network, "picky"), "no linear layers")
    convert(network, "picky", layers=["!Linear"])
    assert normed(network) == NAMES[:3]


class TestOptions:
    @every_norm
    def test_an_unknown_one_is_named_with_the_norm_and_the_known_ones(self, norm):
        make = NORMS[norm].options
        known = ", ".join(signature(make).parameters) if make else ""
        network = Network()
        for name, value in (("nonsense", 1), ("weight", 1), ("norm_options", {})):
            refuse = partial(convert, network, norm, **{name: value})
            assert_unchanged(network, refuse, f"norm {norm!r} has no option {name!r}")
            assert_unchanged(network, refuse, f"its options are {known}" if known else "has none")

    @pytest.mark.parametrize("norm", sorted(name for name in NORMS if NORMS[name].options))
    def test_the_defaults_by_name_are_the_norm_itself(self, norm):
        make = NORMS[norm].options
        assert make is not None
        given = {name: each.default for name, each in signature(make).parameters.items()}
        torch.manual_seed(0)
        itself = convert(Network(), norm)
        torch.manual_seed(0)
        named = convert(Network(), norm, **given)
        torch.testing.assert_close(itself.state_dict(), named.state_dict(), rtol=0, atol=0)
        assert repr(itself) == repr(named)

    @pytest.mark.parametrize(
        ("kind", "value", "right"),
        [
            (float, "big", False),
            (float, True, False),
            (float, None, False),
            (float, 2, True),
            (int, 2.0, False),
            (int, 2, True),
            (bool, 1, False),
            (bool, False, True),
            (str, 1, False),
            (float | None, None, True),
            (float | None, 2, True),
            (float | None, "big", False),
        ],
    )
    def test_a_value_of_another_type_is_refused(self, monkeypatch, kind, value, right):
        def made(size=None) -> Norm:  # type: ignore[no-untyped-def]  # noqa: ANN001
            return Norm(weight=SpectralNorm.of, options=made)

        made.__annotations__["size"] = kind
        monkeypatch.setitem(NORMS, "made", made())
        network = Network()
        if right:
            convert(network, "made", size=value)
            assert normed(network) == NAMES
        else:
            refuse = partial(convert, network, "made", size=value)
            assert_unchanged(network, refuse, "norm 'made': option size is of type ")
            assert_unchanged(network, refuse, f", not {value!r}")


class TestCritic:
    @pytest.mark.parametrize("twice", [False, True])
    def test_the_released_form_has_msn_with_gain_on_three_layers_and_sn_on_the_rest(self, twice):
        critic = Critic("none", 2) if twice else Critic(width=2, **RELEASED)
        if twice:
            convert(critic, "mean_spectral", layers=[3, 5, 6], gain=True)
            convert(critic, "spectral", layers=[0, 1, 2, 4, -1])
        layers = list(select(critic).values())
        assert len(layers) == 8
        for index, layer in enumerate(layers):
            assert isinstance(layer.weight_norm, SpectralNorm)
            assert (layer.output_norm is not None) == (index in (3, 5, 6))
            assert (layer.bias is None) == (index in (3, 5, 6))
        assert layers[5].output_norm.weight is not None
        critic(torch.randn(5, 3, 32, 32)).sum().backward()

    def test_biases_are_kept_on_request_under_both_norms_and_the_head_gets_no_output_part(self):
        critic = Critic("mean_spectral", 1, norm_layers=[0], other_norm="batch", conv_bias=True)
        assert all(layer.bias is not None for layer in select(critic).values())
        critic = Critic("mean_spectral", 1, norm_layers=[0], other_norm="batch")
        assert [layer.bias is None for layer in select(critic).values()] == [True] * 7 + [False]
        for each in (critic, Critic("mean_spectral", 1, norm_layers=[7, 0])):
            assert getattr(each.head, "output_norm", None) is None

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"norm_options": {"head": "x"}}, "norm 'mean_spectral' has no option 'head'"),
            ({"norm_options": {"gain": 3}}, "option gain is of type bool, not 3"),
            ({"norm_layers": [8]}, "there is no layer 8"),
            ({"other_norm": "batch", "norm_layers": ["*"]}, "other_norm 'batch' has no layer"),
            ({"other_norm": "msn"}, "unknown norm 'msn'"),
        ],
        ids=str,
    )
    def test_what_cannot_be_is_refused(self, options, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            Critic(width=1, **options)
