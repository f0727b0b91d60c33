"""LabelledData: images with labels for a classifier, a validation part apart from the test set."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from msngan.data import images as convert
from msngan.data.datamodule import ImageData
from msngan.data.datasets import DATASETS, DatasetName, Images
from msngan.data.folder import DataError
from msngan.data.loader import StepLoader
from msngan.runs import bounds as checks
from msngan.runs import distributed as processes
from msngan.runs import rng

Part = Literal["train", "validation", "test"]
LABELLED = [name for name, entry in DATASETS.items() if {"train", "test"} <= {*entry.splits}]


@dataclass(frozen=True)
class Pairs:
    """Images and labels, indexed together."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


class LabelledData(ImageData):
    """Images with labels: uint8 in memory, batches standardised: ((x / 255) - mean) / sd.

    Args:
        dataset: name of the data set; it needs labels and a test split.
        root: folder of its files; null: MSNGAN_DATA, else ~/.cache/msngan/data.
        size: height and width in pixels; null: the data set's own. MNIST's is 28, not the 32 that
            it has for GANs.
        channels: 1 or 3; null: the data set's own.
        batch_size: images of one step, per process.
        validation: training images that are held out to choose an epoch by, the same for every
            seed; 0: none. The test set chooses nothing.
        crop: pixels of black border, out of which each image is cut at random; 0: none.
        mirror: flip each image left to right with probability one half.
        mean: of each channel, in [0, 1], to subtract; null: that of the training images.
        sd: of each channel, in [0, 1], to divide by; null: that of the training images.
        download: fetch official files that are missing.
        limit: use the first so many training images only; null: all.
        test_limit: use the first so many test images only; null: all.
    """

    size_step: ClassVar[int] = 1

    def __init__(
        self,
        dataset: DatasetName = "mnist",
        root: str | None = None,
        size: int | None = None,
        channels: int | None = None,
        batch_size: int = 128,
        validation: int = 5000,
        crop: int = 0,
        mirror: bool = False,
        mean: list[float] | None = None,
        sd: list[float] | None = None,
        download: bool = True,
        limit: int | None = None,
        test_limit: int | None = None,
    ) -> None:
        if dataset in DATASETS and dataset not in LABELLED:
            raise DataError(
                f"--data.dataset {dataset}: a classifier needs labels and a test split; choose one"
                f" of {', '.join(LABELLED)}"
            )
        if size is None and dataset in ("mnist", "fashion"):
            size = 28
        super().__init__(
            dataset, root, "train", size, channels, batch_size, mirror, download, limit
        )
        for name, value in (("validation", validation), ("crop", crop)):
            checks.at_least(f"--data.{name}", value, 0)
        checks.at_least("--data.test_limit", test_limit, 1)
        for each in mean or []:
            checks.not_negative("--data.mean: each", each)
        for each in sd or []:
            checks.positive("--data.sd: each", each)
        self.validation, self.crop, self.test_limit = validation, crop, test_limit
        self.mean, self.sd = mean, sd

    @cached_property
    def _held(self) -> tuple[Tensor, Tensor]:
        """Indices, in order, of the images to train on and of those to validate with."""
        count = len(self._all.images)
        if self.validation > count - self.batch_size:
            raise DataError(
                f"--data.validation {self.validation} leaves {count - self.validation} of {count}"
                f" images to train on, less than one batch of {self.batch_size}; lower it"
            )
        draw = rng.generator(0, 0, 0, "validation")
        order = torch.randperm(count, generator=draw)
        kept = count - self.validation
        return order[:kept].sort().values, order[kept:].sort().values

    @cached_property
    def _all(self) -> Images:
        found = self.images("train")
        assert found.labels is not None
        return Images(found.images[: self.limit], found.labels[: self.limit])

    @cached_property
    def real(self) -> Tensor:
        """The images to train on: uint8 (N, C, H, W)."""
        return self.images_of("train").images

    def images_of(self, part: Part) -> Images:
        """Images, uint8 (N, C, H, W), and labels, int64 (N,), of a part."""
        if part not in self._parts:
            if part == "test":
                found, index = self.images("test"), slice(self.test_limit)
                assert found.labels is not None
                self._parts[part] = Images(found.images[index], found.labels[index])
            else:
                chosen = self._held[0 if part == "train" else 1]
                assert self._all.labels is not None
                self._parts[part] = Images(self._all.images[chosen], self._all.labels[chosen])
        return self._parts[part]

    @cached_property
    def _parts(self) -> dict[str, Images]:
        return {}

    @property
    def classes(self) -> int:
        return DATASETS[self.dataset].classes

    @property
    def steps_per_epoch(self) -> int:
        """Images that do not fill a batch of all processes are left for another epoch."""
        return len(self.real) // (self.batch_size * processes.count())

    @property
    def description(self) -> dict[str, str | int | bool | None]:
        names = ("validation", "crop", "test_limit")
        return {**super().description, **{name: getattr(self, name) for name in names}}

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """mean and sd, float32 (C, 1, 1), in [0, 1]: those given, or of the training images."""
        images = self.real
        given = []
        for name, values, own in (("mean", self.mean, "mean"), ("sd", self.sd, "std")):
            if values is not None and len(values) != images.shape[1]:
                raise DataError(
                    f"--data.{name} {values} has {len(values)} values, the images have"
                    f" {images.shape[1]} channels; give one for each"
                )
            # float32 sums of this many pixels lose digits
            own_values = [float(getattr(each.double() / 255, own)()) for each in images.unbind(1)]
            given.append(torch.tensor(own_values if values is None else values).view(-1, 1, 1))
        return given[0], given[1].clamp_min(1e-6)

    def prepared(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to what a network takes, float32, without augmentation."""
        mean, sd = (each.to(images.device) for each in self.scale)
        return images.float().div_(255).sub_(mean).div_(sd)

    def train_dataloader(self) -> StepLoader:
        trainer = self.trainer
        assert trainer is not None
        self.check(trainer.world_size)
        part = self.images_of("train")
        assert part.labels is not None
        return StepLoader(
            Pairs(part.images, part.labels),
            self.batch_size,
            self.seed,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
        )

    def on_after_batch_transfer(  # type: ignore[override]
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Cropped and mirrored, each image by its own draws, then standardised, on the device."""
        images, labels = batch
        trainer = self.trainer
        if trainer is not None and (self.crop or self.mirror):
            images = self._augmented(images, trainer.global_step)
        return self.prepared(images), labels

    def _augmented(self, images: Tensor, step: int) -> Tensor:
        count, size, c = len(images) * processes.count(), images.shape[-1], self.crop
        draw = rng.generator(self.seed, step, 0, "crop")
        corners = torch.randint(0, 2 * c + 1, (2, count), generator=draw)
        top, left = processes.own(corners, axis=1).to(images.device)
        coin = None
        if self.mirror:
            draw = rng.generator(self.seed, step, 0, "flip")
            coin = (processes.own(torch.rand(count, generator=draw)) < 0.5).to(images.device)
        return convert.windows(F.pad(images, (c, c, c, c)), top, left, size, coin)
