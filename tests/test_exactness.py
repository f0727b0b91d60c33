"""A stopped and resumed run ends in the bits of the uninterrupted one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, resumed_from_previous, same_bits, under, weights

from msngan.losses import PENALTIES
from msngan.norms import NORMS

Tiny = Callable[..., Path]
Run = Callable[..., int]
SCORED = ["--scores.enabled", "true", "--scores.samples", "20", "--scores.runs", "2"]
WASSERSTEIN = ["--model.norm", "batch", "--model.loss", "wasserstein"]
JOINT = ["--model.critic_batch", "joint"]


@pytest.mark.quick
def test_two_runs_of_one_seed_agree_and_of_two_seeds_do_not(tiny: Tiny) -> None:
    first, again = weights(tiny("a")), weights(tiny("b"))
    other = weights(tiny("c", "--seed", "1"))
    assert same_bits(first, again)
    assert not torch.equal(first["generator.stem.weight"], other["generator.stem.weight"])


# 64 images in batches of 8: an epoch is 8 steps (2 with three critic steps), so step 5 is in the
# middle of one and the resumed run passes the end of one.
CASES = {
    norm: [*under(norm), "--model.critic_steps", "13"[index % 2], "--data.mirror", "true"]
    for index, norm in enumerate(sorted(NORMS))
}
CASES |= {name: ["--model.penalty", name, *WASSERSTEIN, *JOINT] for name in sorted(PENALTIES)}
CASES |= {
    "last means": [*JOINT, "--model.generator_statistics", "last"],
    "linear decay, two rates": ["--model.lr_decay", "linear", "--model.critic_lr", "4e-4"],
    "bf16-mixed": ["--trainer.precision", "bf16-mixed"],
    "64-true": ["--trainer.precision", "64-true"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_resumed_from_step_5_ends_as_it_did(tiny: Tiny, run: Run, case: str) -> None:
    folder = tiny("whole", *CASES[case], "--steps", "9", "--checkpoint.every", "5")
    whole = weights(folder)
    assert same_bits(whole, resumed_from_previous(folder, run))


def test_the_step_of_the_stop_does_not_matter(tiny: Tiny, run: Run) -> None:
    whole = weights(tiny("whole", "--steps", "20"))  # an epoch is 8 steps
    for stop in ("1", "8", "19"):
        parts = tiny(f"parts-{stop}", "--steps", stop)
        assert run("resume", parts.name, "--steps", "20") == 0
        assert same_bits(whole, weights(parts)), stop


@pytest.mark.quick
def test_records_of_a_resumed_run_are_those_of_the_whole_one_and_scores_do_not_touch_training(
    tiny: Tiny, run: Run
) -> None:
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
def test_a_global_step_is_a_generator_update(tiny: Tiny, critic_steps: int) -> None:
    folder = tiny("a", "--model.critic_steps", str(critic_steps), "--steps", "4")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == checkpoint["msngan"]["step"] == 4
    generator, critic = checkpoint["optimizer_states"]
    assert generator["state"][0]["step"] == 4
    assert critic["state"][0]["step"] == 4 * critic_steps


def test_a_new_run_can_start_from_the_checkpoint_of_another(tiny: Tiny, run: Run) -> None:
    whole = weights(tiny("whole", "--steps", "9"))
    parts = tiny("parts", "--steps", "4")
    before = (parts / "last.ckpt").read_bytes()
    start = ["--ckpt_path", str(parts / "last.ckpt"), "--steps", "9"]
    assert run("fit", *TINY, *QUIET, "--run", "branch", *start) == 0
    assert same_bits(whole, weights(Path("checkpoints/branch")))
    assert (parts / "last.ckpt").read_bytes() == before
