"""The labels of a folder's images, and which of the images are test images."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msngan.data.pictures import DataError, reading
from msngan.data.sources import Source
from msngan.runs import rng
from msngan.runs.folder import counted, plural
from msngan.runs.safe_read import read_json

TEST_SHARE = 0.2  # of each class, where a folder does not say which images are test images
PARTS = {"train", "test", "val", "valid", "validation"}  # names of splits, and not of classes


class LabelsError(DataError):
    """Images from whose labels nothing can be learned."""


@dataclass(frozen=True)
class Labels:
    """labels: int64 (N,) or None; classes: their names, () for those of dataset.json.

    level: of the subfolders that are the classes.
    """

    labels: Tensor | None
    classes: tuple[str, ...] = ()
    level: int = 0

    def missing(self, labels: Tensor) -> list[str]:
        """The classes that none of these labels has; of dataset.json the first alone."""
        there = {*labels.unique().tolist()}
        if self.classes:
            return [name for number, name in enumerate(self.classes) if number not in there]
        gap = next(number for number in range(len(there) + 1) if number not in there)
        return [str(gap)] if gap < max(there) else []


def labels_of(source: Source, names: list[str]) -> Labels:
    if "dataset.json" in source.names:
        where = source.root / "dataset.json"
        with reading(where):
            record = read_json(source.read("dataset.json"))
        if isinstance(record, dict) and "labels" in record:
            pairs = record["labels"]
            return Labels(None if pairs is None else _listed(where, pairs, names))
    level = int(divided(names, 2))
    if not all(name.count("/") > level for name in names):
        return Labels(None, level=level)
    folders = [name.split("/")[level] for name in names]
    classes = tuple(sorted(set(folders)))
    number = {folder: label for label, folder in enumerate(classes)}
    return Labels(torch.tensor([number[folder] for folder in folders]), classes, level)


def divided(names: list[str], depth: int) -> bool:
    """Whether images are in both train and test, all of them at least `depth` folders deep."""
    inside = [name for name in names if name.startswith(("train/", "test/"))]
    both = {name.split("/", 1)[0] for name in inside} == {"train", "test"}
    return both and all(name.count("/") >= depth for name in inside)


def check_labels(source: Source, names: list[str], known: Labels) -> None:
    root, labels = source.root, known.labels
    tops = sorted({name.split("/", 1)[0] for name in names if "/" in name})
    if known.classes and known.level == 0 and {*tops} <= PARTS:
        raise LabelsError(
            f"{root} holds {', '.join(tops)}, which are no classes; it needs both train and test,"
            " each with a subfolder for every class"
        )
    if labels is None:
        loose = [name for name in names if name.count("/") <= known.level]
        lie = plural(len(loose), "lies", "lie")
        where = f"{len(loose):,} of its {counted(len(names), 'image')} {lie} in no subfolder"
        raise LabelsError(
            f"{root} has no labels: {where if loose else 'dataset.json says so'}; put the images of"
            f" each class into a subfolder of its name, {root}/cat/1.png for instance"
        )
    if len(labels.unique()) < 2:
        only = known.classes[0] if known.classes else int(labels[0])
        raise LabelsError(f"{root} has one class only, {only}; nothing tells it from another")
    if not (known.classes and root.is_dir()):
        return
    filled = {"/".join(name.split("/")[: known.level + 1]) for name in names}
    for above in ("train/", "test/") if known.level else ("",):
        for entry in sorted(os.scandir(root / above), key=lambda each: each.name):
            path = above + entry.name
            if entry.is_dir() and not entry.name.startswith(".") and path not in filled:
                raise LabelsError(f"the class {root / path} has no images; add some, or remove it")


def places_of(
    root: Path, names: list[str], known: Labels, split: str, test_share: float
) -> Tensor | None:
    """The places of a split's images, ascending; None for all."""
    if split == "all":
        return None
    if divided(names, 1):
        return torch.tensor([place for place, n in enumerate(names) if n.startswith(f"{split}/")])
    labels = torch.zeros(len(names)) if known.labels is None else known.labels
    return places_of_share(root, labels, split, test_share)


def places_of_share(root: Path, labels: Tensor, split: str, test_share: float) -> Tensor:
    """Ascending places of the test images, a share of each class at random, or of the others."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for number, label in enumerate(labels.unique()):
        own = (labels == label).nonzero().flatten()
        order = torch.randperm(len(own), generator=rng.generator(0, number, 0, "test"))
        count = min(max(1, round(test_share * len(own))), len(own) - 1)
        held_out[own[order[:count]]] = True
    places = (held_out == (split == "test")).nonzero().flatten()
    if not len(places):
        raise DataError(
            f"{root} has {counted(len(labels), 'image')}, too few to test with; give at least two"
            " of a class"
        )
    return places


def _listed(where: Path, pairs: Any, names: list[str]) -> Tensor:  # noqa: ANN401  any JSON value
    form = '"labels" must be null or [[name, whole number from 0 up], ...]'
    try:
        labels = {str(name).replace("\\", "/"): label for name, label in pairs}
    except (TypeError, ValueError) as problem:
        raise DataError(f"{where}: {form}") from problem
    for name in names:
        if name not in labels:
            raise DataError(f'{where} has no label for {name}; add it, or set "labels" to null')
        if type(labels[name]) is not int or not 0 <= labels[name] < 2**63:
            raise DataError(f"{where}: {form}; {name} has {json.dumps(labels[name])[:60]}")
    return torch.tensor([labels[name] for name in names])
