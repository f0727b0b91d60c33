"""What happens inside a network while it trains: the file, and how it is measured.

`dynamics_file` needs no torch and is what is imported from here; `measure` and `weight_measures`
are imported by their names.
"""

from msngan.training.dynamics.dynamics_file import (
    PER_LAYER,
    Dynamics,
    appended,
    read,
    until,
    write,
)

__all__ = ["PER_LAYER", "Dynamics", "appended", "read", "until", "write"]
