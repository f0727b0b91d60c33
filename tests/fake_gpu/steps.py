"""Counts what whole training steps ask of a GPU; prints JSON. python -m fake_gpu.steps '{...}' ...

Each argument holds options of GAN, and of these: batch_size, mirror, precision, device; graph: play
steps as CUDA graphs; checks: check for a collapse after each; reads: read a value of the critic in
each pass; again: count the first steps of a second fit. Of a step that is not captured the counts
have the reason, as a name. PROCESSES in the environment: of the first of so many.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fake_gpu import counters
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.plugins.environments import LightningEnvironment

from msngan.bench.step import Synthetic
from msngan.gan import GAN
from msngan.norms import OptionalSpectralNorm, WeightPart
from msngan.runs import distributed
from msngan.training.callbacks.checkpoints import Stop
from msngan.training.callbacks.collapse_checks import CollapseChecks
from msngan.training.launch import Together, World, synchronise

FIRST = 6  # steps before those that are counted; they allocate, and are captured
COUNTED = 2


class Count(Callback):
    """Counts the steps between `first` and `first` + COUNTED."""

    def __init__(self, first: int = FIRST) -> None:
        self.found: Counter[str] = Counter()
        self.first = first

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._begin(trainer)

    def _begin(self, trainer: Trainer) -> None:
        if trainer.global_step == self.first:
            waits.clear()
            torch.cuda.set_sync_debug_mode("warn")
            self.before = counters.counts()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._begin(trainer)
        if trainer.global_step == self.first + COUNTED:
            self.found = counters.counts() - self.before
            torch.cuda.set_sync_debug_mode("default")
            trainer.should_stop = True


def counted(options: dict[str, Any]) -> Counter[str]:
    """The counts of COUNTED steps."""
    data = Synthetic(options.pop("batch_size", 8))
    data.place = options.pop("device", "auto")
    data.mirror, precision = options.pop("mirror", False), options.pop("precision", "32-true")
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    quiet |= {
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    }
    given: dict[str, Any] = {"accelerator": "gpu", "devices": 1, "precision": precision}
    callbacks: list[Callback] = [CollapseChecks(1)] if options.pop("checks", False) else []
    graph, reads, again = (options.pop(name, False) for name in ("graph", "reads", "again"))
    gan = GAN(**{"width": 8, "loss": "nonsaturating", "size": 32, **options})
    # What would be decided by numbers, which mean nothing here.
    gan.check_finite = lambda: None
    for part in gan.modules():
        if isinstance(part, OptionalSpectralNorm):
            part.decide = lambda *_: None
        if isinstance(part, WeightPart):
            part._zero = False  # or each pass reads whether its weight is, and a byte at random
    if reads:
        gan.critic.register_forward_hook(lambda *given: (given[-1].sum().item(), None)[1])
    if (size := distributed.count()) > 1:
        environment = LightningEnvironment()
        environment.set_world_size(size)
        environment.set_global_rank(distributed.rank())
        environment.local_rank = distributed.rank
        synchronise(gan, centring=True)
        callbacks.append(Stop())
        given |= {"devices": size, "strategy": Together(World(size, environment=environment))}
    said: list[str] = []
    if graph:
        gan.capture_steps(said.append)
    with distributed.even():
        for count in [Count(), Count(0)] if again else [Count()]:
            Trainer(callbacks=[*callbacks, count], max_epochs=-1, **given, **quiet).fit(gan, data)
    lines = {f"waits at {line}": number for line, number in waits.items()}
    return count.found | Counter(lines) | Counter(said)


def notice(message: Warning | str, *_: Any) -> None:
    """Count a wait that torch reports, by the line of the package that asked for it."""
    if "synchroniz" in str(message):
        lines = [each for each in traceback.extract_stack() if "/msngan/" in each.filename]
        waits.update(f"{Path(each.filename).name}:{each.lineno}" for each in lines[-1:])


waits: Counter[str] = Counter()


def join(size: int) -> None:
    """Go on as `size` processes, each with a GPU."""
    place = f"file://{tempfile.mkdtemp()}/meet"
    rank = next((number for number in range(1, size) if not os.fork()), 0)
    torch.cuda.set_device(rank)
    about = {"init_method": place, "rank": rank, "world_size": size}
    dist.init_process_group("cpu:gloo,cuda:nccl", **about)


if __name__ == "__main__":
    warnings.simplefilter("always")
    warnings.showwarning = notice
    if (size := int(os.environ.get("PROCESSES", "1"))) > 1:
        join(size)
    found = [counted(json.loads(each)) for each in sys.argv[1:]]
    if distributed.rank() == 0:
        print(json.dumps(found))
