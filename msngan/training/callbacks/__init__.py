"""What happens around training: checkpoints, scores, grids, records, progress, signals."""

from msngan.training.callbacks.accuracy import Accuracy
from msngan.training.callbacks.anomaly import Anomaly
from msngan.training.callbacks.base import RunCallback
from msngan.training.callbacks.checkpoints import AtomicIO, Checkpoints
from msngan.training.callbacks.dump import Dump
from msngan.training.callbacks.dynamics import Dynamics
from msngan.training.callbacks.gates import Gates
from msngan.training.callbacks.health import Health
from msngan.training.callbacks.interrupt import Interrupt
from msngan.training.callbacks.progress import Progress
from msngan.training.callbacks.records import Records
from msngan.training.callbacks.samples import Samples
from msngan.training.callbacks.scores import Scores
from msngan.training.callbacks.stop import StopAt

__all__ = [
    "Accuracy",
    "Anomaly",
    "AtomicIO",
    "Checkpoints",
    "Dump",
    "Dynamics",
    "Gates",
    "Health",
    "Interrupt",
    "Progress",
    "Records",
    "RunCallback",
    "Samples",
    "Scores",
    "StopAt",
]
