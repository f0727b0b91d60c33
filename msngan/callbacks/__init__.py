"""What happens around training: checkpoints, scores, grids, records, progress, signals."""

from msngan.callbacks.checkpoints import AtomicIO, Checkpoints
from msngan.callbacks.gates import Gates
from msngan.callbacks.interrupt import Interrupt
from msngan.callbacks.progress import Progress
from msngan.callbacks.records import Records
from msngan.callbacks.samples import Samples
from msngan.callbacks.scores import Scores
from msngan.callbacks.stop import StopAt

__all__ = [
    "AtomicIO",
    "Checkpoints",
    "Gates",
    "Interrupt",
    "Progress",
    "Records",
    "Samples",
    "Scores",
    "StopAt",
]
