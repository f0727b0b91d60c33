"""ImageData: a data set as a LightningDataModule, and the one change of range."""

from __future__ import annotations

from functools import cached_property
from typing import ClassVar

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from msngan.data import images as convert
from msngan.data.datasets import DATASETS, DatasetName, Images, load
from msngan.data.folder import DataError
from msngan.data.loader import StepLoader
from msngan.runs import bounds as checks
from msngan.runs import distributed as processes
from msngan.runs import rng


class ImageData(LightningDataModule):
    """Real images for a GAN: uint8 in memory, batches in [-1, 1].

    Args:
        dataset: name of the data set.
        root: folder of its files; null: MSNGAN_DATA, else ~/.cache/msngan/data. For `folder`, the
            folder of images or a zip file of them.
        split: which part to train on; null: the data set's training split.
        size: height and width in pixels, a multiple of 8; null: the data set's own.
        channels: 1 or 3; null: the data set's own.
        batch_size: images of one critic update, per process.
        mirror: flip each image left to right with probability one half.
        download: fetch official files that are missing.
        limit: use the first so many images only; null: all.
    """

    size_step: ClassVar[int] = 8  # of a side, in pixels, that the networks take

    def __init__(
        self,
        dataset: DatasetName = "cifar10",
        root: str | None = None,
        split: str | None = None,
        size: int | None = None,
        channels: int | None = None,
        batch_size: int = 64,
        mirror: bool = False,
        download: bool = True,
        limit: int | None = None,
    ) -> None:
        super().__init__()
        checks.at_least("--data.size", size, min(8, self.size_step))
        checks.at_least("--data.batch_size", batch_size, 1)
        checks.at_least("--data.limit", limit, 1)
        if channels not in (None, 1, 3):
            raise DataError(f"--data.channels {channels}: use 1 or 3, or null for the data's own")
        if size is not None and size % self.size_step:
            raise DataError(f"--data.size {size} is not a multiple of 8; choose 32 or 64, say")
        if dataset not in DATASETS:
            raise DataError(f"unknown data set {dataset!r}; choose one of {', '.join(DATASETS)}")
        self.dataset, self.root, self.split = dataset, root, split or DATASETS[dataset].splits[0]
        self.size, self.channels, self.batch_size = size, channels, batch_size
        self.mirror, self.download, self.limit = mirror, download, limit
        self.seed, self.critic_steps = 0, 1  # of the run; `fit` sets them
        self._loaded: dict[str, Images] = {}

    @cached_property
    def real(self) -> Tensor:
        """All images to train on: uint8 (N, C, H, W)."""
        images = self.images(self.split).images
        if images.shape[-1] % self.size_step:
            raise DataError(
                f"the images of {self.dataset} are {images.shape[-1]} pixels wide, which is not a"
                " multiple of 8; set --data.size"
            )
        return images[: self.limit]

    def images(self, split: str) -> Images:
        """One split in this module's size and channels."""
        if split not in self._loaded:  # training and scores ask for the same; a folder is decoded
            self._loaded[split] = load(
                self.dataset, self.root, split, self.size, self.channels, self.download
            )
        return self._loaded[split]

    @property
    def held_out(self) -> Tensor | None:
        """The test split where there is one that is not trained on, else None."""
        if "test" not in DATASETS[self.dataset].splits or self.split != "train":
            return None
        return self.images("test").images

    @property
    def description(self) -> dict[str, str | int | bool | None]:
        """What a checkpoint says of its data: enough to find the same images again."""
        names = ("dataset", "root", "split", "size", "channels", "mirror", "limit")
        return {name: getattr(self, name) for name in names}

    @property
    def shape(self) -> tuple[int, int]:
        """(channels, size) of the images."""
        return self.real.shape[1], self.real.shape[2]

    def check(self, world_size: int = 1) -> None:
        """DataError if a step takes more images than there are."""
        step = self.batch_size * self.critic_steps * world_size
        if step > len(self.real):
            processes = " x processes" if world_size > 1 else ""
            raise DataError(
                f"a step takes {step} images (batch size x critic steps{processes}), the data set"
                f" has {len(self.real)}; lower --data.batch_size"
            )

    def train_dataloader(self) -> StepLoader:
        trainer = self.trainer
        assert trainer is not None
        self.check(trainer.world_size)
        return StepLoader(
            self.real,
            self.batch_size * self.critic_steps,
            self.seed,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
            parts=self.critic_steps,
        )

    def on_after_batch_transfer(self, batch: Tensor, dataloader_idx: int) -> Tensor:
        """uint8 to [-1, 1], mirrored by a coin of its own for each image, on the device."""
        images = convert.to_float(batch)
        trainer = self.trainer
        if not self.mirror or trainer is None:
            return images
        draw = rng.generator(self.seed, trainer.global_step, 0, "flip")
        coins = torch.rand(len(images) * processes.count(), generator=draw)
        coin = processes.own(coins, parts=self.critic_steps).to(images.device) < 0.5
        return torch.where(coin[:, None, None, None], images.flip(3), images)
