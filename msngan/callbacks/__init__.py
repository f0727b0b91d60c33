"""What happens around training: checkpoints, scores, grids, records, progress, signals."""

from msngan.callbacks.accuracy import Accuracy
from msngan.callbacks.anomaly import Anomaly
from msngan.callbacks.base import RunCallback
from msngan.callbacks.checkpoints import AtomicIO, Checkpoints
from msngan.callbacks.dump import Dump
from msngan.callbacks.dynamics import Dynamics
from msngan.callbacks.gates import Gates
from msngan.callbacks.health import Health
from msngan.callbacks.interrupt import Interrupt
from msngan.callbacks.progress import Progress
from msngan.callbacks.records import Records
from msngan.callbacks.samples import Samples
from msngan.callbacks.scores import Scores
from msngan.callbacks.stop import StopAt

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
