"""What convert reports and refuses, and converted networks under torch's own tools."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torchvision
from conftest import COUPLED
from norm_layers import ONE_OF_EACH_KIND
from test_convert_layers import assert_unchanged
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as hooked_spectral
from torch.nn.utils import weight_norm as hooked_weight
from torch.utils.checkpoint import checkpoint

from msngan.norms import (
    NORMS,
    Centring,
    FusedSequential,
    NormLayer,
    SigmaBank,
    convert,
    fold,
    parts_of,
    statistics,
    stored,
)

every_norm = pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2)
    )


def quietly(module: nn.Module, norm: str = "spectral", **options: Any) -> nn.Module:
    return convert(module, norm, report=True, **options)[0]


def images(*shape: int) -> Tensor:
    return torch.randn(*(shape or (5, 3, 8, 8)))


def sigma_of(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().flatten(1).double(), 2))


def close(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


# What convert says.

THEIRS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "spectral hook": hooked_spectral,
    "weight hook": hooked_weight,
    "spectral parametrization": parametrizations.spectral_norm,
    "weight parametrization": parametrizations.weight_norm,
}


def with_theirs(form: str) -> nn.Sequential:
    layers = [nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 3, 2), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(147, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the old weight_norm
        for each in (net[0], net[2]):
            THEIRS[form](each)
    net(images())
    return net.eval()


@pytest.mark.parametrize("form", THEIRS)
def test_all_layers_with_a_norm_of_torch_s_are_named_and_nothing_is_changed(form):
    net = with_theirs(form)
    assert_unchanged(net, lambda: convert(net, "mean_spectral"), "0, 2; ")
    assert_unchanged(net, lambda: convert(net, "mean_spectral"), "replace=True")


@pytest.mark.parametrize("form", THEIRS)
def test_replace_takes_torch_s_norms_off_and_norms_the_weight_that_they_gave(form):
    theirs = with_theirs(form)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.ConvTranspose2d(4, 3, 2), nn.Flatten())
    plain.append(nn.Linear(147, 2)).eval()
    for index in (0, 2, 4):
        plain[index].weight.data.copy_(theirs[index].weight)
        plain[index].bias.data.copy_(theirs[index].bias)
    ours, wanted = convert(theirs, "spectral", replace=True), convert(plain, "spectral")
    x = images()
    close(ours(x), wanted(x))
    assert set(ours.state_dict()) == set(wanted.state_dict())
    assert [type(each) for each in ours] == [type(each) for each in wanted]


class Odd(nn.Module):
    """A convolution, a matrix of its own and an attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.table = nn.Parameter(torch.randn(4, 4))
        self.scale = nn.Parameter(torch.ones(4))
        self.attention = nn.MultiheadAttention(4, 2)


def test_the_report_lists_what_was_normed_left_out_and_followed():
    net = Odd()
    same, told = convert(net, "mean_spectral", report=True)
    assert same is net
    assert told.normed == ["conv", "attention", "attention.out_proj"]
    assert told.left_out == ["table"]
    assert (told.followed, told.removed) == (["norm"], [])


def test_without_a_report_one_warning_each_says_what_was_left_out_and_what_follows():
    with pytest.warns(UserWarning, match="norm") as caught:
        convert(Odd(), "mean_spectral")
    said = [str(each.message) for each in caught]
    assert len(said) == 2
    assert "table" in said[0]
    assert "scale" not in said[0]
    assert "norm normalise the output of 'mean_spectral' again" in said[1]
    assert all(each.filename == __file__ for each in caught)


def test_nobody_is_told_to_replace_a_layer_norm_which_cannot_be():
    with pytest.warns(UserWarning, match="norm1 normalise the output") as caught:
        convert(nn.TransformerEncoderLayer(8, 2, 8), "mean_spectral")
    (said,) = [str(each.message) for each in caught]
    assert "if they are called directly after it" in said
    assert "replace_batch_norm" not in said


class ReadsProjection(nn.Module):
    """As Swin's attention: it reads the weight of one layer, and calls the other."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.called = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(nn.functional.linear(x, self.read.weight))


@pytest.mark.parametrize("norm", ["mean_spectral", "batch", "layer"])
@pytest.mark.parametrize("copied", [True, False])
def test_the_first_pass_warns_of_an_output_part_that_it_did_not_come_by(norm, copied):
    network = convert(ReadsProjection(), norm)
    if copied:
        network = pickle.loads(pickle.dumps(copy.deepcopy(network)))
    x = torch.randn(5, 4)
    with pytest.warns(UserWarning, match="^read: the network reads the weight but never calls"):
        network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(x)
    assert not network._forward_hooks


@every_norm
def test_the_first_pass_says_nothing_where_each_layer_is_called(norm):
    fused = FusedSequential(nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.1, inplace=True))
    encoder = nn.TransformerEncoderLayer(8, 2, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        convert(encoder, norm)
        convert(fused, norm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fused(torch.randn(2, 3, 8, 8))
        encoder(torch.randn(3, 2, 8))


def test_an_output_norm_leaves_the_projections_of_an_attention_out():
    told = convert(Odd(), "mean_only", report=True)[1]
    assert told.left_out == ["table", "attention.in_proj_weight"]
    assert told.normed == ["conv", "attention.out_proj"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("norm", ["none", "spectral", "mean_spectral"])
def test_nothing_is_said_where_nothing_is_left_out(norm):
    convert(network(), norm)
    convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)), "spectral")


def test_a_resnet_s_batch_norms_are_replaced_where_they_follow_and_it_trains_and_folds():
    net = torchvision.models.resnet18(num_classes=3)
    wanted = [name for name, part in net.named_modules() if isinstance(part, nn.BatchNorm2d)]
    net, told = convert(net, "mean_spectral", head="fc", replace_batch_norm=True, report=True)
    assert sorted(told.removed) == sorted(wanted)
    assert (len(told.removed), told.followed, told.left_out) == (20, [], [])
    assert all(type(net.get_submodule(name)) is nn.Identity for name in wanted)
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    SigmaBank(net, optimizer)
    x, y = images(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    losses = []
    for _ in range(2):
        losses.append(nn.functional.cross_entropy(net(x), y))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    folded = fold(net)
    assert not any(isinstance(part, NormLayer) for part in folded.modules())
    close(folded(x), net.eval()(x), rtol=1e-4, atol=1e-5)


def test_a_batch_norm_of_another_width_or_after_an_activation_is_kept():
    parts = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)]
    net = nn.Sequential(*parts, nn.GroupNorm(2, 6), nn.Conv2d(6, 6, 1), nn.BatchNorm2d(5))
    told = convert(net, "mean_spectral", replace_batch_norm=True, report=True)[1]
    assert [type(net[i]) for i in (2, 6)] == [nn.BatchNorm2d] * 2
    assert (told.followed, told.removed) == (["4"], [])


@pytest.mark.parametrize("norm", ["mean_spectral", "mean_only", "batch", "instance"])
def test_where_torch_reads_a_cancelled_bias_it_is_a_constant_zero(norm):
    layer = quietly(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), norm)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    x = torch.randn(3, 5, 8)
    layer(x).square().sum().backward()
    optimizer.step()
    for name in ("linear1", "linear2", "self_attn.out_proj"):
        bias = layer.get_submodule(name).bias
        assert torch.equal(bias, torch.zeros_like(bias))
        assert not bias.requires_grad
        assert f"{name}.bias" not in layer.state_dict()
        assert all(bias is not p for g in optimizer.param_groups for p in g["params"])
    with torch.no_grad():
        close(layer.eval()(x), layer(x.requires_grad_()))


LAZY = {
    "conv": (lambda: nn.LazyConv2d(4, 3), (5, 3, 8, 8)),
    "transposed": (lambda: nn.LazyConvTranspose2d(4, 3), (5, 3, 8, 8)),
    "linear": (lambda: nn.LazyLinear(4), (5, 3)),
}


@pytest.mark.parametrize("norm", ["spectral", "mean_spectral"])
@pytest.mark.parametrize("kind", LAZY)
def test_a_lazy_layer_has_its_norm_from_its_first_input_on(kind, norm):
    make, shape = LAZY[kind]
    net, x = convert(nn.Sequential(make(), nn.Tanh()), norm), torch.randn(shape)
    assert not isinstance(net[0], NormLayer)
    first = net(x)
    wanted = nn.Sequential(make())
    wanted(x)
    wanted[0].load_state_dict(net[0].state_dict(), strict=False)
    convert(wanted, norm)
    assert isinstance(net[0], NormLayer)
    close(first, torch.tanh(wanted(x)), rtol=1e-4)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    SigmaBank(net, optimizer)
    assert len(optimizer.param_groups[0]["params"]) == len(list(wanted.parameters()))
    net(x).sum().backward()
    optimizer.step()


def test_the_first_pass_of_a_lazy_layer_is_under_its_operator_s_bound():
    net, x = convert(nn.Sequential(nn.LazyConv2d(4, 3)), "spectral_clip", beta=0.1), images()
    close(net(x), net(x))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64])
def test_weights_that_are_no_real_floats_are_refused_by_name(dtype):
    net = network()
    net[2].weight = nn.Parameter(torch.ones(4, 4, 3, 3).to(dtype), requires_grad=False)
    assert_unchanged(net, lambda: convert(net, "spectral"), f"2 has {dtype} weights")


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_script_refuses_in_one_clear_error():
    for net in (convert(network(), "mean_spectral"), convert(nn.Linear(3, 2), "spectral")):
        with pytest.raises(
            RuntimeError, match="torch.jit.script cannot compile Norm.*fold"
        ) as said:
            torch.jit.script(net)
        assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "msn"}, "unknown norm"),
        ({"norm": "scaled", "scale": -1.0}, "scale must be a number above 0, got -1.0"),
        ({"norm": "spectral", "gain": True}, "no option 'gain'"),
        ({"norm": "spectral", "layers": ["x"]}, "no layer matches 'x'"),
        ({"norm": "spectral", "head": "5", "replace": True}, "no layer '5'"),
    ],
)
def test_a_refused_convert_changes_nothing(options, message):
    net = with_theirs("spectral parametrization")
    assert_unchanged(net, lambda: convert(net, **options, replace_batch_norm=True), message)


# SigmaBank and copies.


def test_an_optimizer_from_before_convert_or_of_another_network_is_refused_by_name():
    net = network()
    early = torch.optim.SGD(net.parameters(), 0.1)
    convert(net, "mean_spectral")
    with pytest.raises(ValueError, match=r"0.output_norm.bias, 2.output_norm.bias.* make it after"):
        SigmaBank(net, early)
    other = torch.optim.SGD(network().parameters(), 0.1)
    with pytest.raises(ValueError, match=r"0.weight.*of the network"):
        SigmaBank(net, other)
    assert not any(part.managed for _, _, part in parts_of(net))
    net[0].weight_norm.requires_grad_(False)
    stored(net[4]).requires_grad_(False)  # one that asks for no gradient need not be held
    held = [p for p in net.parameters() if p.requires_grad]
    SigmaBank(net, torch.optim.SGD(held, 0.1))


# Activation checkpointing.


def steps(norm: str, bank: str, how: bool | None, passes: int) -> dict[str, Tensor]:
    """Gradients and buffers of two steps; how: use_reentrant, None without checkpointing."""
    torch.manual_seed(1)
    net = convert(network().double(), norm)
    optimizer = torch.optim.SGD(net.parameters(), 0.3)
    banked = SigmaBank(net, optimizer) if bank != "none" else None
    made = [images().double().requires_grad_() for _ in range(passes)]
    found: dict[str, Tensor] = {}

    def run(x: Tensor) -> Tensor:
        return net(x) if how is None else checkpoint(net, x, use_reentrant=how)

    def losses() -> Tensor:
        return sum((run(x).square() * (i + 1)).sum() for i, x in enumerate(made))

    for step in range(2):
        optimizer.zero_grad()
        if banked is None:
            losses().backward()
        elif bank == "inside":
            with banked.shared():
                losses().backward()
        else:
            with banked.shared():
                loss = losses()
            loss.backward()
        found |= {f"{step} {name}": p.grad.clone() for name, p in net.named_parameters()}
        optimizer.step()
    found |= {name: value.clone() for name, value in net.state_dict().items()}
    return found | {f"x{i}": x.grad for i, x in enumerate(made)}


@pytest.mark.parametrize(
    ("norm", "reentrant", "passes"),
    [(n, r, 2) for n in ("mean_spectral", "bidirectional", "weight_mean") for r in (True, False)]
    + [("spectral_clip", True, 1), ("spectral_clip", False, 2)],
)
@pytest.mark.parametrize("bank", ["none", "inside", "after"])
def test_activation_checkpointing_changes_no_gradient_and_no_buffer(norm, bank, reentrant, passes):
    wanted = steps(norm, bank, None, passes)
    close(steps(norm, bank, reentrant, passes), wanted, rtol=1e-8, atol=1e-10)


# The meta device.


@every_norm
def test_a_network_converted_on_the_meta_device_reads_a_state(norm):
    good, x = convert(network(), norm, head="4"), images()
    good(x)
    state = good.state_dict()
    for assign in (True, False):
        with torch.device("meta"):
            net = convert(network(), norm, head="4")
        assert all(value.is_meta for value in net.state_dict().values())
        assert net(torch.empty(5, 3, 8, 8, device="meta")).shape == (5, 2)
        net = net if assign else net.to_empty(device="cpu")
        net.load_state_dict(copy.deepcopy(state), assign=assign)
        assert torch.equal(net.eval()(x), good.eval()(x))
        good.train()
        close(net.train()(x), good(x), rtol=1e-4)
        good.load_state_dict(state)


# torch.func and forward-mode AD.

# What training under transforms says where a norm would have to write its state.
OURS, TORCHS = "running means cannot be updated.*eval", "(?i)in-place"
CENTRED = {norm for norm in COUPLED if isinstance(NORMS[norm].output(nn.Linear(1, 1)), Centring)}
MOVES = {norm: OURS if norm in CENTRED else TORCHS for norm in (*COUPLED, "released_spectral")}


def double(norm: str) -> tuple[nn.Module, Tensor]:
    net, x = convert(network().double(), norm, head="4"), images().double()
    net(x)
    return net.eval(), x


@every_norm
def test_vmap_over_inputs_is_right_in_eval(norm):
    net, x = double(norm)
    close(torch.vmap(lambda each: net(each[None])[0])(x), net(x))


@every_norm
@pytest.mark.parametrize("training", [False, True])
def test_func_grad_and_functional_call_give_autograd_s_gradients(norm, training):
    net, x = double(norm)
    net.train(training)
    named = {name: p.detach().clone() for name, p in net.named_parameters()}

    def loss(named: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(net, named, (x,)).square().sum()

    if training and norm in MOVES:
        with pytest.raises(RuntimeError, match=MOVES[norm]):
            torch.func.grad(loss)(named)
        if norm == "released_spectral":
            return
        with statistics(net, "batch"):
            made = torch.func.grad(loss)(named)
            net(x).square().sum().backward()
    else:
        net(x).square().sum().backward()
        made = torch.func.grad(loss)(named)
    close(made, {name: p.grad for name, p in net.named_parameters()})


@every_norm
def test_forward_mode_gives_the_product_with_the_jacobian(norm):
    net, x = double(norm)
    tangent = torch.randn_like(x)
    wanted = torch.autograd.functional.jvp(net, x, tangent)[1]
    close(torch.func.jvp(net, (x,), (tangent,))[1], wanted)
    for training in (False, True):
        net.train(training)
        with forward_ad.dual_level(), statistics(net, "batch"):
            made = forward_ad.unpack_dual(net(forward_ad.make_dual(x, tangent))).tangent
        with statistics(net, "batch"):
            close(made, torch.autograd.functional.jvp(net, x, tangent)[1])


# Pruning and parametrizations.


def train_some(net: nn.Module, banked: bool, x: Tensor, count: int = 5) -> None:
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    bank = SigmaBank(net, optimizer) if banked else None
    for _ in range(count):
        optimizer.zero_grad()
        with nullcontext() if bank is None else bank.shared():
            loss = (net(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
    if bank is not None:
        with bank.shared():
            lent = net(x)
        close(lent, net(x), rtol=1e-3, atol=1e-4)
    net(x)


@pytest.mark.parametrize("banked", [False, True])
@pytest.mark.parametrize("when", ["before", "after", "iterative", "removed"])
@pytest.mark.parametrize("norm", ["spectral", "mean_spectral"])
def test_a_pruned_network_trains_with_sigma_1_and_folds(norm, when, banked):
    net, x = network(), images()
    if when == "before":
        prune.l1_unstructured(net[2], "weight", 0.5)
    quietly(net, norm, head="4")
    if when != "before":
        bank = SigmaBank(net) if banked else None
        prune.l1_unstructured(net[2], "weight", 0.25 if when == "iterative" else 0.5)
        if bank is not None:
            bank.update()
    if when == "iterative":
        train_some(net, banked, x)
        prune.l1_unstructured(net[2], "weight", 1 / 3)
    if when == "removed":
        prune.remove(net[2], "weight")
        assert dict(net.named_parameters())["2.weight"] is stored(net[2])
    zeros = (stored(net[2]) == 0).detach()
    assert int(zeros.sum()) == 72
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    train_some(net, banked, x)
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())
    assert all(abs(sigma_of(net[i].weight) - 1) < 0.02 for i in (0, 2, 4))
    if when != "removed":
        assert torch.equal(net[2].weight == 0, zeros)
    folded = fold(net)
    assert [type(each) for each in folded] == [type(each) for each in network()]
    assert set(folded[2].state_dict()) == {"weight", "bias"}
    close(folded(x), net.eval()(x), rtol=1e-4)


PARAMETRIZED = {
    "weight_norm": parametrizations.weight_norm,
    "orthogonal": parametrizations.orthogonal,
}


@pytest.mark.parametrize("banked", [False, True])
@pytest.mark.parametrize("kind", PARAMETRIZED)
@pytest.mark.parametrize("norm", ["mean_spectral", "scaled"])
def test_a_parametrization_over_a_normed_weight_leaves_the_norm_on_top(norm, kind, banked):
    net, x = convert(network(), norm, head="4"), images()
    kinds = [type(each) for each in net]
    PARAMETRIZED[kind](net[2])
    originals = [p for name, p in net.named_parameters() if ".parametrizations." in name]
    before = [p.detach().clone() for p in originals]
    assert originals
    train_some(net, banked, x)
    assert all(not torch.equal(a, b) for a, b in zip(originals, before, strict=True))
    assert sigma_of(net[2].weight) == pytest.approx(1.4 if norm == "scaled" else 1, rel=0.02)
    made = stored(net[2])
    close(net[2].weight * sigma_of(made), made * sigma_of(net[2].weight), rtol=0.02, atol=1e-3)
    y, folded = net.eval()(x), fold(net)
    assert type(folded[2]) is nn.Conv2d
    assert set(folded[2].state_dict()) == {"weight", "bias"}
    close(folded(x), y, rtol=1e-4)
    parametrize.remove_parametrizations(net[2], "weight")
    assert [type(each) for each in net] == kinds
    close(net(x), y, rtol=1e-4)
    assert "2.weight" in dict(net.named_parameters())
    train_some(net.train(), banked, x, 2)


@every_norm
def test_a_replica_as_data_parallel_makes_it_computes_the_same(norm):
    """Each module by `_replicate_for_data_parallel`, its tensors set as plain attributes."""
    net, x = convert(network(), norm, head="4"), images()
    net(x)
    net.eval()
    copies = {each: each._replicate_for_data_parallel() for each in net.modules()}
    for module, replica in copies.items():
        for name, child in module._modules.items():
            replica._modules[name] = None if child is None else copies[child]
        for name, parameter in module._parameters.items():
            setattr(replica, name, None if parameter is None else parameter.clone())
        for name, buffer in module._buffers.items():
            replica._buffers[name] = buffer.clone()
    replica = copies[net]
    assert torch.equal(replica(x), net(x))
    (replica(x) ** 2).sum().backward()
    made = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    (net(x) ** 2).sum().backward()
    close(made, [p.grad for p in net.parameters()])
