"""Data sets of the Hugging Face hub, and local Parquet and Arrow files: the library `datasets`.

Such a data set is data only. Since version 4 `datasets` runs no code that a data set brings, and
older versions are refused. Images are decoded here, as those of a folder are.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from msngan.data.cache import cached
from msngan.data.folder_labels import TEST_SHARE, LabelsError, places_of_share
from msngan.data.image_files import decoded
from msngan.data.images import Images
from msngan.data.pictures import DataError
from msngan.data.sources import Source, read_file
from msngan.runs.folder import counted, did_you_mean

ENDINGS = (".parquet", ".arrow")
SAVED = ("state.json", "dataset_dict.json")  # what save_to_disk writes
NAME = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?")
LABELS = ("label", "labels", "fine_label", "class", "cls", "target", "targets")  # the first there
NO_LABELS = "none"
TESTS = ("test", "validation", "valid", "val")  # the first that is there is a classifier's test set
TAKES = "OWNER/NAME of the Hugging Face hub, or a folder or file of Parquet or Arrow data"


def load_hub(
    root: Path,
    split: str | None,
    size: int | None,
    channels: int | None,
    download: bool = True,
    *,
    skip_bad: bool = False,
    image_column: str | None = None,
    label_column: str | None = None,
    labelled: bool = False,
    test_share: float = TEST_SHARE,
    cache: Path | None = None,
) -> Images:
    """The images of one split, with labels and the names of their classes if there are any.

    root: OWNER/NAME or OWNER/NAME:CONFIG on the hub; or a local folder of Parquet or Arrow files,
    one such file, or a folder of `save_to_disk`. split: None for `train`, or the only one.
    image_column, label_column: None to find them by their types. labelled: refuse images without
    labels to learn from, and take `test` from the first of TESTS or, where there is none, as
    `test_share` of each class of `train`. cache: see msngan.data.cache. The rest as in
    `load_folder`. DataError for anything that is not there or cannot be read.
    """
    parts = _opened(str(root), download)
    tests = [name for name in TESTS if name in parts]
    shared = labelled and not tests
    if labelled and split == "test" and tests:
        where = tests[0]
    else:
        where = chosen_split(root, tuple(parts), None if shared else split)
    rows = parts[where]
    if not len(rows):
        raise DataError(f"{root} has no rows in split {where}")
    image, label = chosen_columns(str(root), rows.features, image_column, label_column)

    what = f"{root}[{where}]"
    labels, classes = (None, ()) if label is None else _labels(what, rows, label)
    if labelled:
        _check_labels(what, rows.features, labels, classes)
    places = torch.arange(len(rows))
    if shared and labels is not None:
        places = places_of_share(root, labels, split or "train", test_share)

    def read() -> Images:
        images, kept = decoded(_source(root, where, rows, image, places), size, channels, skip_bad)
        left = places if kept is None else places[kept]
        return Images(images, None if labels is None else labels[left], classes)

    folder = next((Path(each["filename"]).parent for each in rows.cache_files), None)
    if folder is None:  # the rows are in memory
        return read()
    about: dict[str, Any] = {
        "split": where,
        "size": size,
        "channels": channels,
        "skip_bad": skip_bad,
    }
    about |= {"image_column": image, "label_column": label, "labelled": labelled}
    if shared:
        about |= {"part": split, "test_share": test_share}
    return cached(cache, folder, about, read, called=str(root))


def splits_of(root: Path, download: bool = True) -> tuple[str, ...]:
    """The names of a data set's splits."""
    return tuple(_opened(str(root), download))


def chosen_split(root: Path, names: tuple[str, ...], split: str | None) -> str:
    """The split that was asked for; by default `train`, or the only one."""
    if split is None and len(names) == 1:
        return names[0]
    if (split or "train") in names:
        return split or "train"
    what = "no split 'train'" if split is None else f"no split {split!r}"
    raise DataError(f"{root} has {what}; set --data.split to one of {', '.join(names)}")


# Columns


def chosen_columns(
    what: str, features: Mapping[str, Any], image: str | None, label: str | None
) -> tuple[str, str | None]:
    """The columns of images and of labels, if any: those named, or found by their types."""
    listed = ", ".join(f"{name} ({_type(each)})" for name, each in features.items())
    for option, name in (("image", image), ("label", label)):
        if name is not None and name not in features and (option, name) != ("label", NO_LABELS):
            near = did_you_mean(name, list(features))
            raise DataError(
                f"--data.{option}_column: {what} has no column {name!r}{near}; it has {listed}"
            )
    if image is not None and not _holds_images(features[image]):
        raise DataError(
            f"--data.image_column {image}: it holds {_type(features[image])}, not images; the"
            f" columns of {what} are {listed}"
        )
    if image is None:
        found = [name for name, each in features.items() if _type(each) == "Image"]
        found = found or [name for name, each in features.items() if _holds_images(each)]
        if not found:
            raise DataError(f"{what} has no column of images; its columns are {listed}")
        if len(found) > 1:
            raise DataError(
                f"{what} has {len(found)} columns of images ({', '.join(found)}); choose one with"
                " --data.image_column"
            )
        (image,) = found
    if label == NO_LABELS and label not in features:
        return image, None
    if label is not None and not (_is_classes(features[label]) or _is_text(features[label])):
        raise DataError(
            f"--data.label_column {label}: it holds {_type(features[label])}; labels are a"
            f" ClassLabel, whole numbers or names, and the columns of {what} are {listed}"
        )
    return image, label or _label_column(what, features)


def _label_column(what: str, features: Mapping[str, Any]) -> str | None:
    classes = [name for name, each in features.items() if _type(each) == "ClassLabel"]
    if len(classes) == 1:
        return classes[0]
    known = classes or [name for name, each in features.items() if _is_classes(each)]
    for name in LABELS:
        if name in known:
            return name
    if classes:
        warnings.warn(
            f"{what} has {counted(len(classes), 'column')} of labels ({', '.join(classes)}), and"
            " none is used;"
            " choose one with --data.label_column",
            stacklevel=4,
        )
    return None


def _type(feature: Any) -> str:
    """Image, ClassLabel, int64, string, struct, list, ..."""
    if isinstance(feature, dict):
        return "struct"
    if isinstance(feature, list):
        return "list"
    kind = type(feature).__name__
    return str(feature.dtype) if kind == "Value" else kind


def _holds_images(feature: Any) -> bool:
    """Image features; without them, structs of bytes and path as Image is stored, and bytes."""
    if isinstance(feature, dict):
        types = {name: _type(each).removeprefix("large_") for name, each in feature.items()}
        return types.get("bytes") == "binary" and types.keys() <= {"bytes", "path"}
    return _type(feature) in ("Image", "binary", "large_binary")


def _is_classes(feature: Any) -> bool:
    return _type(feature) == "ClassLabel" or bool(re.fullmatch(r"u?int\d+|bool", _type(feature)))


def _is_text(feature: Any) -> bool:
    return _type(feature) in ("string", "large_string")


def _check_labels(
    what: str, features: Mapping[str, Any], labels: Tensor | None, classes: tuple[str, ...]
) -> None:
    if labels is None:
        listed = ", ".join(f"{name} ({_type(each)})" for name, each in features.items())
        raise LabelsError(
            f"{what} has no labels; set --data.label_column to one of its columns: {listed}"
        )
    there = len(labels.unique())
    if there < 2:
        raise LabelsError(f"{what} has one class only; nothing tells it from another")
    if not classes and there <= int(labels.max()):
        raise LabelsError(
            f"{what} has labels up to {int(labels.max())}, of which {there} occur; number them from"
            " 0 without gaps"
        )


def _labels(what: str, rows: Any, column: str) -> tuple[Tensor | None, tuple[str, ...]]:
    """Labels from 0 up, and the classes' names. None if every image's is unknown, -1."""
    values = rows.select_columns([column]).with_format("arrow")[:].column(0).to_pylist()
    if empty := values.count(None):
        raise DataError(
            f"column {column!r} of {what} is empty in {empty} of {counted(len(values), 'row')};"
            " choose another"
            f" with --data.label_column, or {NO_LABELS} for no labels"
        )
    classes = tuple(getattr(rows.features[column], "names", None) or ())
    if _is_text(rows.features[column]):
        classes = tuple(sorted(set(values)))
        number = {name: label for label, name in enumerate(classes)}
        values = [number[name] for name in values]
    labels = torch.tensor(values, dtype=torch.int64)
    if len(labels) and int(labels.max()) == int(labels.min()) == -1:  # as in many test splits
        return None, ()
    if len(labels) and int(labels.min()) < 0:
        raise DataError(
            f"column {column!r} of {what} holds {int(labels.min())}; labels are numbers from 0 up:"
            f" choose another with --data.label_column, or {NO_LABELS} for no labels"
        )
    return labels, classes


# Rows to encoded images


def _source(root: Path, split: str, rows: Any, column: str, places: Tensor) -> Source:
    """The encoded images of the rows at `places`; row 3 of split train is called train[3]."""
    import datasets
    from huggingface_hub import constants

    if _type(rows.features[column]) == "Image":
        rows = rows.cast_column(column, datasets.Image(decode=False))
    rows = rows.select_columns([column]).with_format(None)
    if os.path.exists(root):
        folders = [root if os.path.isdir(root) else Path(root).parent]
    else:  # files that `datasets` has fetched, of a data set that is a folder of images
        folders = [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
    allowed = [os.path.realpath(folder) for folder in folders]

    def read(name: str) -> bytes:
        value = rows[int(name[len(split) + 1 : -1])][column]
        if isinstance(value, dict):
            data, path = value.get("bytes"), value.get("path")
            value = data if data is not None or path is None else _file(path, folders[0], allowed)
        if value is None:
            raise OSError("it is empty")
        return bytes(value)

    return Source(Path(root), [f"{split}[{place}]" for place in places.tolist()], read)


def _file(path: str, beside: Path, allowed: list[str]) -> bytes:
    """A file that a row names in place of bytes. Only of the data set: never any file here."""
    real = os.path.realpath(beside / path)
    if not any(os.path.commonpath([real, folder]) == folder for folder in allowed):
        raise OSError(f"it has no bytes, and its path {path[:100]!r} leads out of the data set")
    return read_file(Path(real))


# The library


def _opened(root: str, download: bool) -> dict[str, Any]:
    """The splits of a data set by their names; DataError if it cannot be had."""
    place, _, config = (root, "", "") if os.path.exists(root) else root.rpartition(":")
    name = NAME.fullmatch(root)
    _library()
    if not os.path.exists(place):
        if name is None or root.lower().endswith(ENDINGS):
            raise DataError(f"{root} does not exist; --data.root takes {TAKES}")
        with _refusals(root):
            return _of_the_hub(*name.groups(), download)
    with _refusals(root):
        return _local(Path(place), config or None)


@cache  # a data set is asked for more than once, and each time is a few requests
def _of_the_hub(name: str, config: str | None, download: bool) -> dict[str, Any]:
    import datasets

    with _offline(not download):
        return dict(datasets.load_dataset(name, config))


def _local(path: Path, config: str | None) -> dict[str, Any]:
    import datasets

    place = str(path.absolute())
    if any((path / name).is_file() for name in SAVED):
        found = datasets.load_from_disk(place)
        return dict(found) if isinstance(found, dict) else {str(found.split or "train"): found}
    if path.is_file() and path.suffix.lower() in ENDINGS:
        return dict(datasets.load_dataset(path.suffix.lower()[1:], data_files=place))
    if path.is_dir() and any(each.suffix.lower() in ENDINGS for each in path.rglob("*.*")):
        return dict(datasets.load_dataset(place, config))
    raise DataError(
        f"no Parquet or Arrow files in {path}; --data.root takes {TAKES}; for a folder of image"
        " files use --data.dataset folder"
    )


@contextmanager
def _refusals(root: str) -> Iterator[None]:
    """Turn what the library raises into a DataError of one line; and keep it quiet meanwhile."""
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)  # their warnings and retries say nothing about images
    try:
        yield
    except DataError:
        raise
    except Exception as problem:  # damaged files make pyarrow and json raise nearly anything
        raise DataError(_refusal(root, problem)) from problem
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)


def _refusal(root: str, problem: Exception) -> str:
    """One line about a failure of the library: what failed, and the remedy."""
    name, _, config = root.partition(":")
    kind, text = type(problem).__name__, " ".join(str(problem).split())
    if kind == "DatasetNotFoundError" and "gated" in text:
        return (
            f"{name} is a gated data set: ask for access at https://huggingface.co/datasets/{name},"
            " then log in on this machine with `hf auth login`"
        )
    if kind == "DatasetNotFoundError":
        return (
            f"the Hugging Face hub has no data set {name}, or it is private: check OWNER/NAME, or"
            " log in with `hf auth login`"
        )
    if isinstance(problem, ConnectionError) or kind in ("ConnectError", "ConnectTimeout"):
        import datasets

        if datasets.config.HF_HUB_OFFLINE or "Offline" in text:
            return (
                f"{root} is not in this machine's cache of the hub, and HF_HUB_OFFLINE or"
                " --data.download false forbids to download it; allow that, or give a local copy"
            )
        return (
            f"cannot reach the Hugging Face hub for {root} ({text[:200]}): check the network, or"
            " give a local copy, a folder of its Parquet files"
        )
    if "loading script" in text or "scripts are no longer supported" in text:
        return (
            f"{name} needs a loading script, and no code of a data set is run; use a copy of it in"
            " Parquet, which the hub often has under another name"
        )
    if choices := re.search(r"onfig.*\[([^\]]*)\]", text):  # BuilderConfig not found, or missing
        listed = choices[1].replace("'", "")
        what = f"has no configuration {config!r}" if config else "has several configurations"
        return f"{name} {what}; choose one of {listed}, as --data.root {name}:CONFIG"
    inner: BaseException = problem
    while inner.__cause__ is not None:  # "An error occurred while generating the dataset"
        inner = inner.__cause__
    reason = " ".join(str(inner).split())[:300] or type(inner).__name__
    return f"{root} cannot be read: {reason}; get it again, or give another copy"


def _library() -> None:
    """Import `datasets`, or say how to get it."""
    try:
        import datasets
    except ImportError as problem:
        raise DataError(
            f"data set 'hub' needs the library `datasets` ({problem}): pip install 'msngan[hub]'"
        ) from problem
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise DataError(
            f"the library `datasets` is version {datasets.__version__}, which can run the code of a"
            " data set: pip install 'datasets>=4'"
        )
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()


@contextmanager
def _offline(wanted: bool) -> Iterator[None]:
    """Inside, nothing is downloaded if `wanted`, as with HF_HUB_OFFLINE=1, which is read once."""
    import datasets
    from huggingface_hub import constants

    places = [datasets.config, constants]
    before = [place.HF_HUB_OFFLINE for place in places]
    try:
        for place in places:
            place.HF_HUB_OFFLINE = place.HF_HUB_OFFLINE or wanted
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.HF_HUB_OFFLINE = value
