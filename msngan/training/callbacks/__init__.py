"""What happens around training steps: checkpoints, scores, grids, curves, progress, signals."""

from pytorch_lightning import Callback

OF_PLUGINS: dict[str, type[Callback]] = {}  # registered by name; each run has one of each
