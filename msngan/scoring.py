"""From a data set and a request to a scorer of generators: what `fit` and `evaluate` share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msngan.data import DATASETS, ImageData
from msngan.metrics.evaluation import Result, evaluate
from msngan.metrics.extractors import choose
from msngan.metrics.interface import Extractor
from msngan.metrics.protocol import PRESETS, Protocol
from msngan.metrics.reference import Reference
from msngan.models import draw_samples


@dataclass(frozen=True)
class Scored:
    """One evaluation: `scores` by key, the fields of a score line, and a line to read."""

    result: Result
    protocol: Protocol

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        return self.result.scores

    @property
    def line(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.as_dict(),
            "protocol_id": self.protocol.id,
            "scores": self.result.scores,
            "floors": self.result.floors,
        }

    @property
    def text(self) -> str:
        """'fd/embed-digits-… 1.23 ± 0.04  cs/… 9.1 ± 0.0', failures with their reason."""
        parts = []
        for key, score in self.scores.items():
            if score["mean"] is None:
                parts.append(f"{key} failed: {score['reason']}")
            else:
                spread = "" if score["sd"] is None else f" ± {score['sd']:.2g}"
                parts.append(f"{key} {score['mean']:.4g}{spread}")
        return "  ".join(parts)


class Scorer:
    """An extractor, a reference and a protocol, ready before the first score is wanted."""

    def __init__(
        self,
        data: ImageData,
        *,
        extractor: str = "auto",
        protocol: str = "paper",
        device: torch.device | str = "cpu",
        inception_weights: str | None = None,
        runs: int | None = None,
        samples: int | None = None,
        seed: int = 0,
        backend: str = "own",
    ) -> None:
        preset = PRESETS[protocol]
        split = _reference_split(data, preset.reference)
        images = data.images(split).images
        self.extractor: Extractor
        self.extractor, self.announcement = choose(
            extractor, data.dataset, images.shape[1], device, inception_weights
        )
        self.reference = Reference.of(images, self.extractor)
        self.held_out = data.held_out if preset.reference == "train" else None
        self.backend = backend
        changed = runs not in (None, preset.runs) or samples not in (None, preset.samples)
        self.protocol = Protocol(
            name="custom" if changed else protocol,
            runs=runs or preset.runs,
            samples=samples or preset.samples,
            splits=preset.splits,
            dataset=data.dataset,
            split=split,
            reference_images=len(images),
            reference_sha256=self.reference.sha256,
            size=images.shape[2],
            channels=images.shape[1],
            extractor=self.extractor.name,
            official_inception=self.extractor.official_inception,
            resize=self.extractor.resize,
            seed=seed,
        )

    @property
    def keys(self) -> dict[str, str]:
        return self.extractor.keys

    def score(
        self, generator: nn.Module, progress: Callable[[int, int], None] | None = None
    ) -> Scored:
        """Sample and score; training's random streams and the modules' modes stay as they are."""

        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            return draw_samples(generator, count, seed)

        result = evaluate(
            sampler,
            self.protocol,
            self.extractor,
            self.reference,
            backend=self.backend,  # type: ignore[arg-type]
            held_out=self.held_out,
            progress=progress,
        )
        return Scored(result, self.protocol)


def _reference_split(data: ImageData, wanted: str) -> str:
    """The split that a preset's "train" or "test" means: the one trained on, or the test split."""
    splits = DATASETS[data.dataset].splits
    return "test" if wanted == "test" and "test" in splits else data.split
