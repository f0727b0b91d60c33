"""Batch normalisation of a layer's output (Ioffe & Szegedy 2015; the paper's equation 1)."""

from torch import Tensor, nn

from msngan.norms.base import Norm


class BatchNormLast(nn.BatchNorm1d):
    """torch's BatchNorm1d for (..., C): statistics are over all axes but the last."""

    def forward(self, input: Tensor) -> Tensor:
        rows = input.reshape(-1, input.shape[-1])
        return super().forward(rows).reshape(input.shape)


def batch_norm_of(layer: nn.Module) -> nn.Module:
    """torch's BatchNorm with gain and offset for the outputs of a convolution or linear layer."""
    if isinstance(layer, nn.Linear):
        return BatchNormLast(layer.out_features)
    kinds = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    return kinds[layer.weight.dim()](layer.out_channels)  # type: ignore[union-attr, operator, arg-type]


BATCH = Norm(output=batch_norm_of, cancels_bias=True)
