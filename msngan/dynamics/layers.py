"""The two weights of a layer: what an optimizer moves, and what the layer computes with."""

from __future__ import annotations

from torch import Tensor, nn

from msngan.norms import NormLayer, WeightPart


def parameter_of(layer: nn.Module) -> Tensor:
    """The weight that an optimizer moves."""
    assert isinstance(layer.weight, Tensor)
    return layer.weight


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that the layer computes with, by what its norm's estimates are; writes nothing.

    In training `NormLayer.effective_weight` may improve an estimate first. This never does.
    """
    weight = parameter_of(layer)
    part = layer.weight_norm if isinstance(layer, NormLayer) else None
    if part is None:
        return weight
    if isinstance(part, WeightPart):
        return part.normalised(weight)
    assert isinstance(part, nn.Module)
    training = part.training
    part.eval()
    try:
        return part(weight)
    finally:
        part.train(training)
