"""What happens around training steps: checkpoints, scores, grids, curves, progress, signals."""
