"""A whole evaluation with a warm cache, for `bench scores`: where does its time go?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from msngan.bench.references import seeded
from msngan.bench.score_settings import ScoreSettings
from msngan.bench.settings import SIZE
from msngan.networks import Generator, draw_samples
from msngan.scores.evaluation import Result, evaluate
from msngan.scores.protocol import Protocol
from msngan.scores.reference import Reference
from msngan.scores.shipped import EmbeddedExtractor, shipped

LATENT_DIM = 128


@dataclass
class Evaluation:
    """seconds() evaluates once; `spent` then holds one more dict of seconds by what they went to.

    A new generator against random images: where time goes does not depend on what is seen.
    """

    generator: nn.Module
    extractor: EmbeddedExtractor
    reference: Reference
    protocol: Protocol
    spent: list[dict[str, float]] = field(default_factory=list)

    @classmethod
    def of(cls, settings: ScoreSettings, cache: Path) -> Evaluation:
        generator = seeded(lambda: Generator(LATENT_DIM, settings.width, 3, SIZE))
        generator.to(memory_format=torch.channels_last)  # as in training, and twice as fast
        extractor = EmbeddedExtractor.load(shipped()["cifar10"])
        draw = torch.Generator().manual_seed(0)
        shape = settings.kept, 3, SIZE, SIZE
        images = torch.randint(0, 256, shape, generator=draw, dtype=torch.uint8)
        reference = Reference.of(images, extractor, cache)
        protocol = Protocol(
            name="bench",
            runs=settings.runs,
            samples=settings.samples,
            splits=1,
            dataset="random",
            split="train",
            reference_images=len(images),
            reference_sha256=reference.sha256,
            size=SIZE,
            channels=3,
            extractor=extractor.name,
            official_inception=extractor.official_inception,
            resize=extractor.resize,
        )
        return cls(generator, extractor, reference, protocol)

    def seconds(self) -> float:
        result = self._evaluated()
        self.spent.append(dict(result.seconds))
        return sum(result.seconds.values())

    def _evaluated(self) -> Result:
        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            return draw_samples(self.generator, count, seed)

        return evaluate(sampler, self.protocol, self.extractor, self.reference)
