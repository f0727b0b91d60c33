"""A resumed run ends in the bits of the uninterrupted one; every draw has a seed of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from contextlib import suppress
from typing import get_args

import numpy as np
import pytest
import torch
import yaml
from conftest import resumed_from_previous, same_bits, under, weights

from msngan.gan import scale_free
from msngan.leaderboard.experiments import setup_of
from msngan.losses import PENALTIES
from msngan.networks.optimizers import OPTIMIZERS
from msngan.norms import NORMS
from msngan.runs.rng import Stream, derive, generator, untouched

SCORED = ["--scores.enabled", "true", "--scores.samples", "20", "--scores.runs", "2"]
JOINT = ["--model.critic_batch", "joint"]


@pytest.mark.quick
def test_two_runs_of_one_seed_agree_and_of_two_seeds_do_not(tiny):
    first, again = weights(tiny("a")), weights(tiny("b"))
    other = weights(tiny("c", "--seed", "1"))
    assert same_bits(first, again)
    assert not torch.equal(first["generator.stem.weight"], other["generator.stem.weight"])


# 32 images in batches of 8: an epoch is 4 steps (1 with three critic steps), so step 3 is in the
# middle of one and the resumed run passes the end of one. Each penalty is under another norm.
CASES = {
    norm: [*under(norm), "--model.critic_steps", "13"[index % 2], "--data.mirror", "true"]
    for index, norm in enumerate(sorted(NORMS))
}
# One of the weights needs a norm that leaves their scale free; it comes first, and so do these.
FREE_FIRST = sorted(NORMS, key=lambda norm: (scale_free(norm, {}), norm))
OF_WEIGHTS_FIRST = sorted(
    {*PENALTIES} - {"none"}, key=lambda name: (not PENALTIES[name].of_weights, name)
)
for penalty, norm in zip(OF_WEIGHTS_FIRST, FREE_FIRST, strict=False):
    CASES[norm] += ["--model.penalty", penalty, "--model.loss", "wasserstein"]
CASES["batch"] += JOINT
CASES["mean_spectral"] += [*JOINT, "--model.generator_statistics", "last"]
CASES["spectral"] += ["--model.lr_decay", "linear", "--model.critic_lr", "4e-4"]
CASES["bidirectional"] += ["--trainer.precision", "bf16-mixed"]
CASES["spectral_bias"] += ["--trainer.precision", "64-true"]
CASES["scaled"] += ["--model.power_iteration", "pass"]
CASES["mean_only"] += ["--model.conditional", "true", *JOINT]
CASES["instance"] += ["--model.conditional", "true", "--model.conditioning", "acgan"]
CASES["mean_spectral"] += ["--augment.policy", "color,translation,cutout"]
DECAY, CLIP = ["--model.weight_decay", "0.1"], ["--model.gradient_clip", "0.1"]
CASES["layer"] += ["--model.optimizer", "adamw", *DECAY, *CLIP, "--model.init", "orthogonal"]
CASES["optional_spectral"] += ["--model.optimizer", "rmsprop", *CLIP]
CASES["instance"] += ["--model.accumulate", "2"]
CASES["mean_only"] += ["--model.accumulate", "2", "--data.batch_size", "4"]
CASES["weight"] += ["--model.optimizer", "sgd", *DECAY]


def test_every_penalty_and_optimizer_is_among_the_cases():
    used = " ".join(" ".join([*options, ""]) for options in CASES.values())
    assert all(f"--model.penalty {penalty} " in used for penalty in {*PENALTIES} - {"none"})
    assert all(f"--model.optimizer {name} " in used for name in OPTIMIZERS if name != "adam")


@pytest.mark.parametrize("case", CASES)
def test_a_run_resumed_within_an_epoch_ends_as_it_did(tiny, run, case):
    sizes = ["--data.limit", "32", "--steps", "5", "--checkpoint.every", "3"]
    folder = tiny("whole", *CASES[case], *sizes)
    whole = weights(folder)
    assert same_bits(whole, resumed_from_previous(folder, run))


def test_an_estimate_that_lags_behind_large_steps_is_resumed_as_it_is(tiny, run):
    options = ["--model.norm", "spectral_clip", "--model.critic_lr", "1e-2", "--data.size", "16"]
    whole = weights(tiny("whole", *options, "--steps", "8"))
    parts = tiny("parts", *options, "--steps", "3")
    assert run("resume", "parts", "--steps", "8") == 0
    assert same_bits(whole, weights(parts))


def test_the_step_of_the_stop_does_not_matter(tiny, run):
    whole = weights(tiny("whole", "--steps", "9"))
    parts = tiny("parts", "--steps", "1")
    for steps in ("2", "8", "9"):  # an epoch is 8 steps
        assert run("resume", "parts", "--steps", steps) == 0
    assert same_bits(whole, weights(parts))


@pytest.mark.quick
def test_records_of_a_resumed_run_are_those_of_the_whole_one_and_scores_do_not_touch_training(
    tiny, run
):
    options = ["--records.every", "2", *SCORED, "--scores.every", "3", "--samples.every", "1"]
    folder = tiny("whole", *options, "--steps", "9", "--checkpoint.every", "4")

    def lines(name: str) -> list[tuple[int, object]]:
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [(row["step"], row.get("critic_loss") or row.get("scores")) for row in rows]

    whole, before = weights(folder), [lines("metrics.jsonl"), lines("scores.jsonl")]
    assert same_bits(whole, weights(tiny("bare", "--steps", "9")))
    assert same_bits(whole, resumed_from_previous(folder, run))
    assert [lines("metrics.jsonl"), lines("scores.jsonl")] == before
    assert [step for step, _ in before[0]] == [2, 4, 6, 8, 9]
    assert [step for step, _ in before[1]] == [3, 6, 9]


@pytest.mark.parametrize("critic_steps", [1, 5])
def test_a_global_step_is_a_generator_update(tiny, critic_steps):
    folder = tiny("a", "--model.critic_steps", str(critic_steps), "--steps", "4")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == checkpoint["msngan"]["step"] == 4
    generator, critic = checkpoint["optimizer_states"]
    assert generator["state"][0]["step"] == 4
    assert critic["state"][0]["step"] == 4 * critic_steps


def test_a_new_run_can_start_from_the_checkpoint_of_another_and_its_config_says_so(tiny, run):
    whole = weights(tiny("whole", "--steps", "9"))
    parts = tiny("parts", "--steps", "4")
    before = (parts / "last.ckpt").read_bytes()
    branch = tiny("branch", "--ckpt_path", str(parts / "last.ckpt"), "--steps", "9")
    config = yaml.safe_load((branch / "config.yaml").read_text())
    assert config["ckpt_path"] == str((parts / "last.ckpt").resolve())
    without = {name: value for name, value in config.items() if name != "ckpt_path"}
    assert setup_of(without).config_id != setup_of(config).config_id
    assert same_bits(whole, weights(branch))
    for checkpoint in branch.glob("*.ckpt"):
        checkpoint.unlink()  # as if it had been killed before the first of its own
    assert run("resume", "branch") == 0
    assert same_bits(whole, weights(branch))
    assert (parts / "last.ckpt").read_bytes() == before


STREAMS = get_args(Stream)


def test_no_two_of_many_tuples_share_a_seed():
    # 1, 11 and 111 would meet if the parts were written together without a mark between them.
    numbers = (0, 1, 2, 3, 10, 11, 12, 111, 1000, 2**31)
    grid = list(itertools.product(numbers, numbers, numbers[:8], STREAMS))
    assert len({derive(*key) for key in grid}) == len(grid)


def test_seeds_are_63_bits_and_use_them_all():
    seeds = [derive(0, step, 0, "order") for step in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        share = sum(seed >> bit & 1 for seed in seeds) / len(seeds)
        assert 0.3 < share < 0.7


def test_a_seed_is_pinned_so_that_published_runs_can_be_repeated():
    digest = hashlib.blake2b(b"3/500/1/penalty", digest_size=8).digest()
    assert derive(3, 500, 1, "penalty") == int.from_bytes(digest, "little") // 2
    assert derive(0, 0, 0, "init") == 8330636805672804738


def test_the_same_arguments_give_the_same_draws_and_others_give_others():
    state = torch.get_rng_state()
    first, again = (torch.randn(8, generator=generator(1, 2, 3, "flip")) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), state)
    others = [(2, 2, 3, "flip"), (1, 3, 3, "flip"), (1, 2, 4, "flip"), (1, 2, 3, "order")]
    for other in others:
        assert not torch.equal(first, torch.randn(8, generator=generator(*other)))


def draw_everywhere() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


@pytest.mark.parametrize("fails", [False, True])
def test_untouched_gives_all_global_generators_back_even_when_the_block_raises(fails):
    seed_everything(0)
    expected = draw_everywhere()
    seed_everything(0)
    with suppress(KeyError), untouched():
        seed_everything(1)
        draw_everywhere()
        if fails:
            raise KeyError
    assert draw_everywhere() == expected
