"""What the benchmarks are made of: ratios by hand, counts against torch's known costs, turns."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import nn

from msngan.bench.counting import difference, live_bytes, operations, saved_bytes
from msngan.bench.floors import NEEDS, Machine, floors, flops_of, sizes
from msngan.bench.footprint import Footprint
from msngan.bench.passes import Variant
from msngan.bench.ratios import ratio
from msngan.bench.references import NAIVE, OLD_TORCH, REFERENCES, TORCH, Centred, layers_of, seeded
from msngan.bench.rounds import Clock, clock_of, interleaved
from msngan.bench.settings import Settings
from msngan.networks import Critic
from msngan.norms import NORMS, convert

TINY = Settings(norms=("none",), rounds=2, width=4, batch=4)


class Silent:
    def __init__(self) -> None:
        self.expected = self.ticks = 0

    def expect(self, parts: int) -> None:
        self.expected = parts

    def tick(self) -> None:
        self.ticks += 1


def test_ratios_are_taken_within_a_round() -> None:
    # The second round was three times slower for all: the ratio must not see it.
    found = ratio([2.0, 6.75, 2.5], [1.0, 3.0, 1.0])
    assert (found.median, found.of_minima) == (2.25, 2.0)
    assert (found.q1, found.q3) == (2.125, 2.375)
    assert found.low == 2.0
    assert found.high == 2.5
    assert ratio([1.0, 1.0], [2.0, 4.0]).median == pytest.approx(0.375)


def test_an_interval_narrows_with_rounds_and_holds_the_median() -> None:
    draw = torch.Generator().manual_seed(0)
    widths = []
    for count in (5, 200):
        times = (1 + 0.1 * torch.rand(count, generator=draw, dtype=torch.float64)).tolist()
        found = ratio(times, [1.0] * count)
        assert found.low <= found.median <= found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_ratios_of_unequal_or_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 times cannot be compared with 1"):
        ratio([1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="0 times"):
        ratio([], [])


def test_variants_take_turns_in_changing_order_and_warm_up_is_not_kept() -> None:
    seen: list[str] = []
    watcher = Silent()

    def measure(name: str) -> float:
        seen.append(name)
        return float(len(seen))

    names = ["a", "b", "c", "d"]
    found = interleaved(
        {name: lambda name=name: measure(name) for name in names}, 5, watcher, warm_up=2
    )
    rounds = [seen[start : start + 4] for start in range(0, 28, 4)]
    assert all(sorted(each) == names for each in rounds)
    assert len({tuple(each) for each in rounds}) > 1
    assert all(len(times) == 5 and min(times) > 8 for times in found.values())
    assert watcher.expected == watcher.ticks == 28


def test_one_thread_is_timed_by_its_own_clock_and_several_by_the_wall() -> None:
    assert clock_of("cpu", 1).name == "processor time of the only thread"
    assert clock_of("cpu", 2).name == "time on the wall, 2 threads"
    import time

    assert clock_of("cpu", 1).seconds(lambda: time.sleep(0.05)) < 0.03
    assert clock_of("cpu", 2).seconds(lambda: time.sleep(0.05)) >= 0.05


def test_a_short_action_is_repeated_and_its_time_divided() -> None:
    calls: list[int] = []

    def seconds(action: object) -> float:
        before = len(calls)
        action()  # type: ignore[operator]
        return 0.006 * (len(calls) - before)

    measured = Clock("a fake one", seconds).repeated(lambda: calls.append(1))
    before = len(calls)
    assert measured() == pytest.approx(0.006)
    assert len(calls) - before == 4  # of 0.006 s each, for at least 0.02 s


def test_operations_count_the_backward_pass_and_no_views() -> None:
    x = torch.randn(3, 4, requires_grad=True)
    counted = operations(lambda: (x.view(4, 3).t() * 2).exp().sum().backward())
    # Forward: mul, exp, sum. Backward: exp's mul, mul's mul; and what makes the first gradient.
    assert counted["mul"] == 3
    assert counted["exp"] == counted["sum"] == 1
    assert not set(counted) & {"view", "t", "transpose", "detach", "expand"}
    assert difference(counted, Counter({"mul": 1, "neg": 2, "exp": 1}))["neg"] == -2


def test_live_bytes_rise_and_fall_with_the_tensors() -> None:
    def action() -> None:
        a = torch.ones(1000)  # 4000 bytes
        b = a + 1  # 8000
        del a  # 4000
        b.mul_(2)  # writes in place
        b.view(10, 100)  # makes nothing
        c = b + 1  # 8000
        del b, c

    assert max(live_bytes(action)) == 8000
    assert live_bytes(lambda: torch.ones(10).sum())[-1] == 44
    outside = torch.ones(10)
    assert live_bytes(lambda: outside.add_(1)) == [0]


def test_saved_bytes_count_each_storage_once_and_no_parameters() -> None:
    layer = nn.Linear(8, 8, bias=False)
    x = torch.randn(2, 8, requires_grad=True)  # so that the layer saves its weight, too
    # The linear layer saves x (64 bytes); exp its result (64), which the product saves twice.
    assert saved_bytes(layer, lambda: (lambda y: y * y)(layer(x).exp())) == 128


def test_floors_follow_from_bytes_and_products() -> None:
    found = floors(weights=1000, activations=10_000, seconds=1.0, machine=Machine(1e6, 1e6))
    assert found["spectral"].bytes == 8 * 4000
    assert found["spectral"].flops == 2 * 2 * 1000
    assert found["spectral"].ratio == pytest.approx(1 + 0.032 + 0.004)
    assert found["batch"].ratio == pytest.approx(1.03)
    assert found["mean_spectral"].bytes == 10 * 4000
    assert set(NEEDS) - {"mean_spectral, mean of the outputs"} <= set(NORMS)


def test_sizes_and_operations_of_the_full_critic_are_those_of_the_arithmetic() -> None:
    critic = Critic("none", 64)
    images = torch.zeros(1, 3, 32, 32)
    weights, activations = sizes(critic, images, 4)
    assert weights == 2_934_464
    assert activations == 4 * 151_552
    forward = flops_of(lambda: critic(images))
    assert forward == pytest.approx(2 * 108.7e6, rel=1e-3)


@pytest.mark.parametrize("name", sorted(REFERENCES))
def test_a_reference_normalises_every_layer(name: str) -> None:
    critic = seeded(lambda: REFERENCES[name](Critic("none", 4)))
    images = torch.randn(8, 3, 32, 32)
    for _ in range(60):
        critic(images)
    for layer in layers_of(critic).values():
        weight = layer.weight.detach().flatten(1)  # type: ignore[operator,union-attr]
        assert torch.linalg.matrix_norm(weight, 2) == pytest.approx(1, abs=0.02)


def test_naive_msn_gives_every_channel_of_a_batch_its_offset_for_a_mean() -> None:
    critic = seeded(lambda: REFERENCES[NAIVE](Critic("none", 4)))
    means: list[torch.Tensor] = []
    layers = [part for part in critic.modules() if isinstance(part, Centred)]
    for layer in layers:
        nn.init.normal_(layer.bias)
        layer.register_forward_hook(lambda _layer, _given, made: means.append(made.mean((0, 2, 3))))
    critic(torch.randn(8, 3, 32, 32))
    assert len(layers) == 7
    for layer, mean in zip(layers, means, strict=True):
        torch.testing.assert_close(mean, layer.bias.flatten(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "contiguous", "step"),
    [(TORCH, True, 525), (TORCH, False, 549), (OLD_TORCH, True, 525)],
)
def test_torch_s_spectral_norms_repeat_their_work_at_every_access(
    name: str, contiguous: bool, step: int
) -> None:
    plain = Footprint.of(Variant.of("none", TINY, contiguous=contiguous))
    counted = Footprint.of(Variant.of(name, TINY, contiguous=contiguous)).against(plain)
    assert counted["operations"]["pass"]["extra"] * 3 == counted["operations"]["step"]["extra"]
    # The exact number is torch's and may move with its version.
    assert abs(counted["operations"]["step"]["extra"] - step) <= 40


def test_our_spectral_norm_adds_few_operations_to_a_gan_step() -> None:
    plain = Footprint.of(Variant.of("none", TINY))
    counted = Footprint.of(Variant.of("spectral", TINY)).against(plain)["operations"]
    assert 16 <= counted["pass"]["extra"] <= 46  # two products a layer at the least
    assert 16 <= counted["step"]["extra"] <= 46


def test_bfloat16_is_autocast_s_and_leaves_weights_in_float32() -> None:
    variant = Variant.of("none", replace(TINY, dtype="bfloat16"))
    kinds: list[torch.dtype] = []
    layer = next(iter(layers_of(variant.critic).values()))
    layer.register_forward_hook(lambda _layer, _given, made: kinds.append(made.dtype))
    variant.both_ways(TINY.images())
    assert kinds == [torch.bfloat16]
    assert layer.weight.dtype == torch.float32


def test_what_none_saves_is_the_input_of_every_layer() -> None:
    memory = Footprint.of(Variant.of("none", TINY, contiguous=True)).memory
    inputs = [3 * 32**2, 4 * 32**2, 4 * 16**2, 8 * 16**2, 8 * 8**2, 16 * 8**2, 16 * 4**2, 32 * 4**2]
    assert memory["saved_activations"] == memory["saved"] == 4 * TINY.batch * sum(inputs)
    assert 0 < memory["peak_activations"] < memory["peak"]


@pytest.mark.parametrize("name", ["spectral", "mean_spectral"])
def test_spectral_norms_keep_no_more_activations_than_none_and_batch_norm_does(name: str) -> None:
    plain = Footprint.of(Variant.of("none", TINY))
    ours, batch = (
        Footprint.of(Variant.of(each, TINY)).against(plain)["memory"]["ratio"]
        for each in (name, "batch")
    )
    assert ours["peak_activations"] <= 1.02 < 1.5 < batch["peak_activations"]
    assert ours["saved_activations"] <= 1.02 < 1.5 < batch["saved_activations"]
    assert ours["peak"] > 1  # the normalised weights


@pytest.mark.parametrize("norm", sorted({*NORMS, TORCH}))
def test_own_work_is_there_where_a_norm_works_on_weights(norm: str) -> None:
    variant = Variant.of(norm, TINY)
    work = variant.own_work()
    plain = convert(nn.Sequential(nn.Linear(2, 2)), norm)[0] if norm in NORMS else None  # type: ignore[index]
    assert (work is not None) == (norm == TORCH or getattr(plain, "weight_norm", None) is not None)
    if work is not None:
        before = [parameter.clone() for parameter in variant.critic.parameters()]
        work()  # what a first call does once is not counted
        counted = operations(work)
        assert not set(counted) & {"convolution", "convolution_backward"}
        if norm == TORCH:
            assert counted["mv"] == 3 * 3 * 8  # passes, products of each, layers
        if norm == "spectral":
            assert sum(counted.values()) <= 46
        # Those two write the weights: that is their work.
        if norm not in ("lipschitz_projection", "released_spectral"):
            for parameter, value in zip(variant.critic.parameters(), before, strict=True):
                assert torch.equal(parameter, value)
