"""Data sets of the Hugging Face hub and of Parquet and Arrow files. The hub itself is a fake."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from msngan.data import ImageData, LabelledData, hub
from msngan.data.hub import load_hub
from msngan.data.image_files import load_folder
from msngan.data.pictures import DataError

datasets = pytest.importorskip("datasets")
pa = pytest.importorskip("pyarrow")
COUNT = 6
CLASSES = ["cat", "dog", "owl"]


def encoded(seed: int, mode: str = "RGB", width: int = 8, height: int = 8, **save: Any) -> bytes:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, **({"format": "PNG"} | save))
    return file.getvalue()


PICTURES = [encoded(seed) for seed in range(COUNT)]
LABELS = [index % 3 for index in range(COUNT)]


def pixels(pictures: list[bytes] = PICTURES) -> torch.Tensor:
    """uint8 (N, 3, 8, 8)."""
    arrays = [np.array(Image.open(io.BytesIO(data)).convert("RGB")) for data in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def made(pictures: list[bytes] = PICTURES, **columns: Any) -> Any:
    """A data set with Image features and class labels, or with the columns given."""
    features: dict[str, Any] = {"image": datasets.Image()}
    if not columns:
        columns["label"] = [index % 3 for index in range(len(pictures))]
        features["label"] = datasets.ClassLabel(names=CLASSES)
    images = [{"bytes": data, "path": None} for data in pictures]
    whole = {"image": images, **columns}
    if set(columns) - set(features):
        return datasets.Dataset.from_dict(whole).cast_column("image", datasets.Image())
    return datasets.Dataset.from_dict(whole, features=datasets.Features(features))


@pytest.fixture(autouse=True, scope="module")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written to the user's folders, and nothing is asked of the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr(hub, "_of_the_hub", hub._of_the_hub.__wrapped__)
        yield


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[tuple[Any, ...]]]:
    """`named(answer)`: load_dataset returns or raises the answer; returns what it was asked."""

    def give(answer: Any) -> list[tuple[Any, ...]]:
        asked = []

        def load_dataset(*arguments: Any, **options: Any) -> Any:
            asked.append((*arguments, options))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return give


def refusal(root: Path | str, split: str | None = None, **options: Any) -> str:
    """The message of the DataError, which must be one line that names the data set."""
    with pytest.raises(DataError, match=r"\A.*\Z") as caught:
        load_hub(Path(root), split, 8, None, **options)
    assert str(root).partition(":")[0] in str(caught.value)
    return str(caught.value)


def same(root: Path | str, **options: Any) -> None:
    """Assert that a data set of one split holds PICTURES and LABELS."""
    found = load_hub(Path(root), None, None, None, **options)
    images, labels = found.images, found.labels
    assert images.dtype == torch.uint8
    assert torch.equal(images, pixels())
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == LABELS


# Local files


@pytest.mark.quick
def test_shards_of_parquet_are_read_in_order_with_labels_and_splits(tmp_path):
    made(PICTURES[:4]).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    second = made(PICTURES[4:], label=datasets.Dataset.from_dict({"label": LABELS[4:]})["label"][:])
    second = second.cast_column("label", datasets.ClassLabel(names=CLASSES))
    second.to_parquet(tmp_path / "train-00001-of-00002.parquet")
    made(PICTURES[:2]).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    same(tmp_path)
    assert hub.splits_of(tmp_path) == ("train", "test")
    held_out = load_hub(tmp_path, "test", None, None)
    assert torch.equal(held_out.images, pixels(PICTURES[:2]))
    assert held_out.classes == tuple(CLASSES)
    assert "no split 'all'; set --data.split to one of train, test" in refusal(tmp_path, "all")


def test_bytes_without_features_are_read_from_parquet_and_both_kinds_of_arrow_files(tmp_path):
    structs = [{"bytes": data, "path": f"{index}.png"} for index, data in enumerate(PICTURES)]
    table = pa.table({"text": ["a"] * COUNT, "img": structs, "fine_label": LABELS})
    bare = pa.table({"jpg": pa.array(PICTURES, pa.binary()), "labels": LABELS})
    for index, each in enumerate((table, bare)):
        pa.parquet.write_table(each, tmp_path / f"{index}.parquet")
        for kind, writer in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
            folder = tmp_path / f"{kind}{index}"
            folder.mkdir()
            with writer(str(folder / "data.arrow"), each.schema) as file:
                file.write_table(each)
            same(folder)
        same(tmp_path / f"{index}.parquet")


def test_folders_of_save_to_disk_are_read_in_the_order_that_was_saved(tmp_path):
    made(PICTURES[::-1]).select(range(COUNT - 1, -1, -1)).save_to_disk(tmp_path / "one")
    assert hub.splits_of(tmp_path / "one") == ("train",)
    found = load_hub(tmp_path / "one", None, None, None)
    assert torch.equal(found.images, pixels())
    assert found.labels.tolist() == LABELS[::-1]
    datasets.DatasetDict(a=made(PICTURES[:2]), b=made()).save_to_disk(tmp_path / "two")
    assert torch.equal(load_hub(tmp_path / "two", "b", None, None).images, pixels())
    message = refusal(tmp_path / "two")
    assert "has no split 'train'; set --data.split to one of a, b" in message


def test_a_local_folder_may_have_configurations(tmp_path):
    for name, pictures in (("a", PICTURES[:2]), ("b", PICTURES)):
        (tmp_path / name).mkdir()
        made(pictures).to_parquet(tmp_path / name / "x.parquet")
    lines = [f"- config_name: {name}\n  data_files: {name}/*.parquet\n" for name in "ab"]
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{''.join(lines)}---\n")
    same(f"{tmp_path}:b")
    for root, words in (
        (tmp_path, "several configurations"),
        (f"{tmp_path}:c", "configuration 'c'"),
    ):
        assert words in (message := refusal(root))
        assert "choose one of a, b, as --data.root" in message


def test_images_of_every_mode_are_treated_as_those_of_a_folder(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    files = {
        "0.png": encoded(0, "L", 20, 12),
        "1.png": encoded(1, "P", 9, 30),
        "2.png": encoded(2, "I;16", 16, 16),
        "3.jpg": encoded(3, "CMYK", 24, 16, format="JPEG"),
        "4.jpg": encoded(4, "RGB", 24, 16, format="JPEG", exif=exif),
        "5.png": encoded(5, "RGBA", 8, 8),
        "6.webp": encoded(6, "RGB", 40, 8, format="WEBP", lossless=True),
    }
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).write_bytes(data)
    made([*files.values()]).to_parquet(tmp_path / "x.parquet")
    for channels in (1, 3):
        found = load_hub(tmp_path / "x.parquet", None, 8, channels).images
        assert torch.equal(found, load_folder(tmp_path / "folder", 8, channels).images)
    with pytest.raises(DataError, match=r"not square \(20x12 train\[0\]\); set --data.size"):
        load_hub(tmp_path / "x.parquet", None, None, 3)


def test_bad_images_are_named_by_their_row_or_skipped_with_their_labels(tmp_path):
    made([PICTURES[0], b"no image", PICTURES[2][:60], PICTURES[3]]).to_parquet(
        tmp_path / "x.parquet"
    )
    message = refusal(tmp_path / "x.parquet")
    assert "2 of 4 images in" in message
    assert "train[1] (it is damaged, or not an image), train[2] (" in message
    assert message.endswith("set --data.on_bad_image skip")
    with pytest.warns(UserWarning, match="2 of 4 images in .* are skipped"):
        found = load_hub(tmp_path / "x.parquet", None, 8, None, skip_bad=True)
    assert torch.equal(found.images, pixels([PICTURES[0], PICTURES[3]]))
    assert found.labels.tolist() == [0, 0]


def test_decoded_images_are_cached_for_their_columns_and_files(tmp_path, monkeypatch):
    made(other=[2] * COUNT).to_parquet(tmp_path / "x.parquet")

    def labels(**options: Any) -> list[int] | None:
        options["cache"] = tmp_path / "cache"
        found = load_hub(tmp_path / "x.parquet", None, None, None, **options)
        assert torch.equal(found.images, pixels())
        return None if found.labels is None else found.labels.tolist()

    assert labels() is None
    with monkeypatch.context() as patch:
        patch.setattr(hub, "decoded", None)
        assert labels() is None
    assert labels(label_column="other") == [2] * COUNT
    made().to_parquet(tmp_path / "x.parquet")
    assert labels() == LABELS


def test_a_path_in_place_of_bytes_is_read_beside_the_file_and_never_elsewhere(tmp_path):
    inside = tmp_path / "data"
    inside.mkdir()
    (inside / "a.png").write_bytes(PICTURES[0])
    (tmp_path / "secret.png").write_bytes(PICTURES[1])
    (inside / "link.png").symlink_to(tmp_path / "secret.png")

    def of(path: str) -> Path:
        column = pa.array([{"bytes": None, "path": path}], image := datasets.Image().pa_type)
        assert image == column.type
        pa.parquet.write_table(pa.table({"image": column}), inside / "x.parquet")
        return inside / "x.parquet"

    assert torch.equal(load_hub(of("a.png"), None, None, None).images, pixels(PICTURES[:1]))
    for path in ("../secret.png", str(tmp_path / "secret.png"), "link.png"):
        assert "leads out of the data set" in refusal(of(path))
    for path in ("missing.png", "hf://datasets/a/b/c.png", "https://a.example/b.png"):
        assert "train[0] cannot be read: " in refusal(of(path))


# Columns

IMAGE, CLASS = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}, None
FOUND = [
    ({"image": "Image", "label": "class"}, {}, ("image", "label")),
    ({"a": "Image", "b": "class"}, {}, ("a", "b")),
    ({"a": "Image", "thumb": "binary"}, {}, ("a", None)),
    ({"a": "Image", "b": "class", "label": "int64"}, {}, ("a", "b")),
    ({"img": "Image", "coarse_label": "class", "fine_label": "class"}, {}, ("img", "fine_label")),
    ({"a": "Image", "id": "int64", "labels": "int32"}, {}, ("a", "labels")),
    ({"a": "Image", "id": "int64", "label": "string"}, {}, ("a", None)),
    ({"a": "Image", "b": "Image"}, {"image": "b"}, ("b", None)),
    ({"a": "Image", "name": "string", "c": "class"}, {"label": "name"}, ("a", "name")),
    ({"a": "Image", "label": "class"}, {"label": "none"}, ("a", None)),
]
REFUSED = [
    ({"text": "string"}, {}, "X has no column of images; its columns are text (string)"),
    ({"a": "Image", "b": "Image"}, {}, "2 columns of images (a, b); choose one with --data.image"),
    (
        {"image": "Image"},
        {"image": "imge"},
        "no column 'imge' (did you mean 'image'?); it has imag",
    ),
    ({"image": "Image"}, {"label": "y"}, "--data.label_column: X has no column 'y'"),
    ({"a": "Image", "b": "int64"}, {"image": "b"}, "--data.image_column b: it holds int64, not im"),
    ({"a": "Image", "b": "float32"}, {"label": "b"}, "--data.label_column b: it holds float32;"),
]


def feature(kind: str) -> Any:
    special = {"Image": datasets.Image(), "class": datasets.ClassLabel(names=CLASSES)}
    return special.get(kind) or datasets.Value(kind)


@pytest.mark.parametrize(("columns", "given", "want"), FOUND)
def test_columns_are_found_by_their_types_or_named(columns, given, want):
    features = {name: feature(kind) for name, kind in columns.items()}
    chosen = {"image": None, "label": None} | given
    assert hub.chosen_columns("X", features, chosen["image"], chosen["label"]) == want


@pytest.mark.parametrize(("columns", "given", "words"), REFUSED)
def test_columns_that_do_not_fit_are_refused_with_what_there_is(columns, given, words):
    features = {name: feature(kind) for name, kind in columns.items()}
    chosen = {"image": None, "label": None} | given
    with pytest.raises(DataError, match=r"\A.*\Z") as caught:
        hub.chosen_columns("X", features, chosen["image"], chosen["label"])
    assert words in str(caught.value)


def test_labels_of_several_columns_are_left_out_with_a_warning():
    features = {"image": feature("Image"), "smile": feature("class"), "hat": feature("class")}
    with pytest.warns(UserWarning, match=r"2 columns of labels \(smile, hat\), and none is used"):
        assert hub.chosen_columns("X", features, None, None) == ("image", None)


def test_names_become_numbers_in_their_order_and_unknown_labels_are_none(tmp_path):
    def labels(values: list[Any], **options: Any) -> list[int] | None:
        made(PICTURES[:3], label=values).to_parquet(tmp_path / "x.parquet")
        found = load_hub(tmp_path / "x.parquet", None, None, None, **options)
        return None if found.labels is None else found.labels.tolist()

    assert labels(["owl", "cat", "owl"], label_column="label") == [1, 0, 1]
    assert labels([True, False, True], label_column="label") == [1, 0, 1]
    assert labels([-1, -1, -1]) is None
    for values, words in (([0, -1, 2], "holds -1"), ([0, None, 2], "is empty in 1 of 3 rows")):
        with pytest.raises(DataError, match=rf"column 'label' of .* {words}.*--data.label_column"):
            labels(values)
        assert labels(values, label_column="none") is None


# Names on the hub


def test_files_that_the_library_has_fetched_are_read_and_no_others(tmp_path, named):
    fetched = Path(datasets.config.HF_DATASETS_CACHE) / "a.png"
    fetched.write_bytes(PICTURES[0])
    (tmp_path / "b.png").write_bytes(PICTURES[1])

    def of(path: Path) -> Any:
        features = datasets.Features({"image": datasets.Image()})
        rows = {"image": [{"bytes": None, "path": str(path)}]}
        return {"train": datasets.Dataset.from_dict(rows, features=features)}

    named(of(fetched))
    assert torch.equal(load_hub(Path("a/b"), None, None, None).images, pixels(PICTURES[:1]))
    named(of(tmp_path / "b.png"))
    assert "leads out of the data set" in refusal("a/b")


def test_a_name_and_its_configuration_are_asked_of_the_hub_without_any_right_to_run_code(named):
    asked = named(datasets.DatasetDict(train=made(), test=made(PICTURES[:2])))
    same("owner/name")
    same("owner/name:big")
    assert asked == [("owner/name", None, {}), ("owner/name", "big", {})]
    assert len(load_hub(Path("owner/name"), "test", None, None).images) == 2
    named({"train": made().select([])})
    assert "owner/name has no rows in split train" in refusal("owner/name")
    for path in Path(hub.__file__).parent.parent.rglob("*.py"):
        assert "trust_remote_code" not in path.read_text(), path


def test_without_download_the_library_is_offline_meanwhile(named, monkeypatch):
    def load_dataset(*_: Any) -> Any:
        assert datasets.config.HF_HUB_OFFLINE
        assert huggingface_hub.constants.HF_HUB_OFFLINE
        raise ConnectionError("Couldn't reach it (OfflineModeIsEnabled)")

    import huggingface_hub

    before = datasets.config.HF_HUB_OFFLINE
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert "not in this machine's cache" in refusal("owner/name", download=False)
    assert before == datasets.config.HF_HUB_OFFLINE


def failures() -> dict[str, tuple[BaseException, str]]:
    from datasets import exceptions as found

    generation = found.DatasetGenerationError("An error occurred while generating the dataset")
    generation.__cause__ = OSError(28, "No space left on device")
    configs = "Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\nE"
    return {
        "unknown": (
            found.DatasetNotFoundError("Dataset 'owner/name' doesn't exist on the Hub or"),
            "the Hugging Face hub has no data set owner/name, or it is private: check OWNER/NAME",
        ),
        "gated": (
            found.DatasetNotFoundError("Dataset 'owner/name' is a gated dataset on the Hub. Visit"),
            "ask for access at https://huggingface.co/datasets/owner/name, then log in",
        ),
        "network": (
            ConnectionError("Couldn't reach 'owner/name' on the Hub (ConnectError)"),
            "cannot reach the Hugging Face hub for owner/name (Couldn't reach",
        ),
        "configs": (
            ValueError(configs),
            "has several configurations; choose one of a, b, as --dat",
        ),
        "script": (
            RuntimeError("Dataset scripts are no longer supported, but found name.py"),
            "needs a loading script, and no code of a data set is run",
        ),
        "empty": (
            found.DataFilesNotFoundError("No (supported) data files found in owner/name"),
            "owner/name cannot be read: No (supported) data files found",
        ),
        "disk": (generation, "owner/name cannot be read: [Errno 28] No space left on device"),
    }


@pytest.mark.parametrize("kind", failures())
def test_a_failure_of_the_hub_is_one_line_with_the_remedy(kind, named):
    problem, words = failures()[kind]
    named(problem)
    assert words in refusal("owner/name")


def test_an_unknown_configuration_is_refused_with_those_there_are(named):
    named(ValueError("BuilderConfig 'c' not found. Available: ['a', 'b']"))
    message = refusal("owner/name:c")
    assert (
        "owner/name has no configuration 'c'; choose one of a, b, as --data.root owner/name:CON"
        in (message)
    )


def test_what_is_neither_here_nor_a_name_is_refused(tmp_path, named):
    asked = named(AssertionError("asked"))
    for root in (tmp_path / "gone", tmp_path / "gone.parquet", "a/gone.parquet", "a/b/c", "gone"):
        assert "does not exist; --data.root takes OWNER/NAME" in refusal(root)
    (tmp_path / "a.png").write_bytes(PICTURES[0])
    for root in (tmp_path, tmp_path / "a.png"):
        message = refusal(root)
        assert "no Parquet or Arrow files in" in message
        assert "--data.dataset folder" in message
    assert not asked


# Runs


def test_a_gan_trains_on_parquet_files_and_goes_on_from_its_checkpoint(tmp_path, tiny, run):
    made().to_parquet(tmp_path / "train.parquet")
    made(PICTURES[:2]).to_parquet(tmp_path / "test.parquet")
    options = ["--data.dataset", "hub", "--data.root", str(tmp_path), "--data.batch_size", "2"]
    folder = tiny("mine", *options)
    saved = torch.load(folder / "last.ckpt", weights_only=True)["msngan"]["data"]
    assert (saved["dataset"], saved["root"], saved["split"]) == ("hub", str(tmp_path), "train")
    assert run("resume", "mine", "--steps", "7") == 0
    data = ImageData("hub", str(tmp_path), size=8)
    assert data.splits == ("train", "test")
    assert torch.equal(data.held_out, pixels(PICTURES[:2]))
    assert data.shape == (3, 8)


def test_bad_input_is_one_line_of_the_command(tmp_path, refused):
    made(other=[0] * COUNT).to_parquet(tmp_path / "x.parquet")
    fit = ["fit", "--data.dataset", "hub"]
    assert "needs --data.root: OWNER/NAME of the Hugging Face hub" in refused(*fit)
    fit += ["--data.root", str(tmp_path / "x.parquet")]
    assert "has no column 'images' (did" in refused(*fit, "--data.image_column", "images")
    assert "no split 'tset'; set --data.split" in refused(*fit, "--data.split", "tset")
    classifier = [*fit, "--task", "classifier", "--data.batch_size", "2"]
    assert "has no labels; set --data.label_column to one of" in refused(*classifier)
    (tmp_path / "x.parquet").write_bytes(b"text")
    assert " cannot be read: " in refused(*fit)


def test_a_classifier_tests_on_a_split_of_its_own_or_on_a_share_of_each_class(tmp_path):
    made().to_parquet(tmp_path / "train.parquet")
    whole = {"batch_size": 1, "validation": 0, "test_share": 0.5}
    data = LabelledData("hub", str(tmp_path), **whole)
    parts = [data.images_of(part) for part in ("train", "test")]
    assert [sorted(part.labels.tolist()) for part in parts] == [[0, 1, 2]] * 2
    rows = [tuple(image.flatten().tolist()) for part in parts for image in part.images]
    assert len(set(rows)) == COUNT
    assert data.classes == 3
    made(PICTURES[:2]).to_parquet(tmp_path / "validation.parquet")
    data = LabelledData("hub", str(tmp_path), **whole)
    assert torch.equal(data.images_of("train").images[:], pixels())
    assert torch.equal(data.images_of("test").images[:], pixels(PICTURES[:2]))
    for labels, words in (([1] * COUNT, "one class only"), ([0, 7] * 3, "labels up to 7, of whic")):
        made(label=labels).to_parquet(tmp_path / "x.parquet")
        with pytest.raises(DataError, match=words):
            _ = LabelledData("hub", str(tmp_path / "x.parquet"), **whole).real


@pytest.mark.parametrize("damage", ["text", "cut", "json"])
def test_damaged_files_are_refused_without_a_word_of_the_library(damage, tmp_path, monkeypatch):
    said: list[Any] = []
    monkeypatch.setattr(logging.getLogger("datasets").handlers[0], "emit", said.append)
    if damage == "json":
        made().save_to_disk(tmp_path)
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": 3}))
    else:
        made().to_parquet(tmp_path / "x.parquet")
        data = (tmp_path / "x.parquet").read_bytes()
        (tmp_path / "x.parquet").write_bytes(b"text" if damage == "text" else data[:-100])
    assert " cannot be read: " in refusal(tmp_path)
    assert not said


def test_without_the_library_or_with_an_old_one_the_command_to_install_it_is_named(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(DataError, match=r"version 3.6.0, .*: pip install 'datasets>=4'"):
        load_hub(Path("owner/name"), None, None, None)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the library .*: pip install 'msngan\[hub\]'"):
        load_hub(Path("owner/name"), None, None, None)
