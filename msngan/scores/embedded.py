"""Small frozen classifiers as feature extractors, shipped with the package.

They make scores possible where Inception's 24 million parameters and 100 MB of weights are not to
hand: on a laptop, offline, every few hundred steps. Their numbers are never called FID or IS.
"""

from __future__ import annotations

from torch import Tensor, nn


def _conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class EmbedNet(nn.Module):
    """A residual network of eight convolutions on 32x32 images.

    widths: channels of the four stages; the last is the number of features.
    Input: float32 (N, channels, 32, 32) in [-1, 1].
    """

    def __init__(self, channels: int, classes: int, widths: tuple[int, int, int, int]) -> None:
        super().__init__()
        a, b, c, d = widths
        self.body = nn.Sequential(
            _conv(channels, a),
            _conv(a, b),
            nn.MaxPool2d(2),
            _Residual(b),
            _conv(b, c),
            nn.MaxPool2d(2),
            _Residual(c),
            _conv(c, d),
        )
        self.head = nn.Linear(d, classes)

    def features(self, x: Tensor) -> Tensor:
        """(N, d): the last stage averaged over the image."""
        return self.body(x).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """(N, classes) logits."""
        return self.head(self.features(x))
