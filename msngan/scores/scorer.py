"""From real images and a request to a scorer of generators: what `fit` and `evaluate` share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msngan.data import DATASETS, ImageData
from msngan.networks import draw_samples
from msngan.runs.folder import UserError
from msngan.scores import sharing as processes
from msngan.scores.evaluation import Result, Sampler, evaluate
from msngan.scores.extractors import choose
from msngan.scores.interface import Extractor
from msngan.scores.presets import preset
from msngan.scores.protocol import METRICS, Protocol, bias_note
from msngan.scores.reference import Reference, in_random_order

Progress = Callable[[int, int], None]  # (images done, images in all)


@dataclass(frozen=True)
class Real:
    """Real images: uint8 (N, C, H, W); `held_out`, others of the same kind, for the floors.

    reference: what they are to a Preset, "train" or "test"; None for images from elsewhere.
    """

    images: Tensor
    held_out: Tensor | None
    dataset: str
    split: str
    reference: str | None

    @classmethod
    def of(cls, data: ImageData, reference: str) -> Real:
        """Of a data set, for a protocol's reference.

        "train" is the split trained on, "test" the test split, or the former where there is none.
        """
        splits = DATASETS[data.dataset].splits
        if reference == "test" and "test" in splits:
            held_out = data.images("train").images if "train" in splits else None
            return cls(data.images("test").images, held_out, data.dataset, "test", "test")
        kind = "test" if data.split == "test" else "train"
        return cls(data.images(data.split).images, data.held_out, data.dataset, data.split, kind)


def check_given(images: Tensor, real: Real, runs: int, samples: int) -> None:
    """UserError where given images are fewer than a protocol takes, or of another shape.

    A Scorer refuses them too, but only after it has embedded all real images.
    """
    if images.shape[1:] != real.images.shape[1:]:
        one, other = ("x".join(map(str, x.shape[1:])) for x in (images, real.images))
        raise UserError(
            f"--samples holds images of {one}, the reference of {other} (channels x height x"
            " width); give --size and --channels to bring both to one shape"
        )
    if len(images) < runs * samples:
        raise UserError(
            f"--samples holds {len(images)} images, too few for {runs} run(s) of {samples}; give"
            f" more, or --runs 1 --images {len(images)}, which is a protocol of its own"
        )


@dataclass(frozen=True)
class Scored:
    """One evaluation: `scores` by key, the fields of a score line, and a line to read."""

    result: Result
    protocol: Protocol
    dimensions: int
    via: str

    @property
    def scores(self) -> dict[str, dict[str, Any]]:
        return self.result.scores

    @property
    def line(self) -> dict[str, Any]:
        return {
            "protocol": self.protocol.as_dict(),
            "protocol_id": self.protocol.id,
            "dimensions": self.dimensions,
            "via": self.via,
            "scores": self.result.scores,
            "floors": self.result.floors,
        }

    @property
    def note(self) -> str | None:
        """What is wrong with so few samples, if anything is."""
        return bias_note(self.protocol.samples, self.dimensions)

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
    """An extractor, a reference and a protocol, ready before the first score is wanted.

    protocol: a name in PRESETS or the path of a YAML file; runs, samples: instead of its own.
    via: whose arithmetic, of BACKENDS. metrics: names in METRICS. UserError for what cannot be had.
    """

    def __init__(
        self,
        real: Real | ImageData,
        *,
        extractor: str = "auto",
        protocol: str = "paper",
        device: torch.device | str = "cpu",
        inception_weights: str | None = None,
        runs: int | None = None,
        samples: int | None = None,
        seed: int = 0,
        via: str = "own",
        metrics: Collection[str] = tuple(METRICS),
        given: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        """given: the protocol's quantisation where images are bytes already: score_images().

        progress: of the reference's images.
        """
        name, sizes = preset(protocol)
        if isinstance(real, ImageData):
            real = Real.of(real, sizes.reference)
        images = real.images
        self.extractor: Extractor
        self.extractor, self.announcement = choose(
            extractor, real.dataset, images.shape[1], device, inception_weights
        )
        self.reference = Reference.of(images, self.extractor, progress=progress)
        self.real, self.metrics, self.via = real, tuple(metrics), via
        changed = runs not in (None, sizes.runs) or samples not in (None, sizes.samples)
        changed |= real.reference != sizes.reference
        changed |= given is not None and sizes.quantisation != "round-clamp"
        self.protocol = Protocol(
            name="custom" if changed else name,
            runs=runs or sizes.runs,
            samples=samples or sizes.samples,
            splits=sizes.splits,
            dataset=real.dataset,
            split=real.split,
            reference_images=len(images),
            reference_sha256=self.reference.sha256,
            size=images.shape[2],
            channels=images.shape[1],
            extractor=self.extractor.name,
            official_inception=self.extractor.official_inception,
            resize=self.extractor.resize,
            quantisation=given or sizes.quantisation,
            seed=seed,
        )

    @property
    def keys(self) -> dict[str, str]:
        return self.extractor.keys

    def score(self, generator: nn.Module, progress: Progress | None = None) -> Scored:
        """Sample and score; training's random streams and the modules' modes stay as they are."""
        truncate = self.protocol.quantisation == "truncate-clamp"

        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            return draw_samples(
                generator, count, seed, only=processes.share(count), truncate=truncate
            )

        return self._scored(sampler, progress)

    def score_images(self, images: Tensor, progress: Progress | None = None) -> Scored:
        """Score uint8 images (N, C, H, W) that are there: disjoint parts, in a fixed random order.

        Random, for a folder is often sorted by class. UserError for fewer than the protocol takes,
        or of another shape than the real ones.
        """
        check_given(images, self.real, self.protocol.runs, self.protocol.samples)
        order = in_random_order(len(images))

        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            run = seed - self.protocol.seed_of(0)
            part = order[run * count : (run + 1) * count][processes.share(count)]
            return iter(images[part].split(250))

        return self._scored(sampler, progress)

    def _scored(self, sampler: Sampler, progress: Progress | None) -> Scored:
        result = evaluate(
            sampler,
            self.protocol,
            self.extractor,
            self.reference,
            metrics=self.metrics,
            backend=self.via,
            real=self.real.images,
            held_out=self.real.held_out,
            progress=progress,
        )
        return Scored(result, self.protocol, self.extractor.dimensions, self.via)
