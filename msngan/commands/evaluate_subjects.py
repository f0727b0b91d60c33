"""What `msngan evaluate` scores: each subject with the scorer of its reference."""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msngan.commands.parser import own_options
from msngan.data import DataError, ImageData, Images
from msngan.data.datasets import fitted
from msngan.data.image_arrays import load_images
from msngan.networks import read_generator
from msngan.networks.sampling import classes_of
from msngan.networks.standing import tracked
from msngan.runs.folder import Run, UserError
from msngan.runs.options import OWN_IMAGES, named
from msngan.runs.progress_bar import progress
from msngan.runs.safe_read import object_or_empty
from msngan.scores.protocol import BY_CLASS, Preset, Protocol
from msngan.scores.reference import Progress
from msngan.scores.scorer import Real, Scored, Scorer, check_given


@dataclass(frozen=True)
class Subject:
    """A generator, or given images, and the run that its line belongs to, if any."""

    name: str
    config: str
    step: int
    weights: str
    source: str
    run: Run | None
    content: nn.Module | Tensor
    scorer: Scorer

    @property
    def remarks(self) -> list[str]:
        """What a person should know before it is scored."""
        said = [self.scorer.announcement, *self.scorer.left_out]
        if self.scorer.warning:
            said.append(f"msngan: warning: {self.name}: {self.scorer.warning}")
        scored = self.scorer.protocol.runs * self.scorer.protocol.samples
        if isinstance(self.content, Tensor) and len(self.content) > scored:
            said.append(f"{scored:,} of {len(self.content):,} images are scored")
        return said

    def score(self, progress: Progress) -> Scored:
        if isinstance(self.content, Tensor):
            return self.scorer.score_images(self.content, progress)
        return self.scorer.score(self.content.to(self.scorer.extractor.device), progress)


def of_images(options: Namespace, record: Run | None) -> list[Subject]:
    """The images of --samples against those of --against or --dataset."""
    sizes: Preset = options.sizes
    dataset = options.dataset or "folder"
    shape = options.size, options.channels
    images = _given(options.samples, "--samples", dataset, *shape).images
    if options.against is not None:
        real = _against(options.against, dataset, *shape)
    else:
        chosen = {"size": options.size, "channels": options.channels}
        real = _of_data(options, {"dataset": options.dataset, "root": options.data_root} | chosen)
    check_given(images, real, options.runs or sizes.runs, options.images or sizes.samples)
    name = record.name if record else Path(options.samples).resolve().stem
    scorer = _scorer(
        options,
        real,
        given="as-given" if options.size is None else f"as-given-{dataset}-{options.size}",
    )
    return [Subject(name, name, 0, "raw", "samples", record, images, scorer)]


def of_runs(options: Namespace, found: list[tuple[Path, Run | None]]) -> list[Subject]:
    """The generators of runs or checkpoints; those of the same data share a reference."""
    loaded = [_loaded(options, path, run) for path, run in found]
    scorers = {}
    for key, (data, facts) in {key: rest for key, *rest in loaded}.items():
        if options.against is not None:
            real = _against(options.against, data["dataset"], data["size"], data["channels"])
        else:
            real = _of_data(options, data, trained=data["split"])
        scorers[key] = _scorer(options, real, classes=classes_of(facts["content"]))
    return [Subject(**facts, scorer=scorers[key]) for key, _, facts in loaded]


def _loaded(
    options: Namespace, path: Path, run: Run | None
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """A checkpoint's data, as a key and as described, and the other fields of its Subject."""
    generator, saved = read_generator(path, options.ema)
    if options.standing:
        with named(f"--standing {options.standing}"):
            tracked(generator)
    network = saved["hyper_parameters"]
    described = saved["msngan"]["data"] | {name: network[name] for name in ("size", "channels")}
    config = object_or_empty(run.environment).get("config") if run else path.stem
    name = run.name if run else path.stem
    facts = {
        "name": name,
        "config": config if isinstance(config, str) and config else name,
        "step": int(saved["msngan"]["step"]),
        "weights": saved["weights"],
        "source": "evaluate",
        "run": run,
        "content": generator,
    }
    key = json.dumps([described, classes_of(generator)], sort_keys=True)
    return key, described, facts


def _against(path: str, dataset: str, size: int | None, channels: int | None) -> Real:
    found = _given(path, "--against", dataset, size, channels)
    return Real(found.images, None, "folder", "all", None, found.labels)


def _given(path: str, option: str, dataset: str, size: int | None, channels: int | None) -> Images:
    """Images, resized in the same way as the data set that they are compared with.

    Two ways of resizing would make them differ before anything was generated.
    """
    if dataset in OWN_IMAGES:
        return load_images(path, size, channels, option)
    try:
        found = load_images(path, None, channels, option)
    except DataError as problem:
        if size is None:
            raise
        reason = str(problem).partition("; ")[0]
        raise UserError(
            f"{reason}; beside {dataset} all must be squares of one size: resize them first"
        ) from problem
    return found if size is None else Images(fitted(found.images, size), found.labels)


def _of_data(options: Namespace, described: dict[str, Any], trained: str | None = None) -> Real:
    """The real images of a data set: the described one, changed by the options.

    trained: the split of the described data that the generator was trained on.
    """
    sizes: Preset = options.sizes
    if options.dataset and options.dataset != described["dataset"]:
        described = described | {"dataset": options.dataset, "root": None, "split": None}
        described = described | {"image_column": None, "label_column": None}
        trained = None
    if options.data_root:
        described = described | {"root": options.data_root}
    reference = sizes.reference
    if options.split:
        described = described | {"split": options.split}
        reference = "test" if options.split == "test" else "train"
    with own_options("--data-root"):
        return Real.of(ImageData(**described), reference, trained)


def _scorer(options: Namespace, real: Real, given: str | None = None, classes: int = 0) -> Scorer:
    _check_neighbours(options, real)
    with progress("reference") as watch:
        made = Scorer(
            real,
            extractor=options.extractor,
            protocol=options.protocol,
            device=torch.device(options.device),
            inception_weights=options.inception_weights,
            extractor_weights=options.extractor_weights,
            resize=options.resize,
            runs=options.runs,
            samples=options.images,
            seed=options.seed or 0,
            via=options.via,
            metrics=options.metrics,
            given=given,
            classes=classes,
            truncation=options.truncation,
            standing=options.standing or 0,
            progress=watch,
        )
    _check_classes(options, made)
    return made


def _check_neighbours(options: Namespace, real: Real) -> None:
    """UserError where no set of so many images has as many neighbours as the scores look at."""
    if "prc" not in options.metrics:
        return
    nearest = max(Protocol.precision_neighbours, Protocol.coverage_neighbours)
    samples = options.images or options.sizes.samples
    few = {f"--images {samples}": samples, f"{len(real.images)} real images": len(real.images)}
    for what, count in few.items():
        if count <= nearest:
            raise UserError(
                f"{what}: too few for prc, which needs at least {nearest + 1}; give more, or leave"
                f" prc out: --metrics {','.join(_without(options, 'prc'))}"
            )


def _check_classes(options: Namespace, scorer: Scorer) -> None:
    """UserError where a set of samples has too few of some class for the scores of classes."""
    of_class, protocol = scorer.by_class, scorer.protocol
    for run in range(protocol.runs if "intra" in of_class.roles else 0):
        labels = scorer.labels_of(protocol.samples, protocol.seed_of(run))
        if labels is not None and of_class.fewest(labels) < 2:
            raise UserError(
                f"--images {protocol.samples}: a class has fewer than 2 of them, too few for intra;"
                f" give more, or leave intra out: --metrics {','.join(_without(options, 'intra'))}"
            )


def _without(options: Namespace, name: str) -> list[str]:
    """What --metrics may still say: those that are asked for and that any images have."""
    return [each for each in options.metrics if each not in (name, *BY_CLASS)] or ["fid"]
