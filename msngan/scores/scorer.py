"""From real images and options to a scorer of generators: what `fit` and `evaluate` share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from msngan.data import ImageData
from msngan.leaderboard.ranking import bias_note
from msngan.networks import draw_samples
from msngan.networks.sampling import classes_of
from msngan.networks.standing import BATCH, with_standing_statistics
from msngan.runs import distributed, rng
from msngan.runs.folder import UserError, counted, did_you_mean
from msngan.runs.options import OWN_IMAGES, named
from msngan.scores import embedded
from msngan.scores.by_class import by_class
from msngan.scores.embedded import EmbeddedExtractor, Recipe, shipped
from msngan.scores.evaluation import Result, Sampler, evaluate_sampler
from msngan.scores.extractors import Extractor, InceptionExtractor, find_weights
from msngan.scores.pretrained import PRETRAINED, PretrainedExtractor, get_weights
from msngan.scores.protocol import BY_CLASS, RESIZE, USUAL, Protocol, preset
from msngan.scores.reference import Progress, Reference, in_random_order

REQUESTS = ("auto", *embedded.REQUESTS, "inception", *PRETRAINED)
NOT_CONDITIONAL = "agreement is of conditional generators, and this one is not"
NOT_FID = "its scores are not FID or IS"
EXTRACTORS: dict[str, Callable[..., Extractor]] = {}  # those of plug-ins, functions of the device


def evaluate(
    subject: nn.Module | Tensor, real: ImageData | Tensor, *, device: str = "cpu", **options: Any
) -> Scored:
    """Score a generator, or images, against real images: `msngan evaluate` for Python.

    subject: a generator (its `latent_dim` says how long z is; it is moved to `device`), or uint8
    images (N, C, H, W). real: a data set, or uint8 images (M, C, H, W) of the same shape. options:
    those of Scorer, such as protocol="paper", runs, samples, metrics, extractor, seed. Returns
    `scores` by key, each with "mean", "sd" and "values", and the `protocol` they hold under.
    UserError for an unknown protocol, extractor or metric, and for too few images.
    """
    if isinstance(subject, Tensor):
        return Scorer(real, device=device, given="as-given", **options).score_images(subject)
    classes = classes_of(subject)
    return Scorer(real, device=device, classes=classes, **options).score(subject.to(device))


@dataclass(frozen=True)
class Real:
    """Real images: uint8 (N, C, H, W); `held_out`: others of the same kind, to score against them.

    reference: the Preset.reference that they are, "train" or "test"; None for images from
    elsewhere. labels: int64 (N,), if there are any. seen: whether the generator was trained on them
    although they are test images.
    """

    images: Tensor
    held_out: Tensor | None
    dataset: str
    split: str
    reference: str | None
    labels: Tensor | None = None
    seen: bool = False

    @classmethod
    def of(cls, data: ImageData, reference: str, trained: str | None = None) -> Real:
        """The real images of a data set for a protocol's reference.

        "train" is the split trained on, "test" the test split, or the former if there is none, as
        in a folder of which all images are taken.
        trained: the split of this data set that the generator was trained on, if any.
        """
        splits = data.splits
        split, held_out = data.split, data.held_out
        whole = (data.dataset, data.split) == ("folder", "all")
        if reference == "test" and "test" in splits and not whole:
            split = "test"
            held_out = data.images("train").images if "train" in splits else None
        kind = "test" if split == "test" else "train"
        found = data.images(split)
        seen = split == "test" and trained in ("all", "test")
        return cls(found.images, held_out, data.dataset, split, kind, found.labels, seen)

    @property
    def labelled(self) -> bool:
        """Whether there are labels from which an extractor can be trained."""
        return self.labels is not None and int(self.labels.max()) > 0

    @property
    def warning(self) -> str | None:
        text = (
            f"the generator was trained on the {self.dataset} test images it is scored against; for"
            " a score against unseen images train with --data.split train"
        )
        return text if self.seen else None


def check_given(images: Tensor, real: Real, runs: int, samples: int) -> None:
    """UserError if given images are fewer than a protocol needs, or of another shape.

    A Scorer checks this too, but only after it has embedded all real images.
    """
    if images.shape[1:] != real.images.shape[1:]:
        one, other = ("x".join(map(str, x.shape[1:])) for x in (images, real.images))
        raise UserError(
            f"--samples holds images of {one}, the reference of {other} (channels x height x"
            " width); give --size and --channels to bring both to one shape"
        )
    if len(images) < runs * samples:
        raise UserError(
            f"--samples holds {counted(len(images), 'image')}, too few for {runs} x {samples}"
            " samples; give"
            f" more, or --runs 1 --images {len(images)}, which is a protocol of its own"
        )


@dataclass(frozen=True)
class Scored:
    """One evaluation: `scores` by key, the fields of a score line, and a line to read."""

    result: Result
    protocol: Protocol
    dimensions: int
    via: str
    warning: str | None = None

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
            "floors": self.result.real_data,
        }

    @property
    def note(self) -> str | None:
        """The problem with so few samples, if there is one."""
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
    """An extractor, a reference and a protocol, ready before the first score.

    protocol: a name in PRESETS or the path of a YAML file; runs, samples, resize: override its own.
    inception_weights, extractor_weights: files; see `choose`. via:
    whose arithmetic, of BACKENDS. metrics: names in METRICS. `announcement` says which extractor
    was chosen, and why; `warning`, if any, what is wrong with the reference. UserError for anything
    that is not available.
    """

    def __init__(
        self,
        real: Real | ImageData | Tensor,
        *,
        extractor: str = "auto",
        protocol: str = "paper",
        device: torch.device | str = "cpu",
        inception_weights: str | None = None,
        extractor_weights: str | None = None,
        runs: int | None = None,
        samples: int | None = None,
        resize: str | None = None,
        seed: int = 0,
        via: str = "own",
        metrics: Collection[str] = USUAL,
        needs: str | None = None,
        given: str | None = None,
        classes: int = 0,
        truncation: float | None = None,
        standing: int = 0,
        progress: Progress | None = None,
    ) -> None:
        """real: an ImageData is the data that the generator is trained on.

        needs: a role that the extractor must have. given: the protocol's quantisation, if images
        are bytes already: score_images(). classes: of a conditional generator; its labels are drawn
        from those of the real images, if these have labels of as many classes, otherwise uniformly.
        truncation, standing: how a generator's samples are drawn, see `latents` and
        `with_standing_statistics`. progress: of the reference's images.
        """
        if given is not None and (truncation is not None or standing):
            raise UserError("truncation and standing are of a generator, not of given images")
        name, sizes = preset(protocol)
        if resize not in (None, *RESIZE):
            raise UserError(f"resize is {resize!r}; choose from {', '.join(RESIZE)}")
        if isinstance(real, ImageData):
            real = Real.of(real, sizes.reference, real.split)
        elif isinstance(real, Tensor):
            real = Real(real, None, "folder", "all", None)
        images = real.images
        self.extractor, self.announcement = choose(
            extractor,
            real.dataset,
            images.shape[1],
            device,
            inception_weights,
            real.labelled,
            extractor_weights=extractor_weights,
            clean=(resize or sizes.resize) == "clean",
        )
        roles = self.extractor.roles(metrics)
        if not roles or needs not in (None, *self.extractor.keys):
            raise UserError(
                f"{self.extractor.name} has no classes, which `is` needs; use fid, kid or prc"
            )
        self.reference = Reference.of(images, self.extractor, progress=progress)
        self.real, self.metrics, self.via = real, tuple(metrics), via
        self.warning, self.classes = real.warning, classes
        self.labels = _labels(real.labels, classes) if classes else None
        # what every conditional generator has goes without saying where there is none
        asked = [role for role in roles if role == "intra" or (role in BY_CLASS and classes)]
        facts = (images, self.labels, real.dataset, classes, self.extractor, self.reference)
        self.by_class, self.left_out = by_class(*facts, asked, progress)
        if not {*roles} - {*BY_CLASS} | {*self.by_class.roles}:
            raise UserError(f"nothing to score: {'; '.join(self.left_out) or NOT_CONDITIONAL}")
        changed = runs not in (None, sizes.runs) or samples not in (None, sizes.samples)
        changed |= resize not in (None, sizes.resize)
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
            labels="uniform" if classes and self.labels is None else "reference",
            truncation=None if truncation is None else float(truncation),
            standing=standing,
        )

    def labels_of(self, count: int, seed: int) -> Tensor | None:
        """The labels of a run of a conditional generator's samples, int64 (count,)."""
        if not self.classes:
            return None
        draw = rng.generator(seed, 0, 0, "labels")
        if self.labels is None:
            return torch.randint(self.classes, (count,), generator=draw)
        return self.labels[torch.randint(len(self.labels), (count,), generator=draw)]

    def score(self, generator: nn.Module, progress: Progress | None = None) -> Scored:
        """Sample and score; training's random streams and the modules' modes are unchanged."""
        protocol = self.protocol
        truncate, truncation = protocol.quantisation == "truncate-clamp", protocol.truncation
        if protocol.standing:
            labels = self.labels_of(protocol.standing * BATCH, protocol.seed)
            how = protocol.standing, protocol.seed
            with named("standing"):
                generator = with_standing_statistics(
                    generator, *how, truncation=truncation, labels=labels
                )

        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            share = distributed.share(count)
            labels = self.labels_of(count, seed)
            return draw_samples(
                generator,
                count,
                seed,
                only=share,
                truncate=truncate,
                labels=labels,
                truncation=truncation,
            )

        return self._scored(sampler, progress)

    def score_images(self, images: Tensor, progress: Progress | None = None) -> Scored:
        """Score given uint8 images (N, C, H, W): disjoint parts, in a fixed random order.

        Random, because a folder is often sorted by class. UserError for fewer than the protocol
        needs, or of another shape than the real ones.
        """
        check_given(images, self.real, self.protocol.runs, self.protocol.samples)
        order = in_random_order(len(images))

        def sampler(count: int, seed: int) -> Iterator[Tensor]:
            run = seed - self.protocol.seed_of(0)
            part = order[run * count : (run + 1) * count][distributed.share(count)]
            return iter(images[part].split(250))

        return self._scored(sampler, progress)

    def _scored(self, sampler: Sampler, progress: Progress | None) -> Scored:
        result = evaluate_sampler(
            sampler,
            self.protocol,
            self.extractor,
            self.reference,
            metrics=self.metrics,
            backend=self.via,
            held_out=self.real.held_out,
            by_class=self.by_class,
            labels=self.labels_of,
            progress=progress,
        )
        return Scored(result, self.protocol, self.extractor.dimensions, self.via, self.warning)


def _labels(real: Tensor | None, classes: int) -> Tensor | None:
    """The labels of real images, if they are those of `classes` classes."""
    if real is None or int(real.min()) < 0 or int(real.max()) >= classes:
        return None
    return real


def choose(
    request: str,
    dataset: str,
    channels: int,
    device: torch.device | str = "cpu",
    inception_weights: str | None = None,
    labelled: bool = False,
    *,
    extractor_weights: str | None = None,
    clean: bool = False,
) -> tuple[Extractor, str]:
    """The extractor for `request` and a line that says which it is and why.

    request: auto (Inception if there is a GPU and its weights, otherwise embedded), a name in
    embedded.REQUESTS, inception, a name in PRETRAINED, or the path of a .safetensors file.
    dataset, channels: of the images to be scored; labelled: whether an extractor of their own
    could be trained. inception_weights, extractor_weights: files with the weights of Inception, and
    of a network in PRETRAINED. clean: see Extractor.
    """
    known = (*REQUESTS, *EXTRACTORS)
    if request not in known and not request.endswith(".safetensors"):
        raise UserError(
            f"unknown extractor {request!r}{did_you_mean(request, list(known))}; choose one of"
            f" {', '.join(known)}, or give a .safetensors file"
        )
    gpu = str(device).startswith("cuda")
    if inception_weights and request != "inception" and not (request == "auto" and gpu):
        raise UserError(
            f"Inception's weights {inception_weights} are given, but the extractor is {request}:"
            " use the extractor inception, or leave the weights out"
        )
    if extractor_weights and request not in PRETRAINED:
        raise UserError(
            f"extractor weights {extractor_weights} are given, but the extractor is {request}: they"
            " are for DINOv2 and CLIP, such as dinov2-vit-b-14; Inception has an option of its own"
        )
    if request in PRETRAINED:
        if not extractor_weights:
            raise UserError(f"extractor {request}: its weights are missing; {get_weights(request)}")
        other = PretrainedExtractor(request, extractor_weights, device, clean)
        return other, f"extractor: {other.name} from {extractor_weights}; {NOT_FID}"
    if request in EXTRACTORS:
        if clean:
            raise UserError(f"extractor {request}, of a plug-in, resizes in its own way alone")
        made = EXTRACTORS[request](device=device)
        if made.official_inception and not isinstance(made, InceptionExtractor):
            raise UserError(
                f"extractor {request} says that it is the official Inception; it is not"
            )
        return made, f"extractor: {made.name}, of a plug-in; {NOT_FID}"
    if request == "inception":
        inception = InceptionExtractor.load(inception_weights, device, clean)
        are = "its scores are FID, IS and KID" if inception.official_inception else NOT_FID
        return inception, f"extractor: {inception.name}; {are}"
    if request.endswith(".safetensors"):
        own = EmbeddedExtractor.load(request, device, clean)
        return own, f"extractor: {own.name} from {request}; {NOT_FID}"
    why = ""
    if request == "auto" and gpu:
        if weights := find_weights(inception_weights):
            inception = InceptionExtractor(weights, device, clean)
            return inception, f"extractor: {inception.name}, as there is a GPU and its weights"
        why = " (Inception's weights were not found)"
    elif request == "auto":
        why = " (there is no GPU)"
    network = embedded.REQUESTS.get(request, Recipe.network)
    files = shipped(network)
    chosen = dataset if dataset in files else "cifar10" if channels == 3 else "mnist"
    extractor = EmbeddedExtractor.load(files[chosen], device, clean)
    line = f"extractor: {extractor.name}{why}; {NOT_FID}"
    if chosen != dataset:
        line += f"; it was trained on {chosen}, not on {dataset}"
        if labelled:
            root = " --root ROOT" if dataset in OWN_IMAGES else ""
            asked = "" if network == Recipe.network else f" --network {network}"
            line += f": train one with `msngan extractor fit --dataset {dataset}{root}{asked}`"
    return extractor, line
