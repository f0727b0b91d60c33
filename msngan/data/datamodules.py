"""ImageData and LabelledData: data sets as LightningDataModules.

Images stay uint8; a batch becomes float on the device.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.nn import functional as F

from msngan.data import images as convert
from msngan.data.batches import Place, StepLoader, moved, placed
from msngan.data.cache import PART, folder_of, is_mapped, pixels_sha256
from msngan.data.datasets import DATASETS, DatasetName, load, splits_of
from msngan.data.folder_labels import TEST_SHARE
from msngan.data.images import Images
from msngan.data.pictures import DataError
from msngan.runs import distributed, rng
from msngan.runs.folder import counted
from msngan.runs.option_values import check_ranges
from msngan.runs.options import (
    OWN_IMAGES,
    AtLeastOne,
    Count,
    Every,
    Fraction,
    Network,
    NotNegative,
    Positive,
    Range,
    Record,
    Repeat,
)

Part = Literal["train", "validation", "test"]


class ImageData(LightningDataModule):
    """Real images for a GAN: uint8 in memory, batches in [-1, 1].

    Args:
        dataset: name of the data set; folder: images of your own; hub: Parquet or Arrow data.
        root: folder with the data set's files; null: MSNGAN_DATA, otherwise ~/.cache/msngan/data.
            For the data set folder: a folder or zip file of images. For hub: OWNER/NAME or
            OWNER/NAME:CONFIG of the Hugging Face hub, or a folder or file of Parquet or Arrow data.
        split: split to train on; null: the data set's training split, of a folder all images.
        size: height and width of the images in pixels; null: the data set's own.
        channels: channels of the images: 1 (grey) or 3 (RGB); null: the data set's own.
        batch_size: images per critic update and process, or of each of its parts with
            model.accumulate.
        mirror: flip each image left to right with probability 1/2.
        download: download official files that are missing.
        limit: number of images to use, from the first; null: all.
        on_bad_image: what to do with image files that cannot be read: stop (list them and do not
            train) or skip (train without them and say how many there are).
        image_column: column of the images of a data set of the hub; null: the one that there is.
        label_column: column of their labels; null: by its type and name; none: no labels.
        cache: folder in which decoded images are kept, so that later starts do not decode them
            again; none: decode at every start; null: MSNGAN_CACHE, otherwise ~/.cache/msngan.
        device: where the images are in training: cpu; device: in the memory of the GPU; auto: there
            if they take at most a quarter of what is free. The batches are the same.
    """

    labelled = False  # whether a batch has labels; the data then need them
    size_step: ClassVar[int] = 8  # the networks take sides that are multiples of it, in pixels
    described: ClassVar[tuple[str, ...]] = (
        *("dataset", "root", "split", "size", "channels", "mirror", "limit", "on_bad_image"),
        *("image_column", "label_column"),
    )

    def __init__(
        self,
        dataset: DatasetName = "cifar10",
        root: Repeat[str | None] = None,
        split: str | None = None,
        size: Network[Annotated[int, Range(8, 2**20, multiple=8)] | None] = None,
        channels: Network[Literal[1, 3] | None] = None,
        batch_size: Count = 64,
        mirror: bool = False,
        download: Record[bool] = True,
        limit: AtLeastOne | None = None,
        on_bad_image: Literal["stop", "skip"] = "stop",
        image_column: str | None = None,
        label_column: str | None = None,
        cache: Record[str | None] = None,
        device: Record[Place] = "auto",
    ) -> None:
        super().__init__()
        if type(self) is ImageData:
            check_ranges("gan", "data", locals())
        if dataset not in DATASETS:
            raise DataError(f"unknown data set {dataset!r}; choose one of {', '.join(DATASETS)}")
        self.dataset, self.root, self._split = dataset, root, split
        self.size, self.channels, self.batch_size = size, channels, batch_size
        self.mirror, self.download, self.limit = mirror, download, limit
        self.on_bad_image, self.cache, self.test_share = on_bad_image, cache, TEST_SHARE
        self.place = device
        # Of the run; `fit` sets them. parts: batches of batch_size images in a step.
        self.seed, self.parts, self.endless = 0, 1, False
        self.image_column, self.label_column = image_column, label_column
        self._loaded: dict[str, Images] = {}

    @cached_property
    def splits(self) -> tuple[str, ...]:
        """The names of the data set's splits."""
        return splits_of(self.dataset, self.root, self.download)

    @cached_property
    def split(self) -> str:
        """The split to train on."""
        return self._split or self.splits[0]

    @cached_property
    def real(self) -> Tensor:
        """All images to train on: uint8 (N, C, H, W)."""
        images = self.images(self.split).images
        if images.shape[-1] % self.size_step:
            raise DataError(
                f"the images of {self.dataset} are {counted(images.shape[-1], 'pixel')} wide,"
                " which is not a"
                " multiple of 8; set --data.size"
            )
        return images[: self.limit]

    @property
    def classes(self) -> int:
        """The number of classes of the labels; 0 if there are none."""
        found = self.images(self.split)
        if (known := DATASETS[self.dataset].classes or len(found.classes)) or found.labels is None:
            return known if found.labels is not None else 0
        return int(found.labels.max()) + 1

    @cached_property
    def labels(self) -> Tensor:
        """The labels of `real`, int64 (N,); DataError if an image has none, or a class no image."""
        labels, named = self.images(self.split).labels, f"--data.dataset {self.dataset}"
        if labels is None or not self.classes:
            raise DataError(f"{named} has no labels, which a conditional GAN needs")
        labels = labels[: self.limit]
        if int(labels.min()) < 0:
            raise DataError(
                f"{named} has images without a label in its split {self.split}; choose another"
                " --data.split"
            )
        counts = torch.bincount(labels, minlength=self.classes)
        if len(empty := (counts == 0).nonzero().flatten()):
            raise DataError(
                f"class {int(empty[0])} of {self.classes} has none of the"
                f" {counted(len(labels), 'image')}; add"
                " some, or raise --data.limit if that is what leaves them out"
            )
        return labels

    def images(self, split: str) -> Images:
        """One split in this module's size and channels, loaded once."""
        if split not in self._loaded:
            shape: tuple[int | None, int | None] = self.size, self.channels
            if self.dataset in OWN_IMAGES and split != self.split:
                trained = self.images(self.split).images
                shape = trained.shape[2], trained.shape[1]
            self._loaded[split] = load(
                *(self.dataset, self.root, split, *shape, self.download),
                cache=folder_of(self.cache),
                skip_bad=self.on_bad_image == "skip",
                test_share=self.test_share,
                labelled=self.labelled,
                image_column=self.image_column,
                label_column=self.label_column,
            )
        return self._loaded[split]

    @property
    def held_out(self) -> Tensor | None:
        """The test split if there is one that is not trained on, otherwise None."""
        unseen = self.split in ("train", "unlabeled", "train+unlabeled")
        if not unseen or "test" not in self.splits:
            return None
        return self.images("test").images

    @property
    def description(self) -> dict[str, str | int | bool | None]:
        """What a checkpoint says of its data: enough to find the same images again."""
        return {name: getattr(self, name) for name in self.described}

    @cached_property
    def images_sha256(self) -> str:
        """Hash of the split's decoded images; where they lie, their names and times are not in it.

        It is the `reference_sha256` of scores against these images.
        """
        return pixels_sha256(self.images(self.split).images)

    @property
    def shape(self) -> tuple[int, int]:
        """(channels, size) of the images."""
        return self.real.shape[1], self.real.shape[2]

    def check(self, world_size: int = 1) -> None:
        """DataError if a step takes more images than there are."""
        step = self.batch_size * self.parts * world_size
        if step > len(self.real):
            processes = " x processes" if world_size > 1 else ""
            raise DataError(
                f"a step takes {counted(step, 'image')} (batch size x critic steps x"
                f" accumulate{processes}),"
                f" the data set has {len(self.real)}; lower --data.batch_size"
            )

    def _loader(self, images: Tensor | Images) -> StepLoader:
        trainer = self.trainer
        assert trainer is not None
        self.check(trainer.world_size)
        images = placed(images, self.place, trainer.strategy.root_device)
        return StepLoader(
            images,
            self.batch_size * self.parts,
            self.seed,
            lambda: trainer.global_step,
            trainer.global_rank,
            trainer.world_size,
            parts=self.parts,
            endless=self.endless,
        )

    def setup(self, stage: str) -> None:
        """Take the seed and the parts of a step from the module that is trained."""
        assert self.trainer is not None
        options = self.trainer.lightning_module.hparams
        self.seed = options.get("seed", self.seed)
        self.parts = options.get("critic_steps", 1) * options.get("accumulate", 1)
        self.labelled = self.labelled or options.get("conditional", False)

    def train_dataloader(self) -> StepLoader:
        return self._loader(Images(self.real, self.labels) if self.labelled else self.real)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """uint8 to [-1, 1], each image mirrored independently; labels as they are."""
        images, *labels = batch if isinstance(batch, list | tuple) else (batch,)
        images = convert.to_float(images)
        trainer = self.trainer
        if self.mirror and trainer is not None:
            coins = self._coins(len(images), trainer.global_step, self.parts)
            flips = moved(coins, images.device)[:, None, None, None]
            images = torch.where(flips, images.flip(3), images)
        return (images, *labels) if labels else images

    def _coins(self, count: int, step: int, parts: int = 1) -> Tensor:
        """bool (count,): which of this process's images to mirror."""
        draw = rng.generator(self.seed, step, 0, "flip")
        coins = torch.rand(count * distributed.count(), generator=draw)
        return distributed.own(coins, parts=parts) < 0.5


class LabelledData(ImageData):
    """Images with labels: uint8 in memory, batches standardised: ((x / 255) - mean) / sd.

    Args:
        dataset: name of the data set, which needs labels; folder: images of your own; hub: Parquet
            or Arrow data.
        root: folder with the data set's files; null: MSNGAN_DATA, otherwise ~/.cache/msngan/data.
            For the data set folder: a folder or zip file with a subfolder of images for each class,
            or with train and test, each of which has them. For hub: OWNER/NAME or OWNER/NAME:CONFIG
            of the Hugging Face hub, or a folder or file of Parquet or Arrow data.
        size: height and width of the images in pixels; null: the data set's own (MNIST's is 28
            here, 32 for GANs; that of STL-10 96 and 48).
        channels: channels of the images: 1 (grey) or 3 (RGB); null: the data set's own.
        batch_size: images per step and process.
        validation: training images held out to choose the best epoch, the same for every seed, of
            a folder at most a tenth; 0: none. The test set is never used to choose.
        test_share: share of each class, one image at least, that is the test set of a folder
            without train and test; the same for every seed.
        crop: pixels of black border from which each image is cropped at random; 0: none.
        mirror: flip each image left to right with probability 1/2.
        mean: mean of each channel, in [0, 1], to subtract; null: that of the training images.
        sd: standard deviation of each channel, in [0, 1], to divide by; null: that of the training
            images.
        download: download official files that are missing.
        limit: number of training images to use, from the first; null: all.
        test_limit: number of test images to use, from the first; null: all.
        on_bad_image: what to do with image files that cannot be read: stop (list them and do not
            train) or skip (train without them and say how many there are).
        image_column: column of the images of a data set of the hub; null: the one that there is.
        label_column: column of their labels; null: by its type and name; none: no labels.
        cache: folder in which decoded images are kept, so that later starts do not decode them
            again; none: decode at every start; null: MSNGAN_CACHE, otherwise ~/.cache/msngan.
        device: where the images are in training: cpu; device: in the memory of the GPU; auto: there
            if they take at most a quarter of what is free. The batches are the same.
    """

    labelled = True
    size_step: ClassVar[int] = 1
    described = (*ImageData.described, "validation", "test_share", "crop", "test_limit")

    def __init__(
        self,
        dataset: DatasetName = "mnist",
        root: Repeat[str | None] = None,
        size: Network[Count | None] = None,
        channels: Network[Literal[1, 3] | None] = None,
        batch_size: Count = 128,
        validation: Every = 5000,
        test_share: Fraction = TEST_SHARE,
        crop: Annotated[int, Range(0, 2**20)] = 0,
        mirror: bool = False,
        mean: list[NotNegative] | None = None,
        sd: list[Positive] | None = None,
        download: Record[bool] = True,
        limit: AtLeastOne | None = None,
        test_limit: AtLeastOne | None = None,
        on_bad_image: Literal["stop", "skip"] = "stop",
        image_column: str | None = None,
        label_column: str | None = None,
        cache: Record[str | None] = None,
        device: Record[Place] = "auto",
    ) -> None:
        check_ranges("classifier", "data", locals())
        labelled = [
            name
            for name, each in DATASETS.items()
            if not each.splits
            or ({"train", "test"} <= {*each.splits} and (each.classes or each.size is None))
        ]
        if dataset in DATASETS and dataset not in labelled:
            raise DataError(
                f"--data.dataset {dataset}: a classifier needs labels and a test split; choose one"
                f" of {', '.join(labelled)}"
            )
        if size is None:
            size = {"mnist": 28, "fashion": 28, "stl10": 96}.get(dataset)
        super().__init__(
            *(dataset, root, "train", size, channels, batch_size, mirror, download, limit),
            *(on_bad_image, image_column, label_column, cache, device),
        )
        self.validation, self.crop, self.test_limit = validation, crop, test_limit
        self.test_share = test_share
        self.mean, self.sd = mean, sd
        self._parts: dict[str, Images] = {}

    @cached_property
    def _places(self) -> dict[str, Tensor]:
        """Indices, in order, of the images to train on and of those to validate with."""
        count = len(self.images("train").images[: self.limit])
        held_out = (
            min(self.validation, count // 10) if self.dataset in OWN_IMAGES else self.validation
        )
        kept = count - held_out
        if kept < self.batch_size:
            raise DataError(
                f"--data.validation {held_out} leaves {kept} of {counted(count, 'image')} to"
                " train on,"
                f" less than one batch of {self.batch_size}; lower it or --data.batch_size"
            )
        order = torch.randperm(count, generator=rng.generator(0, 0, 0, "validation"))
        return {"train": order[:kept].sort().values, "validation": order[kept:].sort().values}

    def images_of(self, part: Part) -> Images:
        """Images, uint8 (N, C, H, W), and labels, int64 (N,), of a part.

        Those from a file of the cache are not copied: see msngan.data.images.Chosen.
        """
        if part not in self._parts:
            found = self.images("test" if part == "test" else "train")
            index = slice(self.test_limit) if part == "test" else self._places[part]
            if is_mapped(found.images) and isinstance(index, Tensor):  # may be beyond memory
                assert found.labels is not None
                images = cast(Tensor, convert.Chosen(found.images, index))
                self._parts[part] = Images(images, found.labels[index])
            else:
                self._parts[part] = Images(*found[index])
        return self._parts[part]

    @cached_property
    def real(self) -> Tensor:
        """The images to train on: uint8 (N, C, H, W)."""
        images = self.images_of("train").images
        if self.crop >= images.shape[-1]:
            raise DataError(
                f"--data.crop {self.crop} leaves nothing of images that are"
                f" {counted(images.shape[-1], 'pixel')} wide; lower it"
            )
        return images

    @property
    def steps_per_epoch(self) -> int:
        """Full batches of all processes; images left over wait for another epoch."""
        return len(self.real) // (self.batch_size * distributed.count())

    @cached_property
    def images_sha256(self) -> str:
        """Hash of the decoded images and the labels of the training and the test set."""
        digest = hashlib.sha256()
        for split in ("train", "test"):
            found = self.images(split)
            assert found.labels is not None
            digest.update(pixels_sha256(found.images).encode() + found.labels.numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def scale(self) -> tuple[Tensor, Tensor]:
        """mean and sd, float32 (C, 1, 1), in [0, 1]: those given, or of the training images."""
        found = []
        for name, values in (("mean", self.mean), ("sd", self.sd)):
            if values is None:
                values = self._moments[name].tolist()
            elif len(values) != self.real.shape[1]:
                raise DataError(
                    f"--data.{name} {values} has {counted(len(values), 'value')}, the images have"
                    f" {counted(self.real.shape[1], 'channel')}; give one for each"
                )
            found.append(torch.tensor(values).view(-1, 1, 1))
        return found[0], found[1].clamp_min(1e-6)

    @cached_property
    def _moments(self) -> dict[str, Tensor]:
        """float64 (C,) of the training images: mean and sd, from the counts of the levels."""
        counts = torch.zeros(self.real.shape[1], 256, dtype=torch.int64)
        for part in self.real.split(PART):
            for own, pixels in zip(counts, part.unbind(1), strict=True):
                own += torch.bincount(pixels.flatten(), minlength=256)
        levels, total = torch.arange(256).double() / 255, counts.sum(1)
        mean = (counts * levels).sum(1) / total
        squares = counts * (levels - mean[:, None]).square()
        return {"mean": mean, "sd": (squares.sum(1) / (total - 1)).sqrt()}

    def prepared(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to a network's input, float32, without augmentation."""
        mean, sd = (each.to(images.device) for each in self.scale)
        return images.float().div_(255).sub_(mean).div_(sd)

    def train_dataloader(self) -> StepLoader:
        return self._loader(self.images_of("train"))

    def on_after_batch_transfer(
        self, batch: tuple[Tensor, Tensor], dataloader_idx: int
    ) -> tuple[Tensor, Tensor]:
        """Cropped and mirrored, each image by its own draws, then standardised, on the device."""
        images, labels = batch
        trainer = self.trainer
        if trainer is not None and (self.crop or self.mirror):
            images = self._augmented(images, trainer.global_step)
        return self.prepared(images), labels

    def _augmented(self, images: Tensor, step: int) -> Tensor:
        count, size, c = len(images), images.shape[-1], self.crop
        draw = rng.generator(self.seed, step, 0, "crop")
        corners = torch.randint(0, 2 * c + 1, (2, count * distributed.count()), generator=draw)
        top, left = moved(distributed.own(corners, axis=1), images.device)
        coins = moved(self._coins(count, step), images.device) if self.mirror else None
        return convert.windows(F.pad(images, (c, c, c, c)), top, left, size, coins)
