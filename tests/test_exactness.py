"""A stopped and resumed run ends in the bits of the run that was let alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, same_bits, under, weights

from msngan.losses import PENALTIES
from msngan.norms import NORMS

Tiny = Callable[..., Path]


def test_two_runs_of_one_seed_agree_and_of_two_seeds_do_not(tiny: Tiny) -> None:
    first, again = weights(tiny("a")), weights(tiny("b"))
    other = weights(tiny("c", "--seed", "1"))
    assert same_bits(first, again)
    assert not torch.equal(first["generator.stem.weight"], other["generator.stem.weight"])


def test_a_run_with_the_critic_s_last_means_resumes_exactly(
    tiny: Tiny, run: Callable[..., int]
) -> None:
    options = ["--model.critic_batch", "joint", "--model.generator_statistics", "last"]
    options += ["--model.norm", "mean_spectral"]
    whole = weights(tiny("whole", *options, "--steps", "12"))
    parts = tiny("parts", *options, "--steps", "5")
    assert run("resume", "parts", "--steps", "12") == 0
    assert same_bits(whole, weights(parts))
    batch = weights(tiny("batch", *options[:2], *options[4:], "--steps", "12"))
    assert not torch.equal(whole["generator.stem.weight"], batch["generator.stem.weight"])


@pytest.mark.parametrize("critic_steps", [1, 3])
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_seven_steps_resumed_for_thirteen_are_twenty_steps(
    tiny: Tiny, run: Callable[..., int], norm: str, critic_steps: int
) -> None:
    # 64 images in batches of 8: an epoch is 8 steps (2 with three critic steps), so 7 is in the
    # middle of one and the run passes several ends.
    options = [
        *under(norm),
        "--model.critic_steps",
        str(critic_steps),
        "--data.mirror",
        "true",
    ]
    whole = weights(tiny("whole", *options, "--steps", "20"))
    parts = tiny("parts", *options, "--steps", "7")
    assert run("resume", "parts", "--steps", "20") == 0
    assert same_bits(whole, weights(parts))


@pytest.mark.parametrize("stop", [1, 8, 16, 19])
def test_the_place_of_the_stop_does_not_matter(
    tiny: Tiny, run: Callable[..., int], stop: int
) -> None:
    whole = weights(tiny("whole", "--steps", "20"))  # an epoch is 8 steps
    parts = tiny("parts", "--steps", str(stop))
    assert run("resume", "parts", "--steps", "20") == 0
    assert same_bits(whole, weights(parts))


@pytest.mark.parametrize("penalty", sorted(PENALTIES))
def test_every_penalty_resumes_exactly(tiny: Tiny, run: Callable[..., int], penalty: str) -> None:
    options = ["--model.penalty", penalty, "--model.norm", "batch", "--model.loss", "wasserstein"]
    options += ["--model.critic_batch", "joint"]
    whole = weights(tiny("whole", *options, "--steps", "9"))
    parts = tiny("parts", *options, "--steps", "4")
    assert run("resume", "parts", "--steps", "9") == 0
    assert same_bits(whole, weights(parts))


def test_linear_decay_and_ttur_resume_exactly(tiny: Tiny, run: Callable[..., int]) -> None:
    options = ["--model.lr_decay", "linear", "--model.critic_lr", "4e-4"]
    whole = weights(tiny("whole", *options, "--steps", "9"))
    parts = tiny("parts", *options, "--steps", "9", "--checkpoint.every", "5")
    (parts / "last.ckpt").unlink()
    (parts / "previous.ckpt").rename(parts / "last.ckpt")  # the one of step 5
    assert run("resume", "parts") == 0
    assert same_bits(whole, weights(parts))


@pytest.mark.parametrize("precision", ["bf16-mixed", "64-true"])
def test_other_precisions_resume_exactly(
    tiny: Tiny, run: Callable[..., int], precision: str
) -> None:
    options = ["--trainer.precision", precision]
    whole = weights(tiny("whole", *options, "--steps", "9"))
    parts = tiny("parts", *options, "--steps", "4")
    assert run("resume", "parts", "--steps", "9") == 0
    assert same_bits(whole, weights(parts))


def test_scores_and_grids_do_not_touch_training(tiny: Tiny, run: Callable[..., int]) -> None:
    bare = weights(tiny("bare"))
    options = ["--scores.enabled", "true", "--scores.every", "2", "--scores.samples", "20"]
    options += ["--scores.runs", "2", "--samples.every", "1", "--checkpoint.every", "1"]
    watched = weights(tiny("watched", *options, "--records.every", "1"))
    assert same_bits(bare, watched)


def test_records_of_a_resumed_run_are_those_of_the_whole_one(
    tiny: Tiny, run: Callable[..., int]
) -> None:
    import json

    options = ["--records.every", "2", "--scores.enabled", "true", "--scores.every", "3"]
    options += ["--scores.samples", "20", "--scores.runs", "2", "--steps", "9"]
    whole = tiny("whole", *options)
    parts = tiny("parts", *options, "--checkpoint.every", "4")
    (parts / "last.ckpt").unlink()
    (parts / "previous.ckpt").rename(parts / "last.ckpt")  # the one of step 8
    assert run("resume", "parts") == 0

    def lines(folder: Path, name: str) -> list[tuple[int, object]]:
        rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
        return [(row["step"], row.get("critic_loss") or row.get("scores")) for row in rows]

    for name in ("metrics.jsonl", "scores.jsonl"):
        assert lines(whole, name) == lines(parts, name)
    assert [step for step, _ in lines(whole, "metrics.jsonl")] == [2, 4, 6, 8, 9]
    assert [step for step, _ in lines(whole, "scores.jsonl")] == [3, 6, 9]


@pytest.mark.parametrize("critic_steps", [1, 3, 5])
def test_a_global_step_is_a_generator_update(tiny: Tiny, critic_steps: int) -> None:
    folder = tiny("a", "--model.critic_steps", str(critic_steps), "--steps", "7")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == checkpoint["msngan"]["step"] == 7
    generator, critic = checkpoint["optimizer_states"]
    assert generator["state"][0]["step"] == 7
    assert critic["state"][0]["step"] == 7 * critic_steps


def test_a_new_run_can_start_from_the_checkpoint_of_another(
    tiny: Tiny, run: Callable[..., int]
) -> None:
    whole = weights(tiny("whole", "--steps", "9"))
    parts = tiny("parts", "--steps", "4")
    before = (parts / "last.ckpt").read_bytes()
    start = ["--ckpt_path", str(parts / "last.ckpt"), "--steps", "9"]
    assert run("fit", *TINY, *QUIET, "--run", "branch", *start) == 0
    assert same_bits(whole, weights(Path("checkpoints/branch")))
    assert (parts / "last.ckpt").read_bytes() == before
