"""What the benchmarks are made of: ratios, turns, counts, lower bounds, and what is measured."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from functools import cache, partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from msngan.bench import norms
from msngan.bench.loops import MARK, Calls, Steps, calls_between_marks, flops_of_step, timed
from msngan.bench.norms import NEEDS, Variant, against, counted, flops_of, lower_bounds, sizes
from msngan.bench.parameters import parameters_of
from msngan.bench.references import NAIVE, REFERENCES, TORCH, Centred, built, layers_of
from msngan.bench.settings import NormSettings, StepSettings
from msngan.bench.step import HALF, PlainLoop, Recipe, Synthetic, play, recipes
from msngan.bench.timing import Clock, clock_of, interleaved, observed, ratio
from msngan.networks import Critic
from msngan.networks.build import CRITICS
from msngan.norms import NORMS, convert
from msngan.runs.configs import find_config

pytestmark = pytest.mark.quick
TINY = NormSettings(rounds=2, width=4, batch=4)


def test_ratios_are_taken_within_a_round():
    # The second round was three times slower for all: the ratio must not see it.
    found = ratio([2.0, 6.75, 2.5], [1.0, 3.0, 1.0])
    assert found == {
        **{"median": 2.25, "low": 2.0, "high": 2.5},
        **{"q1": 2.125, "q3": 2.375, "of_minima": 2.0},
    }
    draw = torch.Generator().manual_seed(0)
    times = (1 + 0.1 * torch.rand(200, generator=draw, dtype=torch.float64)).tolist()
    few, many = ratio(times[:5], [1.0] * 5), ratio(times, [1.0] * 200)
    assert many["low"] <= many["median"] <= many["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 2  # it narrows with rounds
    with pytest.raises(ValueError, match="cannot compare 2 times with 1"):
        ratio([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="0 times"):
        ratio([], [])


def test_variants_take_turns_in_changing_order_and_warm_up_is_not_kept():
    seen: list[str] = []
    told: list[tuple[int, int]] = []

    def measure(name: str) -> float:
        seen.append(name)
        return float(len(seen))

    names = ["a", "b", "c", "d"]
    measures = {name: lambda name=name: measure(name) for name in names}
    found = interleaved(measures, 5, lambda *each: told.append(each), warm_up=2)
    rounds = [seen[start : start + 4] for start in range(0, 28, 4)]
    assert all(sorted(each) == names for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert all(len(times) == 5 and min(times) > 8 for times in found.values())
    assert told == [(done, 28) for done in range(1, 29)]


def test_one_thread_is_timed_by_its_own_clock_and_several_by_the_wall():
    assert clock_of("cpu", 1).name == "processor time of the only thread"
    assert clock_of("cpu", 2).name == "wall-clock time, 2 threads"
    assert clock_of("cpu", 1).seconds(lambda: time.sleep(0.05)) < 0.03
    assert clock_of("cpu", 2).seconds(lambda: time.sleep(0.05)) >= 0.05


def test_a_short_action_is_repeated_and_its_time_divided():
    calls: list[int] = []
    measured = Clock("a fake one", lambda: 0.006 * len(calls)).repeated(lambda: calls.append(1))
    before = len(calls)
    assert measured() == pytest.approx(0.006)
    assert len(calls) - before == 4  # of 0.006 s each, for at least 0.02 s


def test_operations_count_the_backward_pass_and_no_views():
    x = torch.randn(3, 4, requires_grad=True)
    found = observed(lambda: (x.view(4, 3).t() * 2).exp().sum().backward()).operations
    # Forward: mul, exp, sum. Backward: exp's mul, mul's mul; and what makes the first gradient.
    assert found & Counter(mul=9, exp=9, sum=9) == Counter(mul=3, exp=1, sum=1)
    assert not set(found) & {"view", "t", "transpose", "detach", "expand"}


def test_live_bytes_rise_and_fall_with_the_tensors():
    def action() -> None:
        a = torch.ones(1000)  # 4000 bytes
        b = a + 1  # 8000
        del a  # 4000
        b.mul_(2)  # writes in place
        b.view(10, 100)  # makes nothing
        c = b + 1  # 8000
        del b, c

    assert max(observed(action).live) == 8000
    assert observed(lambda: torch.ones(10).sum()).live[-1] == 44
    outside = torch.ones(10)
    assert observed(lambda: outside.add_(1)).live == [0]


def test_lower_bounds_follow_from_bytes_and_products():
    found = lower_bounds(1000, 10_000, seconds=1.0, bandwidth=1e6, flops=1e6)
    assert found["spectral"] == {
        **{"bytes": 8 * 4000, "flops": 2 * 2 * 1000},
        "ratio": pytest.approx(1 + 0.032 + 0.004),
    }
    assert found["batch"]["ratio"] == pytest.approx(1.03)
    assert found["mean_spectral"]["bytes"] == 10 * 4000
    assert set(NEEDS) - {"mean_spectral, mean of the outputs"} <= set(NORMS)
    critic, images = Critic("none", 64), torch.zeros(1, 3, 32, 32)
    assert sizes(critic, images) == (2_934_464, 151_552)
    assert flops_of(lambda: critic(images)) == pytest.approx(2 * 108.7e6, rel=1e-3)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_reference_normalises_every_layer_and_naive_msn_centres(name):
    critic = built(lambda norm: Critic(norm, 4), name)
    means: list[torch.Tensor] = []
    centred = [part for part in critic.modules() if isinstance(part, Centred)]
    assert len(centred) == (7 if name == NAIVE else 0)
    for _ in range(60):
        critic(torch.randn(2, 3, 32, 32))
    for layer in layers_of(critic).values():
        weight = layer.weight.detach().flatten(1)
        assert torch.linalg.matrix_norm(weight, 2) == pytest.approx(1, abs=0.02)
    for each in centred:
        nn.init.normal_(each.bias)
        each.register_forward_hook(lambda _layer, _given, made: means.append(made.mean((0, 2, 3))))
    critic(torch.randn(8, 3, 32, 32))
    for each, mean in zip(centred, means, strict=True):
        torch.testing.assert_close(mean, each.bias.flatten(), rtol=0, atol=1e-5)


@cache
def counts(norm: str) -> dict[str, Any]:
    """Of a tiny critic, against one without a norm."""
    return against(Variant(norm, TINY), *(counted(Variant(each, TINY)) for each in (norm, "none")))


def test_spectral_norms_keep_no_more_activations_than_none_and_batch_norm_does():
    assert counts("batch")["memory"]["ratio"]["peak_activations"] > 1.5
    for norm in ("spectral", "mean_spectral"):
        found = counts(norm)["memory"]["ratio"]
        assert found["peak_activations"] <= 1.02
        assert found["peak"] > 1  # the normalised weights


def test_norms_measures_every_norm_by_default_and_bfloat16_leaves_weights_in_float32():
    names = {each.name for each in norms.variants_of(TINY)}
    assert names > {*NORMS, TORCH, NAIVE, "none, contiguous", "mean_spectral, contiguous"}
    variant = Variant("none", NormSettings(width=4, batch=4, dtype="bfloat16"))
    kinds: list[torch.dtype] = []
    layer = next(iter(layers_of(variant.critic).values()))
    layer.register_forward_hook(lambda _layer, _given, made: kinds.append(made.dtype))
    variant.forward_backward(variant.images())
    assert kinds == [torch.bfloat16]
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize("norm", sorted({*NORMS, TORCH}))
def test_own_work_is_there_where_a_norm_works_on_weights(norm):
    variant = Variant(norm, TINY)
    work = variant.own_work()
    plain = convert(nn.Sequential(nn.Linear(2, 2)), norm)[0] if norm in NORMS else None  # type: ignore[index]
    assert (work is not None) == (norm == TORCH or getattr(plain, "weight_norm", None) is not None)
    if work is not None:
        before = [parameter.clone() for parameter in variant.critic.parameters()]
        work()  # what a first call does once is not counted
        found = observed(work).operations
        assert not set(found) & {"convolution", "convolution_backward"}
        if norm == TORCH:
            assert found["mv"] == 3 * 3 * 8  # passes, products of each, layers
        if norm == "spectral":
            assert found.total() <= 46
        # Those two write the weights: that is their work.
        if norm not in ("lipschitz_projection", "released_spectral"):
            for parameter, value in zip(variant.critic.parameters(), before, strict=True):
                assert torch.equal(parameter, value)


@pytest.mark.parametrize("critic", CRITICS)
def test_the_critic_that_is_asked_for_is_measured(critic):
    made = CRITICS[critic]("spectral", 4)
    variant = Variant("spectral", replace(TINY, critic=critic))
    assert parameters_of(variant.critic) == parameters_of(made)
    settings = StepSettings(width=4, batch=4, critic=critic)
    for network in (
        Recipe("spectral").gan(settings).critic,
        PlainLoop(settings, Synthetic(4)).critic,
    ):
        assert parameters_of(network) == parameters_of(made)


def test_the_recipe_of_step_is_that_of_the_flagship_s_config():
    model = yaml.safe_load(find_config("cifar_msn").read_text())["model"]
    made = Recipe(model["norm"]).gan(StepSettings(width=4)).options
    assert {name: made[name] for name in model} == model
    rest = {"power_iteration": "update", "penalty": "none", "critic_steps": 1, "ema_decay": 0.999}
    assert {name: made[name] for name in rest} == rest


def test_the_first_steps_are_not_timed():
    now = 0.0

    def play(done) -> None:
        nonlocal now
        step = 0
        while True:
            step += 1
            now += step  # the third step takes 3 seconds
            if done(step):
                return

    clock = Clock("a step's number", lambda: now)
    assert timed(play, Steps(discarded=2, measured=3), clock, "cpu").step == (3 + 4 + 5) / 3
    assert now == 1 + 2 + 3 + 4 + 5


# Width 4: inputs, outputs, side of the kernel, side of its outputs (of its inputs if transposed).
CRITIC = [(3, 4, 3, 32), (4, 4, 4, 16), (4, 8, 3, 16), (8, 8, 4, 8), (8, 16, 3, 8)]
CRITIC += [(16, 16, 4, 4), (16, 32, 3, 4), (512, 1, 1, 1)]
GENERATOR = [(128, 512, 1, 1), (32, 16, 4, 4), (16, 8, 4, 8), (8, 4, 4, 16), (4, 3, 3, 32)]


def by_hand(batches: int, weights: int) -> int:
    """Operations of a step on 4 images, without a norm's own.

    batches, weights: how many batches pass the critic in the generator's update, and how often
    gradients of its weights are computed there.
    """
    of_critic, of_generator = (
        [4 * 2 * inputs * outputs * kernel**2 * side**2 for inputs, outputs, kernel, side in each]
        for each in (CRITIC, GENERATOR)
    )
    critic, generator = sum(of_critic), sum(of_generator)
    # Forward, gradients of the weights, and of the inputs, except of images and latents.
    critic_update = 2 * (critic + critic + critic - of_critic[0])
    through_critic = batches * 2 * critic + weights * critic
    generator_update = generator + generator + generator - of_generator[0]
    return generator + critic_update + through_critic + generator_update


@pytest.mark.parametrize(
    ("recipe", "batches", "weights"),
    [
        (None, 1, 1),
        (Recipe("none"), 1, 0),
        (Recipe("none", HALF), 1, 0),
        (Recipe("batch"), 2, 0),
        (Recipe("spectral"), 1, 0),
        (Recipe("mean_spectral"), 2, 0),
        (Recipe("mean_spectral", HALF, channels_last=False), 2, 0),
        (Recipe("mean_spectral", critic_batch="separate"), 1, 0),
        (Recipe("mean_spectral", statistics="last"), 1, 0),
    ],
    ids=lambda each: getattr(each, "row", {"name": str(each)})["name"],
)
def test_the_operations_of_a_step_are_those_counted_by_hand(monkeypatch, recipe, batches, weights):
    monkeypatch.setattr("msngan.norms.bank.looks", lambda values: False)  # iterate once
    settings, data = StepSettings(width=4, batch=4), Synthetic(4)
    loop = PlainLoop(settings, data).play
    if recipe is not None:
        loop = partial(play, recipe.gan(settings), data, "cpu", recipe.precision)
    own = flops_of_step(loop) - by_hand(batches, weights)
    # A spectral norm multiplies each weight by up to 16 vectors, and the results by it; the rest is
    # between these vectors.
    least = sum(4 * min(16, n) * n * m * k**2 for m, n, k, _ in CRITIC)
    spectral = recipe is not None and "spectral" in recipe.norm
    assert least < own < 1.25 * least if spectral else own == 0


def test_on_a_gpu_each_recipe_is_measured_eager_and_as_a_graph():
    names = [each.row["name"] for each in recipes(("spectral", "none"), "cpu")]
    assert [each.row["name"] for each in recipes(("spectral", "none"), "cuda")] == [
        f"{name}, {how}" for name in names for how in ("eager", "CUDA graph")
    ]


def test_calls_are_counted_between_the_marks():
    names = ["cudaDeviceSynchronize", "cudaLaunchKernel", MARK, "aten::mm", "cudaLaunchKernel"]
    names += ["cudaLaunchKernelExC", "cuLaunchKernelEx", "cudaGraphLaunch", "cudaMemcpyAsync"]
    names += ["cudaMemsetAsync", "cudaStreamSynchronize", "cudaStreamIsCapturing", "cudaMemcpy"]
    names += ["cudaEventSynchronize", "cudaEventRecord", "Memcpy DtoH (Device -> Pageable)"]
    names += ["volta_sgemm_128x64_nn", MARK, "cudaDeviceSynchronize"]
    made = [
        SimpleNamespace(name=name, time_range=SimpleNamespace(start=10.0 * index))
        for index, name in enumerate(names)
    ]
    assert calls_between_marks(made[::-1], steps=2) == Calls(launches=7 / 2, waits=3 / 2)
    assert calls_between_marks([each for each in made if "cu" not in each.name], 2) is None
    assert calls_between_marks([], 2) is None
