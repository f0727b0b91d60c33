"""Counts what whole training steps ask of a GPU; prints JSON. python -m fake_gpu.steps '{...}' ...

Each argument holds options of GAN, and of these: batch_size, mirror, precision, device; graph: play
steps as CUDA graphs; reads: read a value of the critic in each pass; again: count the first steps
of a second fit. Of a step that is not captured the counts have the reason, as a name.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from fake_gpu import counters
from pytorch_lightning import Callback, Trainer

from msngan.bench.step import Synthetic
from msngan.gan import GAN

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
    given = {"accelerator": "gpu", "devices": 1, "precision": precision, "max_epochs": -1}
    graph, reads, again = (options.pop(name, False) for name in ("graph", "reads", "again"))
    gan = GAN(**{"width": 8, "loss": "nonsaturating", "size": 32, **options})
    if reads:
        gan.critic.register_forward_hook(lambda *given: (given[-1].sum().item(), None)[1])
    said: list[str] = []
    if graph:
        gan.capture_steps(said.append)
    for count in [Count(), Count(0)] if again else [Count()]:
        Trainer(callbacks=[count], **given, **quiet).fit(gan, data)
    lines = {f"waits at {line}": number for line, number in waits.items()}
    return count.found | Counter(lines) | Counter(said)


def notice(message: Warning | str, *_: Any) -> None:
    """Count a wait that torch reports, by the line of the package that asked for it."""
    if "synchroniz" in str(message):
        lines = [each for each in traceback.extract_stack() if "/msngan/" in each.filename]
        waits.update(f"{Path(each.filename).name}:{each.lineno}" for each in lines[-1:])


waits: Counter[str] = Counter()

if __name__ == "__main__":
    warnings.simplefilter("always")
    warnings.showwarning = notice
    print(json.dumps([counted(json.loads(each)) for each in sys.argv[1:]]))
