"""State dicts of plain layers, of torch's spectral norms and of older versions, in normed layers.

And what PyTorch tests of its own spectral norm, here of `spectral` and the norms built on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as hooked

from msngan.norms import NORMS, convert, fold, stored

every_norm = pytest.mark.parametrize("norm", sorted(NORMS))
KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(3, 6, 3), (5, 3, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 6, 3), (5, 3, 6, 6)),
    "linear": (lambda: nn.Linear(7, 6), (5, 7)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
FORMS = {"hooks": hooked, "parametrization": parametrizations.spectral_norm}
every_form = pytest.mark.parametrize("form", FORMS)


def close(a: Any, b: Any, rtol: float = 1e-6, atol: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def network(norm: str) -> nn.Module:
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 4, 2), nn.Flatten(), nn.Linear(196, 2)
    )
    return convert(net, norm, head="4")


def images() -> Tensor:
    return torch.randn(5, 3, 8, 8)


# torch's states.


@every_kind
@every_form
def test_a_layer_reads_the_state_of_torch_s_spectral_norm(form, kind):
    make, shape = KINDS[kind]
    theirs, x = FORMS[form](make()), torch.randn(shape)
    for _ in range(3):
        theirs(x)
    ours = convert(make(), "spectral")
    kept = copy.deepcopy(state := theirs.state_dict())
    assert str(ours.load_state_dict(state)) == "<All keys matched successfully>"
    close(ours.eval()(x), theirs.eval()(x))
    close(fold(ours)(x), theirs(x))
    torch.testing.assert_close(state, kept, rtol=0, atol=0)  # the caller's is as it was
    ours = convert(make(), "spectral")
    ours.load_state_dict(state)
    ours(x)  # in training sigma is that of the weight again
    wanted = torch.linalg.matrix_norm(
        stored(ours).movedim(int(kind == "transposed"), 0).flatten(1), 2
    )
    close(ours.weight_norm.last_sigma, wanted.detach(), rtol=0.02)


@pytest.mark.parametrize("assign", [False, True])
@every_form
def test_a_network_reads_the_state_of_torch_s_spectral_norms(form, assign):
    def made(norm: Callable[[nn.Module], nn.Module]) -> nn.Module:
        body = nn.Sequential(norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4))
        return nn.Sequential(body, nn.Flatten(), norm(nn.Linear(144, 2)))

    theirs, x = made(FORMS[form]), images()
    theirs(x)
    ours = convert(made(lambda layer: layer), "spectral")
    ours.load_state_dict(theirs.state_dict(), assign=assign)
    close(ours.eval()(x), theirs.eval()(x))


@every_form
def test_mean_spectral_reads_torch_s_sigma_and_leaves_the_bias_out(form):
    theirs, x = FORMS[form](nn.Conv2d(3, 4, 3)), images()
    theirs(x)
    ours = convert(nn.Conv2d(3, 4, 3), "mean_spectral")
    ours.load_state_dict(theirs.state_dict())
    close(ours.eval()(x), theirs.eval()(x) - theirs.bias.view(-1, 1, 1))


# Plain states.


@every_norm
def test_a_plain_network_s_state_loads_and_its_norms_fit_it(norm):
    plain = network("none")
    with torch.no_grad():
        for each in plain.parameters():
            each.mul_(3)
    ours, x = network(norm), images()
    ours(x)
    ours = ours if norm.startswith("optional") else network(norm)
    ours.load_state_dict(plain.state_dict())
    for index in (0, 2, 4):
        close(stored(ours[index]), plain[index].weight)
    if norm in ("spectral", "mean_spectral", "spectral_bias", "scaled"):
        for index in (0, 2, 4):
            matrix = ours[index].weight.movedim(int(index == 2), 0).flatten(1)
            wanted = 1.4 if norm == "scaled" else 1.0
            assert torch.linalg.matrix_norm(matrix, 2).item() == pytest.approx(wanted, rel=0.02)
    if norm == "weight":  # its gains are the lengths, so that it computes the same
        close(ours(x), plain(x), rtol=1e-5)
    if NORMS[norm].cancels_bias:
        assert "0.bias" not in ours.state_dict()


# The states of the version before, which had no block, and of operators v alone.

HAD = ["spectral", "bidirectional_scaled", "spectral_clip", "optional_spectral"]


def older(net: nn.Module, norm: str) -> dict[str, Tensor]:
    """The net's state as the version before wrote it, with vectors that are not yet right."""
    state = {k: v.clone() for k, v in net.state_dict().items() if not k.endswith(".block")}
    if norm == "spectral_clip":
        state = {k: v for k, v in state.items() if not k.endswith(".last_sigma")}
    for name in list(state):
        prefix, _, last = name.rpartition(".")
        if last == "last_sigma":
            part = net.get_submodule(prefix)
            weight = stored(net.get_submodule(name.split(".")[0]))
            u = F.normalize(part.u + 0.3 * F.normalize(torch.randn_like(part.u), dim=1), dim=1)
            product = torch.bmm(u[:, None], part.matrix(weight.detach()))
            sigma = product.norm()
            state[prefix + ".u"], state[name] = u, sigma
            state[prefix + ".v"] = part.uncolumned(product[:, 0] / sigma, weight)
    return state


def computed(state: dict[str, Tensor], norm: str, x: Tensor) -> Tensor:
    """What the version before computed of an image in eval, from the state alone."""
    plain = network("none")
    for index in (0, 2, 4):
        here = f"{index}."
        own = {k.removeprefix(here): v for k, v in state.items() if k.startswith(here)}
        layer, weight = plain[index], own["weight"]
        sigmas = [v for k, v in own.items() if k.endswith("last_sigma")]
        if norm == "spectral_clip":
            given = {"weight": weight, "bias": torch.zeros_like(layer.bias)}
            product = torch.func.functional_call(layer, given, (own["weight_norm.v"],))
            sigmas = [product.norm().clamp_min(1)]
        if norm == "optional_spectral" and not own["weight_norm.on"]:
            sigmas = [torch.ones(())]
        scale = 1.4 if "scaled" in norm else 1.0
        layer.weight.data = scale * weight / torch.stack(sigmas).mean()
        layer.bias.data = own["bias"]
    return plain(x).detach()


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("norm", HAD)
def test_a_state_of_the_version_before_gives_the_function_that_it_had(norm, assign):
    net, x = network(norm), 1 + images()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    net(x)
    state = older(net, norm)
    if norm == "optional_spectral":
        state["0.weight_norm.on"] = torch.tensor(True)
        state["2.weight_norm.on"] = torch.tensor(False)
    ours = network(norm)
    ours.load_state_dict({k: v.clone() for k, v in state.items()}, assign=assign)
    close(ours.eval()(x).detach(), computed(state, norm, x), rtol=1e-4, atol=1e-5)
    ours.train()(x)
    assert torch.isfinite(ours(x)).all()


# States of another shape.


@pytest.mark.parametrize("source", ["ours", "plain", *FORMS])
@every_kind
def test_the_state_of_another_shape_is_refused_by_torch_s_error_and_changes_no_function(
    kind, source
):
    make, shape = KINDS[kind]
    layer, x = convert(make(), "mean_spectral"), torch.randn(shape)
    layer(x)
    y, before = layer.eval()(x), stored(layer).detach().clone()
    wide = {"conv": nn.Conv2d, "transposed": nn.ConvTranspose2d}.get(kind, nn.Linear)(
        *((7, 8) if kind == "linear" else (3, 8, 3))
    )
    forms = {
        **FORMS,
        "ours": lambda wide: convert(wide, "mean_spectral"),
        "plain": lambda wide: wide,
    }
    state = forms[source](wide).state_dict()
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        layer.load_state_dict(state)
    # Of one layer torch takes what fits, as v here, and the estimate is made right again.
    assert torch.equal(stored(layer), before)
    close(layer(x), y, rtol=1e-3, atol=1e-4)


# What PyTorch tests of its own.


@every_norm
def test_a_network_whose_weights_ask_for_no_gradient_computes_the_same(norm):
    net, x = network(norm), images().requires_grad_()
    net(x)
    frozen = copy.deepcopy(net).requires_grad_(False)
    close(frozen(x), net(x), rtol=1e-4, atol=1e-5)
    (made,), (wanted,) = (torch.autograd.grad(each(x).square().sum(), x) for each in (frozen, net))
    close(made, wanted, rtol=1e-4, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    plain = nn.Conv2d(3, 4, 3).requires_grad_(False)
    assert not convert(plain, norm).weight.requires_grad or norm.startswith("weight")
