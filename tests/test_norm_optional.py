"""Optional spectral norm: when the gates switch, what that leaves as it was, and what is logged."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import same_bits, weights
from norm_layers import LAYERS, exact_sigma
from torch import Tensor, nn

from msngan.norms import (
    OptionalSpectralNorm,
    SigmaBank,
    configured,
    convert,
    follow,
    normalise,
    stored,
)

Tiny = Callable[..., Path]
# Thresholds at which the gates of a tiny critic switch within a few steps.
LIVELY = {
    "sigma": {"on": 1.0005, "off": 0.9, "start": True},
    "gradient_norm": {"on": 1.3, "off": 1.2, "memory": 2},
    "random": {"on": 0.8, "off": 0.3},
}
every_criterion = pytest.mark.parametrize("criterion", sorted(LIVELY))


def gated(layer: nn.Module, **options: Any) -> tuple[nn.Module, OptionalSpectralNorm]:
    """The layer under the norm, and its gate, which only `iterate` decides."""
    normalise(layer, configured("optional_spectral", options))
    gate = layer.weight_norm
    assert isinstance(gate, OptionalSpectralNorm)
    gate.managed = True
    return layer, gate


def of_sigma(sigma: float, **options: Any) -> tuple[nn.Module, OptionalSpectralNorm]:
    """A float64 linear layer whose weight has that largest singular value, and its gate."""
    layer = nn.Linear(4, 6).double()
    layer.weight.data *= sigma / torch.linalg.svdvals(layer.weight.detach())[0]
    layer, gate = gated(layer, **options)
    return layer, gate


def set_gradient(weight: Tensor, norm: float) -> None:
    gradient = torch.randn_like(weight)
    weight.grad = norm * gradient / gradient.norm()


def test_off_is_the_plain_layer_and_on_is_the_layer_with_sigma_one():
    layer, _ = of_sigma(3.0)
    x = torch.randn(5, 4, dtype=torch.float64)
    assert torch.equal(layer(x), nn.functional.linear(x, stored(layer), layer.bias))
    layer, _ = of_sigma(3.0, start=True)
    expected = nn.functional.linear(x, stored(layer) / 3, layer.bias)
    torch.testing.assert_close(layer(x), expected)


def test_by_sigma_a_gate_goes_on_above_one_threshold_and_off_below_the_other():
    layer, gate = of_sigma(1.05)
    seen = []
    for sigma in (1.05, 1.2, 1.0, 0.95, 0.8):
        stored(layer).data *= sigma / exact_sigma(layer, stored(layer).detach()).item()
        gate.iterate(stored(layer))
        seen.append(bool(gate.on))
    assert seen == [False, True, True, True, False]
    assert exact_sigma(layer, stored(layer).detach()).item() == pytest.approx(
        1
    )  # 0.8 is in the weight now
    assert gate.estimate.last_sigma.item() == 1
    for growth, on in ((1.09, False), (1.02, True)):
        stored(layer).data *= growth
        gate.iterate(stored(layer))
        assert bool(gate.on) == on
    assert [d["on"] for d in gate.decisions] == [True, False, True]
    assert [d["value"] for d in gate.decisions] == pytest.approx([1.2, 0.8, 1.09 * 1.02])
    assert [d["sigma"] for d in gate.decisions] == pytest.approx([1.2, 0.8, 1.09 * 1.02])


def test_by_gradient_norm_a_gate_goes_by_the_ratio_to_the_running_average():
    layer, gate = of_sigma(4.0, criterion="gradient_norm", memory=4)
    gate.iterate(stored(layer))  # no gradient, nothing to see
    assert gate.count.item() == 0
    # The plain mean of the first four, then a quarter of each new one.
    averages = [1.0, 5.0, 4.0, 3.5, 4.25, 6.1875]
    for norm, average in zip([1.0, 9.0, 2.0, 2.0, 6.5, 12.0], averages, strict=True):
        assert not gate.on  # 9 is far above the first, but four are to be seen first
        set_gradient(stored(layer), norm)
        gate.iterate(stored(layer))
        assert gate.average.item() == pytest.approx(average)
    assert gate.on
    set_gradient(stored(layer), 1.6)  # in W / sigma that is 6.4, above the average
    gate.iterate(stored(layer))
    assert gate.on
    set_gradient(stored(layer), 1.5)
    gate.iterate(stored(layer))
    assert not gate.on
    values = [d["value"] for d in gate.decisions]
    assert values == pytest.approx([12 / 4.25, 6 / (0.75 * 6.1875 + 0.25 * 6.4)])
    assert [d["sigma"] for d in gate.decisions] == pytest.approx([4, 4])


def test_random_gates_are_on_for_their_share_and_each_draws_its_own():
    network = convert(nn.Sequential(*[nn.Linear(2, 2) for _ in range(8)]), "none")
    gates = [gated(layer, criterion="random", on=0.6, off=0.2)[1] for layer in network]
    history = []
    for _ in range(500):
        for layer, gate in zip(network, gates, strict=True):
            gate.iterate(stored(layer))
        history.append([bool(gate.on) for gate in gates])
    states = torch.tensor(history, dtype=torch.float64)
    assert states.mean().item() == pytest.approx(0.4 / 0.6, abs=0.04)
    changes = (states[1:] - states[:-1]).abs().mean().item()
    assert changes == pytest.approx(2 * 0.4 * 0.2 / 0.6, abs=0.03)
    assert torch.corrcoef(states.T).fill_diagonal_(0).abs().max() < 0.25


def test_gates_take_nothing_from_the_stream_that_initialises_networks():
    convert(nn.Sequential(nn.Linear(3, 3)), "spectral")
    after = torch.rand(())
    torch.manual_seed(0)
    gated(nn.Linear(3, 3), criterion="random")
    assert torch.equal(after, torch.rand(()))


@pytest.mark.parametrize("kind", LAYERS)
def test_switching_off_does_not_change_what_the_layer_computes(kind):
    make, shape = LAYERS[kind]
    plain, x = make(), torch.randn(shape)
    plain.weight.data *= 0.1  # sigma is below the threshold
    layer, gate = gated(plain, start=True)
    stays = copy.deepcopy(layer)
    stays.weight_norm.below, stays.weight_norm.managed = 0.0, True
    version = stored(layer)._version
    for each in (layer, stays):
        each.weight_norm.iterate(stored(each))
    assert not gate.on
    assert stays.weight_norm.on
    assert stored(layer)._version > version
    torch.testing.assert_close(layer(x), stays(x), rtol=1e-6, atol=1e-6)
    assert not torch.allclose(stored(layer), stored(stays))


ADAPTIVE: dict[str, partial[torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, betas=(0.5, 0.9)),
    "amsgrad": partial(torch.optim.Adam, betas=(0.5, 0.9), amsgrad=True),
    "rmsprop": partial(torch.optim.RMSprop, alpha=0.9, momentum=0.5, centered=True),
}
SGD = partial(torch.optim.SGD, momentum=0.5)


@pytest.mark.parametrize("optimizer", [*ADAPTIVE, "sgd"])
@pytest.mark.parametrize(("sigma", "start"), [(0.5, True), (3.0, False)], ids=["off", "on"])
def test_an_optimizer_goes_on_as_if_it_had_always_seen_the_gradients_of_the_new_weight(
    sigma, start, optimizer
):
    # The step of Adam and RMSprop does not depend on the gradients' scale, and that of SGD is
    # proportional to it. If what they keep of them is rescaled with them, the step after a switch
    # is the one without it, or in proportion.
    make = partial(ADAPTIVE[optimizer], eps=1e-12) if optimizer in ADAPTIVE else SGD
    switched, gate = of_sigma(sigma, start=start)
    stays = copy.deepcopy(switched)
    stays.weight_norm.above, stays.weight_norm.below = 1e9, 0.0
    pairs = []
    for layer in (switched, stays):
        layer.weight_norm.managed = True
        optimizer = make([stored(layer)], lr=1e-3)
        follow([layer.weight_norm], optimizer)
        pairs.append((layer, optimizer))
    gradients = [torch.randn(6, 4).double() for _ in range(3)]
    for gradient in gradients:
        for layer, optimizer in pairs:
            stored(layer).grad = gradient.clone()
            optimizer.step()
    for layer, _ in pairs:
        layer.weight_norm.iterate(stored(layer))
    assert bool(gate.on) != start
    assert bool(stays.weight_norm.on) == start
    sigma = gate.decisions[0]["sigma"]
    factor = 1 / sigma if gate.on else sigma
    before = [stored(layer).detach().clone() for layer, _ in pairs]
    for (layer, optimizer), scale in zip(pairs, (factor, 1.0), strict=True):
        stored(layer).grad = scale * gradients[0]
        optimizer.step()
    steps = [stored(layer) - old for (layer, _), old in zip(pairs, before, strict=True)]
    wanted = steps[1] * (1 if make is not SGD else factor)
    torch.testing.assert_close(steps[0], wanted, rtol=1e-6, atol=1e-12)
    other = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    gate.rescale = None
    follow([gate], other)
    gate.rescale(stored(switched), 2.0)  # a weight that this optimizer does not hold
    assert not other.state


def test_evaluation_decides_nothing():
    layer, gate = of_sigma(5.0)
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    gate.managed = False
    layer(torch.randn(2, 4, dtype=torch.float64))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    gate.iterate(stored(layer))
    assert not gate.on
    assert gate.decisions == []


@every_criterion
def test_a_bank_decides_once_per_update_and_forwards_do_not(criterion):
    network = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    for layer in network:
        gated(layer, criterion=criterion, **LIVELY[criterion])
    bank, x = SigmaBank(network), torch.randn(5, 4)
    state = copy.deepcopy(network.state_dict())
    with bank.shared():
        (network(x).square().sum() + network(-x).square().sum()).backward()
        assert network.state_dict().keys() == state.keys()
    torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
    counts = [layer.weight_norm.count.item() for layer in network]
    for _ in range(3):
        bank.update()
    seen = [layer.weight_norm.count.item() - n for layer, n in zip(network, counts, strict=True)]
    assert seen == ([0, 0] if criterion == "sigma" else [3, 3])


def test_without_a_bank_the_first_forward_after_a_step_decides():
    layer, gate = of_sigma(0.5, start=True)
    gate.managed, gate.below = False, 0.0
    optimizer = torch.optim.SGD(layer.parameters(), 1e-6)
    x = torch.randn(5, 4, dtype=torch.float64)
    first = layer(x)
    gate.below = 0.9
    (first + layer(-x)).sum().backward()  # off in between would have changed the first's weight
    assert gate.on
    optimizer.step()
    layer(x)
    assert not gate.on


def test_the_gate_survives_a_round_trip_and_a_copy_knows_no_optimizer():
    layer, gate = of_sigma(3.0)
    gate.iterate(stored(layer))
    assert gate.on
    x = torch.randn(2, 4, dtype=torch.float64)
    loaded, other = of_sigma(1.0)
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded(x), layer(x))
    follow([gate], torch.optim.Adam(layer.parameters()))
    duplicate = copy.deepcopy(layer)
    assert gate.rescale is not None
    assert duplicate.weight_norm.rescale is None
    torch.testing.assert_close(duplicate(x), layer(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "sgima"}, "unknown criterion 'sgima'; choose one of sigma, gradient_norm"),
        ({"on": 1.2, "off": 1.2}, "on 1.2 and off 1.2 must satisfy 0 <= off < on"),
        ({"on": 0.5}, "on 0.5 and off 0.9"),
        ({"on": float("nan")}, "on nan"),
        ({"off": -1.0}, "off -1.0"),
        ({"memory": 0}, "memory 0 is less than 1"),
        ({"on": 1.0, "off": 0.5}, "on 1.0 must be above 1, which is sigma after switching off"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        configured("optional_spectral", options)


def flat(options: dict[str, Any]) -> list[str]:
    """Options of the norm on the command line."""
    names = {f"--model.norm_options.{name}": str(value).lower() for name, value in options.items()}
    return [word for pair in names.items() for word in pair]


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_resumed_run_decides_and_logs_what_the_whole_one_does(tiny, run):
    options = ["--model.norm", "optional_spectral", "--model.critic_steps", "3"]
    options += flat({"criterion": "gradient_norm", **LIVELY["gradient_norm"]})
    options += ["--records.every", "1", "--checkpoint.every", "6"]
    whole = tiny("whole", *options, "--steps", "20")
    parts = tiny("parts", *options, "--steps", "7")
    (parts / "last.ckpt").unlink()
    (parts / "previous.ckpt").rename(parts / "last.ckpt")  # of step 6, before lines of step 7
    assert run("resume", "parts", "--steps", "20") == 0
    assert same_bits(weights(whole), weights(parts))
    assert (whole / "gates.jsonl").read_bytes() == (parts / "gates.jsonl").read_bytes()
    decisions = lines(whole, "gates.jsonl")
    assert {line["step"] > 6 for line in decisions} == {True, False}
    assert list(decisions[0]) == ["step", "layer", "on", "criterion", "value", "sigma"]
    on = dict.fromkeys([f"body.{2 * i}" for i in range(7)] + ["head"], False)
    for step, record in enumerate(lines(whole, "metrics.jsonl"), 1):
        for line in decisions:
            if line["step"] == step:
                assert line["on"] != on[line["layer"]]
                on[line["layer"]] = line["on"]
        assert record["gates_on"] == sum(on.values())


def test_a_run_rescales_the_critic_s_moments_at_each_switch(tiny, monkeypatch):
    calls: list[tuple[float, list[float]]] = []

    def recorded(optimizer: torch.optim.Optimizer, weight: Tensor, factor: float) -> None:
        calls.append((factor, list(optimizer.param_groups[0]["betas"])))
        assert weight in optimizer.state

    monkeypatch.setattr("msngan.norms.optional_spectral.rescale_moments", recorded)
    options = flat({"criterion": "random", **LIVELY["random"]})
    options += ["--model.norm", "optional_spectral", "--model.critic_betas", "[0.25, 0.9]"]
    decisions = lines(tiny("gated", *options, "--steps", "8"), "gates.jsonl")
    factors = [1 / line["sigma"] if line["on"] else line["sigma"] for line in decisions]
    assert calls == [(factor, [0.25, 0.9]) for factor in factors]
    assert {line["on"] for line in decisions} == {True, False}


def test_a_run_without_gates_has_neither_the_file_nor_the_figure(tiny):
    folder = tiny("plain", "--steps", "1", "--records.every", "1")
    assert not (folder / "gates.jsonl").exists()
    assert "gates_on" not in lines(folder, "metrics.jsonl")[0]
