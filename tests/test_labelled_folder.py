"""A classifier on a folder: its classes, its test images, and what no classifier can learn from."""

from __future__ import annotations

import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from conftest import Run
from PIL import Image

from msngan.data import ImageData, LabelledData
from msngan.data.image_files import load_folder
from msngan.data.pictures import DataError
from msngan.runs.jsonl import read_lines

COUNTS = {"cat": 10, "dog": 20, "owl": 4}
TINY = ("--task", "classifier", "--data.dataset", "folder", "--data.root", "pictures")
TINY += ("--model.width", "2", "--data.batch_size", "8", "--epochs", "2", "--run", "mine")


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), level).save(path)


def write(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """In each of these folders so many images, each of a level of its own."""
    for name, count in counts.items():
        for index in range(count):
            picture(root / name / f"{index:02}.png", start)
            start += 1
    return root


def levels(root: Path, split: str, **options: float) -> dict[int, int]:
    """Level -> label."""
    found = load_folder(root, None, None, None, split, **options)  # type: ignore[arg-type]
    assert found.labels is not None
    return dict(zip(found.images[:, 0, 0, 0].tolist(), found.labels.tolist(), strict=True))


def refusal(root: Path, split: str = "train") -> str:
    with pytest.raises(DataError, match=r"\A.*\Z") as caught:
        load_folder(root, None, None, None, split, labelled=True)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_a_fifth_of_each_class_is_the_test_set_always_the_same_one(tmp_path, kind):
    root = write(tmp_path / "pictures", COUNTS)
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            for file in root.rglob("*.png"):
                archive.write(file, file.relative_to(root))
        root = tmp_path / "x.zip"
    whole, train, test = (levels(root, split) for split in ("all", "train", "test"))
    assert train | test == whole
    assert not train.keys() & test.keys()
    assert [*test.values()] == [0] * 2 + [1] * 4 + [2]
    assert levels(root, "test") == test
    assert max(test) - min(test) > 20
    assert len(levels(root, "test", test_share=0.5)) == 17
    one = LabelledData("folder", str(root), batch_size=8)
    other = LabelledData("folder", str(root), batch_size=8)
    one.seed, other.seed = 0, 1
    assert torch.equal(one.images_of("test").images, other.images_of("test").images)
    assert [len(one.images_of(part)) for part in ("train", "validation", "test")] == [25, 2, 7]
    assert (one.classes, one.images("train").classes) == (3, ("cat", "dog", "owl"))


def test_the_folders_train_and_test_are_the_splits_and_what_lies_beside_them_is_said(tmp_path):
    write(tmp_path / "train", {"cat": 3, "dog": 2})
    write(tmp_path / "test", {"cat": 1, "dog": 1}, 50)
    assert levels(tmp_path, "train") == {0: 0, 1: 0, 2: 0, 3: 1, 4: 1}
    assert levels(tmp_path, "test") == {50: 0, 51: 1}
    assert len(levels(tmp_path, "all")) == 7
    assert {*levels(tmp_path, "all").values()} == {0, 1}
    write(tmp_path / "more", {"": 2}, 90)
    with pytest.warns(UserWarning, match="2 images in .* in neither train nor test and are left"):
        assert levels(tmp_path, "test") == {50: 0, 51: 1}
    (tmp_path / "test" / "dog" / "00.png").unlink()
    (tmp_path / "test" / "dog").rmdir()
    with warnings.catch_warnings(record=True) as said:
        load_folder(tmp_path, None, None, None, "test", labelled=True)
    assert f"the class dog in {tmp_path} has no test images" in [str(e.message) for e in said]


def test_a_gan_takes_a_split_of_a_folder_and_keeps_its_labels(tmp_path):
    data = ImageData("folder", str(write(tmp_path, COUNTS)), split="train")
    assert (len(data.real), len(data.held_out)) == (27, 7)
    assert data.images("train").labels.tolist() == [0] * 8 + [1] * 16 + [2] * 3
    assert ImageData("folder", str(tmp_path)).held_out is None


def listed(root: Path, labels: list[int]) -> Path:
    names = [f"{label}/{number}.png" for number, label in enumerate(labels)]
    for number, name in enumerate(names):
        picture(root / name, number)
    content = {"labels": [[name, label] for name, label in zip(names, labels, strict=True)]}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_a_folder_that_no_classifier_can_learn_from_is_refused_in_one_line(tmp_path):
    flat = write(tmp_path / "flat", {"": 2})
    write(flat, {"a": 1})
    assert "flat has no labels: 2 of its 3 images lie in no subfolder; put" in refusal(flat)
    one = write(tmp_path / "one", {"a": 3})
    assert "one has one class only, a;" in refusal(one)
    (write(tmp_path / "empty", {"a": 3, "b": 2}) / "c").mkdir()
    assert "empty/c has no images; add some, or remove it" in refusal(tmp_path / "empty")
    parts = write(tmp_path / "parts", {"train/a": 2, "train/b": 2, "val/a": 1, "val/b": 1})
    assert "parts holds train, val, which are no classes; it needs both" in refusal(parts)
    other = write(tmp_path / "other", {"train/a": 2, "train/b": 2, "test/a": 1, "test/c": 1})
    assert "the class c in " in refusal(other)
    assert "other has no train images; add some" in refusal(other)
    gap = listed(tmp_path / "gap", [0, 0, 2, 2, 2])
    assert "the class 1 in " in refusal(gap)
    huge = listed(tmp_path / "huge", [0, 0, 2**62, 2**62])
    assert "the class 1 in " in refusal(huge)
    null = write(tmp_path / "null", {"a": 2, "b": 2})
    (null / "dataset.json").write_text('{"labels": null}')
    assert "null has no labels: dataset.json says so" in refusal(null)
    single = write(tmp_path / "single", {"a": 1, "b": 1})
    assert "2 images, too few to test with" in refusal(single, "test")


def test_labels_of_dataset_json_are_classes_by_number(tmp_path):
    data = LabelledData("folder", str(listed(tmp_path, [2, 1, 0, 0, 1, 2])), batch_size=1)
    assert data.classes == 3


def test_a_classifier_trains_on_a_folder_and_resumes_with_another_share(run: Run, capsys):
    write(Path("pictures"), COUNTS)
    Path("pictures/cat/bad.png").write_bytes(b"no image")
    assert run("fit", *TINY) == 2
    assert "or set --data.on_bad_image skip" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="1 of 28 images .* cannot be read and is skipped"):
        assert run("fit", *TINY, "--data.on_bad_image", "skip") == 0
    said = capsys.readouterr().err
    assert "25 images of folder, 8x8, 2 to validate and 7 to test with, 3 classes" in said
    (last,) = read_lines(Path("checkpoints/mine/accuracy.jsonl"))[-1:]
    assert 0 <= last["test_accuracy"] <= 1
    more = ("--epochs", "5", "--data.test_share", "0.5")
    with pytest.warns(UserWarning, match="skipped"):
        assert run("resume", "mine", *more) == 0
    assert "test_share: 0.2 -> 0.5" in capsys.readouterr().err


def test_a_crop_of_more_than_the_images_is_refused(tmp_path):
    data = LabelledData("folder", str(write(tmp_path, COUNTS)), batch_size=8, crop=8)
    with pytest.raises(DataError, match="--data.crop 8 leaves nothing of images that are 8 pixels"):
        data.check()
