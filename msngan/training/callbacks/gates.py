"""gates.jsonl: when the gates of the norm `optional_spectral` went on and off."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pytorch_lightning import LightningModule, Trainer

from msngan.norms import OptionalSpectralNorm
from msngan.training.callbacks.base import RunCallback

if TYPE_CHECKING:
    from msngan.classifier import Classifier


class Gates(RunCallback):
    """Writes a line for each change of a gate: step, layer, on, criterion, value, sigma.

    sigma is the factor: a gate that goes on divides what the layer computes by it. Comes before the
    callback that saves, so that no decision of a saved step is missing. No gates, no file.
    """

    def __init__(self) -> None:
        self._gates: dict[str, OptionalSpectralNorm] = {}

    @property
    def path(self) -> Path:
        return self.run.folder / "gates.jsonl"

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        gated = getattr(pl_module, "critic", None) or cast("Classifier", pl_module).network
        for name, layer in gated.named_modules():
            gate = getattr(layer, "weight_norm", None)
            if isinstance(gate, OptionalSpectralNorm):
                self._gates[name] = gate
        if trainer.is_global_zero:
            self.keep_until(trainer, self.path)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for name, gate in self._gates.items():
            for decision in gate.decisions:
                if trainer.is_global_zero:
                    line = {"step": trainer.global_step, "layer": name, **decision}
                    self.append(trainer, self.path, line)
            gate.decisions.clear()
