"""A small extractor and images for it, for the tests of scores."""

from __future__ import annotations

import torch
from torch import Tensor

from msngan.data import images as convert
from msngan.scores.embedded import NETWORKS, EmbeddedExtractor, EmbedNet
from msngan.scores.extractors import Extractor
from msngan.scores.protocol import Protocol
from msngan.scores.reference import Reference

METADATA = {
    "dataset": "toy",
    "channels": "3",
    "classes": "5",
    "widths": "[4, 4, 8, 8]",
    "recipe": "{}",
    "train_images": "100",
    "held_out_accuracy": "0.5000",
    "test_accuracy": "0.4000",
}


def network(kind: str = "residual") -> EmbedNet:
    torch.manual_seed(0)
    net = NETWORKS[kind](3, 5, (4, 4, 8, 8) if kind == "residual" else (1,))
    for module in net.modules():  # statistics as after training, not 0 and 1
        if hasattr(module, "running_mean"):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.1, 0.4)
    net.eval()
    with torch.no_grad():  # logits that differ around zero, or every score would be 1
        net.head.weight *= 100
        net.head.bias -= net(convert.to_float(photographs(60))).mean(0)
    return net


def photographs(count: int, channels: int = 3, size: int = 32, seed: int = 0) -> Tensor:
    """uint8 images, each of its own colour with noise on it."""
    draw = torch.Generator().manual_seed(seed)
    colour = torch.randint(0, 192, (count, channels, 1, 1), generator=draw)
    noise = torch.randint(0, 64, (count, channels, size, size), generator=draw)
    return (colour + noise).to(torch.uint8)


def protocol_of(extractor: Extractor, real: Reference, **sizes: int) -> Protocol:
    """A protocol that fits the two; three runs of 15 samples unless `sizes` says otherwise."""
    chosen: dict[str, int] = {"runs": 3, "samples": 15, "splits": 1, **sizes}
    return Protocol(
        name="test",
        dataset="toy",
        split="train",
        reference_images=real.count,
        reference_sha256=real.sha256,
        size=32,
        channels=3,
        extractor=extractor.name,
        official_inception=extractor.official_inception,
        resize=extractor.resize,
        **chosen,
    )


def extractor() -> EmbeddedExtractor:
    return EmbeddedExtractor(network(), METADATA, "ab" * 32)


def normal(rows: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, d, generator=torch.Generator().manual_seed(seed)).double()


def coloured(rows: int, d: int, seed: int = 0) -> Tensor:
    """Correlated features of spread 1/k, like a network's."""
    return normal(rows, d, seed) @ (normal(d, d, 99) / torch.arange(1, d + 1)).T
