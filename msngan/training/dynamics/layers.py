"""The weight that a layer computes with, without improving what its norm estimates."""

from __future__ import annotations

from torch import Tensor, nn

from msngan.norms import NormLayer, WeightPart, stored


def effective_weight(layer: nn.Module) -> Tensor:
    """The weight that the layer computes with, by what its norm's estimates are; writes nothing.

    In training, reading `layer.weight` may improve an estimate first. This never does.
    """
    weight = stored(layer)
    part = layer._modules.get("weight_norm") if isinstance(layer, NormLayer) else None
    if part is None:
        return weight
    if isinstance(part, WeightPart):
        return part.normalised(weight)
    training = part.training
    part.eval()
    try:
        return part(weight)
    finally:
        part.train(training)
