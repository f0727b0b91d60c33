"""--detect-anomaly: the layer that a NaN or an infinity begins in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

from pytorch_lightning import Callback, LightningModule, Trainer

from msngan.runs.divergence import diverged
from msngan.runs.folder import UserError
from msngan.training.layer_watch import LayerWatch

if TYPE_CHECKING:
    from msngan.gan import GAN


class Anomaly(Callback):
    """Ends the run at the first layer whose output or gradient is not finite, with its name.

    Comes first: what other callbacks do with the networks after a step is not looked at. The bits
    of training are the same with it; it costs a look at every tensor.
    """

    def __init__(self, compiled: bool) -> None:
        if compiled:
            raise UserError(
                "--detect-anomaly with --model.compile: a compiled network has no layers to look"
                " at; add --model.compile false"
            )
        self._watch: LayerWatch | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = cast("GAN", pl_module)
        networks = {name: getattr(module, name) for name in module.trained}

        def found(text: str) -> NoReturn:
            problem = diverged(trainer.global_step + 1, text, module.remedy)
            problem.together = False  # the other processes may have met nothing
            raise problem

        self._watch = LayerWatch(networks, found)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        assert self._watch is not None
        self._watch.active = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert self._watch is not None
        self._watch.active = False

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._watch is not None:
            self._watch.remove()
