"""Small files in the official formats of MNIST, CIFAR, SVHN, STL-10 and CelebA."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from torchvision import datasets as official

COUNTS = {"train": 10, "test": 4}


def pixels(split: str, *shape: int) -> np.ndarray:
    draw = np.random.default_rng(len(split))
    return draw.integers(0, 256, (COUNTS[split], *shape), dtype=np.uint8)


def labels(split: str) -> np.ndarray:
    return np.arange(COUNTS[split]) * 3 % 10  # 0 and 9 among them, not in order


def idx(values: np.ndarray) -> bytes:
    """The format of LeCun's MNIST page: 0, 0, 8 (bytes), axes, sizes big-endian, values."""
    sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def write_mnist(root: Path, name: str) -> dict[str, torch.Tensor]:
    raw = root / name / "raw"
    raw.mkdir(parents=True)
    for split, prefix in (("train", "train"), ("test", "t10k")):
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(idx(pixels(split, 28, 28)))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(labels(split)))
    return {split: torch.from_numpy(pixels(split, 28, 28))[:, None] for split in COUNTS}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root: Path, patch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Batches of the CIFAR-10 page: rows of 1024 red, 1024 green and 1024 blue values."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rows = {split: pixels(split, 3, 32, 32) for split in COUNTS}
    parts = {"test_batch": (rows["test"], labels("test"))}
    for index in range(5):
        two = slice(2 * index, 2 * index + 2)
        parts[f"data_batch_{index + 1}"] = (rows["train"][two], labels("train")[two])
    for name, (data, label) in parts.items():
        record = {"data": data.reshape(len(data), 3072), "labels": label.tolist()}
        (folder / name).write_bytes(pickle.dumps(record))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))
    kind = official.CIFAR10
    train = [[f"data_batch_{i}", md5(folder / f"data_batch_{i}")] for i in range(1, 6)]
    patch.setattr(kind, "train_list", train)
    patch.setattr(kind, "test_list", [["test_batch", md5(folder / "test_batch")]])
    patch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / "batches.meta")})
    return {split: torch.from_numpy(rows[split]) for split in COUNTS}


def write_svhn(root: Path, patch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Format 2 of the SVHN page: X is (32, 32, 3, N), y is (N, 1) and calls the digit 0 ten."""
    root.mkdir(parents=True)
    listed = {}
    for split in COUNTS:
        path = root / f"{split}_32x32.mat"
        numbers = labels(split).copy()
        numbers[numbers == 0] = 10
        x = pixels(split, 3, 32, 32).transpose(2, 3, 1, 0)
        scipy.io.savemat(path, {"X": x, "y": numbers.astype(np.uint8)[:, None]})
        listed[split] = [official.SVHN.split_list[split][0], path.name, md5(path)]
    patch.setattr(official.SVHN, "split_list", listed)
    return {split: torch.from_numpy(pixels(split, 3, 32, 32)) for split in COUNTS}


def write_cifar100(root: Path, patch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """As CIFAR-10's, in one file for each split, with fine labels 0 to 99 and coarse ones."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rows = {split: pixels(split, 3, 32, 32) for split in COUNTS}
    for split, data in rows.items():
        fine = (labels(split) * 11).tolist()
        record = {"data": data.reshape(len(data), 3072), "fine_labels": fine, "coarse_labels": []}
        (folder / split).write_bytes(pickle.dumps(record))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    kind = official.CIFAR100
    for split in COUNTS:
        patch.setattr(kind, f"{split}_list", [[split, md5(folder / split)]])
    patch.setattr(kind, "meta", kind.meta | {"md5": md5(folder / "meta")})
    return {split: torch.from_numpy(rows[split]) for split in COUNTS}


def write_stl10(root: Path, patch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Bytes of images by channel and column, 96x96; labels from 1. The unlabelled ones: 7."""
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    images = {split: pixels(split, 3, 96, 96) for split in COUNTS}
    images["unlabeled"] = images["train"][:7] ^ 255
    for split, values in images.items():
        (folder / f"{split}_X.bin").write_bytes(values.transpose(0, 1, 3, 2).tobytes())
        if split in COUNTS:
            (folder / f"{split}_y.bin").write_bytes((labels(split) + 1).astype(np.uint8).tobytes())
    for name in ("train_list", "test_list"):
        known = getattr(official.STL10, name)
        patch.setattr(official.STL10, name, [[file, md5(folder / file)] for file, _ in known])
    found = {split: torch.from_numpy(values) for split, values in images.items()}
    return found | {"train+unlabeled": torch.cat([found["train"], found["unlabeled"]])}


CELEBA = {"train": 3, "valid": 2, "test": 2}


def write_celeba(root: Path, patch: pytest.MonkeyPatch) -> dict[str, list[Image.Image]]:
    """Aligned faces, 178x218 JPEG files, and five lists of them, two with a line of names."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    draw = np.random.default_rng(0)
    found: dict[str, list[Image.Image]] = {split: [] for split in CELEBA}
    parts = [split for split, count in CELEBA.items() for _ in range(count)]
    names = [f"{index + 1:06d}.jpg" for index in range(len(parts))]
    for name, split in zip(names, parts, strict=True):
        coarse = Image.fromarray(draw.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        path = folder / "img_align_celeba" / name
        coarse.resize((178, 218)).save(path)
        found[split].append(Image.open(path))
    number = {split: index for index, split in enumerate(CELEBA)}
    values = {
        "list_eval_partition.txt": [[number[split]] for split in parts],
        "identity_CelebA.txt": [[index] for index in range(len(parts))],
        "list_bbox_celeba.txt": [[0, 0, 9, 9]] * len(parts),
        "list_landmarks_align_celeba.txt": [[1] * 10] * len(parts),
        "list_attr_celeba.txt": [[-1, 1] * 20] * len(parts),
    }
    for file, rows in values.items():
        lines = [
            f"{name}  {' '.join(map(str, row))}" for name, row in zip(names, rows, strict=True)
        ]
        if len(rows[0]) > 1:
            lines = [str(len(rows)), " ".join("x" * len(rows[0])), *lines]
        (folder / file).write_text("\n".join(lines) + "\n")
    kind = official.CelebA
    sums = {name: md5(folder / name) for name in values}
    patch.setattr(kind, "file_list", [(a, sums.get(c, b), c) for a, b, c in kind.file_list])
    return found
