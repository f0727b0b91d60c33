"""Small files in the official formats of MNIST, CIFAR-10 and SVHN."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
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
