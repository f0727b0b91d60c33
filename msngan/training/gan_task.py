"""A run that trains a GAN."""

from __future__ import annotations

import shlex
from typing import Any

import torch
from pytorch_lightning import Callback

from msngan.gan import GAN
from msngan.runs.folder import Run
from msngan.runs.jsonl import read_lines
from msngan.training.callbacks import Gates
from msngan.training.task import Task, count, place, resume_command


class GanTask(Task):
    """Scores and grids beside the checkpoints."""

    name = "gan"
    steps_option = "--steps says"

    def __init__(self, config: Any, built: Any) -> None:
        super().__init__(config, built)
        self.data, self.scores = built.data, built.scores
        self.data.seed, self.data.critic_steps = config.seed, config.model.critic_steps
        self.steps = config.steps

    @property
    def callbacks(self) -> list[Callback]:
        return [Gates(), self.scores, self.built.samples]

    @property
    def options(self) -> dict[str, Any]:
        channels, size = self.data.shape
        own = {**self.config.model.as_dict(), "seed": self.config.seed, "steps": self.steps}
        return {**own, "channels": channels, "size": size}

    def module(self) -> GAN:
        return GAN(**self.options)

    def prepare(self, device: torch.device) -> None:
        self.scores.prepare(self.data, device)

    def beginning(self, module: GAN) -> str:
        data, model = self.data, self.config.model
        return (
            f"{len(data.real):,} images of {data.dataset}, {data.shape[1]}x{data.shape[1]};"
            f" generator {count(module.generator):,}, critic {count(module.critic):,} parameters;"
            f" norm {model.norm}, loss {model.loss}, penalty {model.penalty}"
        )

    def ending(self, run: Run) -> list[str]:
        lines = [f"  grids        {run.samples}"]
        if read_lines(run.scores):
            lines.append(f"  scores       {run.scores}  ({self.scores.cost})")
        lines += ["next:", f"  msngan sample {run.name}{place(run)}"]
        lines.append(f"  msngan leaderboard{place(run)}")
        lines.append(f"  {resume_command(run)} --steps N   (to train longer)")
        return lines

    @property
    def stopped(self) -> str | None:
        return self.scores.collapse

    def stopping(self, run: Run) -> list[str]:
        """Which checkpoint to use, and how to go on after a collapse."""
        best = self.scores.best
        lines = []
        if best is not None:
            lines.append(f"  best         {run.best}  (step {best.step}: the one to use)")
        lines += [f"  scores       {run.scores}  ({self.scores.cost})", "next:"]
        if best is not None:
            lines.append(f"  msngan sample {shlex.quote(str(run.best))}")
        again = f"{resume_command(run)} --scores.stop_on_collapse false"
        return [*lines, f"  {again}   (to go on all the same)"]
