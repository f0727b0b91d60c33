"""Several processes: what DistributedDataParallel is for, without its wrapper.

The wrapper assumes one backward pass of one loss through all parameters, which no GAN has. Here all
start with the first process's weights, and before each optimizer step the gradients are summed in
one exchange; every process then takes the same step, so weights stay equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pytorch_lightning import LightningModule
from pytorch_lightning.plugins import ClusterEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.optim import Optimizer

from msngan import norms
from msngan.runs import distributed as processes


class Together(DDPStrategy):
    """For processes that are there already and have met: see msngan.training.launch.

    The losses that go backward are those of the global batch, of which each process holds its own
    part of the graph: hence sums, and no means.
    """

    strategy_name = "together"

    def __init__(self, cluster_environment: ClusterEnvironment) -> None:
        super().__init__(cluster_environment=cluster_environment)
        self._own: list[Tensor] = []  # statistics that are not synchronised

    def _configure_launcher(self) -> None:
        """They are launched already."""

    def configure_ddp(self) -> None:
        """In place of the wrapper: the same weights everywhere."""
        module = self.lightning_module
        assert module is not None
        processes.from_first([*module.parameters(), *module.buffers()])
        self._own = list(norms.own_statistics(module))

    def pre_backward(self, closure_loss: Tensor) -> None:
        """The wrapper's business."""

    def optimizer_step(
        self,
        optimizer: Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Sum the gradients, then step as one process would."""
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        processes.sum_gradients(parameters)
        made = super().optimizer_step(optimizer, closure, model, **kwargs)
        # As in DistributedDataParallel: else a checkpoint would hold one process's, and a resumed
        # run would go on otherwise.
        processes.from_first(self._own)
        return made


def synchronise(module: LightningModule, centring: bool) -> None:
    """Let norms use the batches of all processes; centring: those that centre, too."""
    norms.synchronise(module)
    for part in module.modules():
        if isinstance(part, norms.Centring) and not centring:
            part.sync = False
