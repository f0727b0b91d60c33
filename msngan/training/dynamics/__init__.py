"""What happens inside a network while it trains: how it is kept, and how it is measured.

`read` and the record need no torch. The measures are torch's and are imported by their own names:
`gradients` and `preactivations` (of a step), `spectra` and `operator` (of a weight), `complexity`
(of a network), `measure` (all of them at once).
"""

from msngan.training.dynamics.files import read, write
from msngan.training.dynamics.record import PER_LAYER, Dynamics, appended, until

__all__ = ["PER_LAYER", "Dynamics", "appended", "read", "until", "write"]
