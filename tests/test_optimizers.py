"""Optimizers of a GAN: their steps, weight decay, clipped gradients, and their checkpoints."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import same_bits, weights
from torch import Tensor, nn

from msngan.gan import GAN
from msngan.networks.conditional import ConditionalBatchNorm2d
from msngan.networks.optimizers import OPTIMIZERS, make_optimizer
from msngan.norms import convert
from msngan.runs.checkpoint_files import MOMENTS, read_checkpoint
from msngan.runs.folder import UserError

LR, BETAS = 0.1, (0.5, 0.75)
# The first step from 1 with the gradients 4 and -2, by hand: in the direction of the gradient's
# sign (Adam's corrected averages are g and g^2); divided by sqrt((1 - 0.75) g^2); along g.
FIRST = {"adam": (LR, LR), "adamw": (LR, LR), "rmsprop": (2 * LR, 2 * LR), "sgd": (0.4, 0.2)}
# After a second step with the same gradients. rmsprop: the average is 0.25 g^2 and then
# (0.75 * 0.25 + 0.25) g^2; sgd: the momentum is g and then 0.5 g + g.
SECOND = {
    **dict.fromkeys(("adam", "adamw"), (2 * LR, 2 * LR)),
    "rmsprop": (LR * (2 + 0.4375**-0.5),) * 2,
    "sgd": (LR * 4 * 2.5, LR * 2 * 2.5),
}


def column(*values: float) -> nn.Linear:
    """A linear layer with these weights, (n, 1), and as many biases of 1; float64."""
    layer = nn.Linear(1, len(values)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values)[:, None])
        layer.bias.fill_(1)
    return layer


def set_gradients(layer: nn.Linear, weight: list[float], bias: float = 0) -> None:
    layer.weight.grad = torch.tensor(weight, dtype=torch.float64)[:, None]
    layer.bias.grad = torch.full_like(layer.bias, bias)


def close(found: Tensor, wanted: Any) -> None:
    wanted = torch.tensor(wanted, dtype=torch.float64)
    torch.testing.assert_close(found.detach().flatten(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.quick
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_two_steps_are_those_worked_out_by_hand(name):
    layer = column(1, 1)
    optimizer = make_optimizer(layer, LR, BETAS, name)
    for moved in (FIRST[name], SECOND[name]):
        set_gradients(layer, [4, -2])
        optimizer.step()
        close(layer.weight, [1 - moved[0], 1 + moved[1]])
        close(layer.bias, [1, 1])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weight_decay_is_added_to_the_gradient_and_in_adamw_taken_from_the_weight(name):
    decayed, plain = column(2, -3), column(2, -3)
    for layer, decay in ((decayed, 0.25), (plain, 0.0)):
        optimizer = make_optimizer(layer, LR, BETAS, name, decay)
        added = 0.25 * layer.weight.detach().flatten() if layer is plain else torch.zeros(2)
        if name == "adamw":
            added = torch.zeros(2)
        set_gradients(layer, (torch.tensor([1.0, 1.0]) + added).tolist(), 1)
        optimizer.step()
    wanted = plain.weight.detach().flatten()
    if name == "adamw":
        wanted = wanted - LR * 0.25 * torch.tensor([2.0, -3.0])
    close(decayed.weight, wanted.tolist())
    assert torch.equal(decayed.bias, plain.bias)


@pytest.mark.filterwarnings("error:convert")  # gains of classes are no weight without a norm
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradients_weight_decay_moves_weights_of_layers_and_nothing_that_a_norm_learns(
    name,
):
    layers = [nn.Conv2d(1, 2, 3), ConditionalBatchNorm2d(2, 3), nn.Embedding(3, 2), nn.Linear(2, 1)]
    network = convert(nn.Sequential(*layers), "mean_spectral", head="3", layers=[0, 2], gain=True)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1)
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    optimizer = make_optimizer(network, LR, BETAS, name, 0.5)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    after = dict(network.named_parameters())
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        *("0.weight", "2.weight", "3.weight")
    }
    kept = {"0.output_norm.weight", "0.output_norm.bias", "1.gain", "1.offset", "3.bias"}
    assert kept <= before.keys()


def test_gradients_are_scaled_to_the_largest_norm_of_the_whole_network_and_smaller_ones_stay():
    for gradient, moved in (([3.0, 0.0], [0.6, 0.0, 0.8]), ([0.3, 0.0], [0.3, 0.0, 0.4])):
        layer = column(0, 0)
        optimizer = make_optimizer(layer, 1.0, (0.0, 0.9), "sgd", gradient_clip=1.0)
        set_gradients(layer, gradient)
        layer.bias.grad[0] = 4 if gradient[0] == 3 else 0.4  # a norm of 5, or 0.5
        optimizer.step()
        close(layer.weight, [-moved[0], -moved[1]])
        close(layer.bias, [1 - moved[2], 1])


def test_each_network_of_a_run_is_clipped_by_itself(tiny):
    options = ["--model.optimizer", "sgd", "--model.generator_betas", "[0, 0.9]", "--steps", "1"]
    options += ["--model.critic_betas", "[0, 0.9]", "--model.ema_decay", "0"]
    options += [
        "--model.generator_lr",
        "1",
        "--model.critic_lr",
        "1",
        "--trainer.precision",
        "64-true",
    ]
    still = weights(tiny("still", *options, "--model.gradient_clip", "1e-30"))
    first = weights(tiny("first", *options, "--model.gradient_clip", "1e-5"))
    for network in ("generator", "critic"):
        names = [n for n in still if n.startswith(network) and "weight_norm" not in n]
        names = [n for n in names if "running" not in n and "tracked" not in n]
        moved = torch.cat([(first[n] - still[n]).flatten() for n in names])
        assert 0.99e-5 < float(moved.norm()) <= 1e-5


def test_the_order_of_an_optimizer_s_state_does_not_depend_on_weight_decay():
    gan = GAN(width=1, latent_dim=2, size=8)
    orders = [
        [
            id(p)
            for group in make_optimizer(gan.critic, LR, BETAS, "adam", w).param_groups
            for p in group["params"]
        ]
        for w in (0.0, 0.1)
    ]
    assert orders[0] == orders[1] == [id(p) for p in gan.critic.parameters()]
    groups = make_optimizer(gan.critic, LR, BETAS, "adam").param_groups
    assert len(groups) == 1  # as in the checkpoints of older versions


def test_weight_decay_may_begin_and_end_within_a_run_and_is_said(tiny, run, capfd):
    tiny("mine", "--steps", "1")
    capfd.readouterr()
    assert run("resume", "mine", "--steps", "2", "--model.weight_decay", "0.5") == 0
    assert "weight_decay: 0.0 -> 0.5" in capfd.readouterr().err
    assert run("resume", "mine", "--steps", "3", "--model.weight_decay", "0") == 0
    steps = read_checkpoint(Path("checkpoints/mine/last.ckpt"))["optimizer_states"]
    assert {float(each["step"]) for each in steps[0]["state"].values()} == {3}


def test_adamw_without_weight_decay_is_adam_and_goes_on_with_its_averages(tiny, run):
    whole = weights(tiny("whole", "--steps", "2"))
    folder = tiny("mine", "--steps", "1")
    assert run("resume", "mine", "--steps", "2", "--model.optimizer", "adamw") == 0
    assert same_bits(weights(folder), whole)


def test_a_run_does_not_go_on_with_an_optimizer_that_keeps_something_else(tiny, refused):
    tiny("mine", "--steps", "2")
    for other in OPTIMIZERS:
        if MOMENTS[other] != MOMENTS["adam"]:
            line = refused("resume", "mine", "--steps", "4", "--model.optimizer", other)
            assert f"was trained with optimizer adam, the config says {other}" in line


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name != "adamw"])
def test_a_checkpoint_whose_optimizer_does_not_hold_what_it_says_is_refused(tiny, name):
    path = tiny("mine", "--steps", "1", "--model.optimizer", name) / "last.ckpt"
    sound = torch.load(path, weights_only=True)
    (kept,) = {frozenset(each["state"][0]) for each in sound["optimizer_states"]}
    assert kept == MOMENTS[name]
    for key, value in itertools.product(kept, ("x", "gone")):
        broken = copy.deepcopy(sound)
        entry = broken["optimizer_states"][1]["state"][0]
        entry[key] = value
        if value == "gone":
            del entry[key]
        torch.save(broken, path)
        with pytest.raises(UserError, match=r"is not a valid checkpoint: .*optimizer"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--model.optimizer", "adan"],
            "--model.optimizer: unknown value 'adan' (did you mean 'adam'",
        ),
        (["--model.weight_decay", "-1"], "--model.weight_decay -1.0 is less than 0"),
        (["--model.gradient_clip", "0"], "--model.gradient_clip 0.0 is not a positive number"),
        (["--model.init", "xavir"], "--model.init: unknown value 'xavir' (did you mean 'xavier'"),
        (["--model.init_gain", "2"], "--model.init_gain 2.0 with --model.init own: each network's"),
    ],
    ids=str,
)
def test_bad_options_are_one_line(refused, options, words):
    assert words in refused("fit", "--config", "digits_msn", *options)
