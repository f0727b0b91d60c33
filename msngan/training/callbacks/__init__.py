"""What happens around training steps: checkpoints, scores, grids, curves, progress, signals."""

from pytorch_lightning import Callback

from msngan.training.callbacks.accuracy import Accuracy
from msngan.training.callbacks.anomaly import Anomaly
from msngan.training.callbacks.checkpoints import AtomicIO, Checkpoints, Dump, Stop
from msngan.training.callbacks.collapse_checks import CollapseChecks
from msngan.training.callbacks.dynamics import Dynamics
from msngan.training.callbacks.progress import Gates, Progress, Records, TensorBoard
from msngan.training.callbacks.run_callback import RunCallback
from msngan.training.callbacks.samples import Samples
from msngan.training.callbacks.scores import Scores

OF_PLUGINS: dict[str, type[Callback]] = {}  # registered by name; each run has one of each

__all__ = [
    "OF_PLUGINS",
    "Accuracy",
    "Anomaly",
    "AtomicIO",
    "Checkpoints",
    "CollapseChecks",
    "Dump",
    "Dynamics",
    "Gates",
    "Progress",
    "Records",
    "RunCallback",
    "Samples",
    "Scores",
    "Stop",
    "TensorBoard",
]
