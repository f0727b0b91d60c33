"""Extractors: what goes in, what comes out, what it may be called, and which one a run gets."""

from __future__ import annotations

import json
import os
import pickle
import re
import threading
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from toy_extractor import METADATA, network, photographs

from msngan.data import images as convert
from msngan.runs import hardware as machine
from msngan.runs.folder import UserError
from msngan.scores import embedded, extractors, scorer
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.extractors import InceptionExtractor, file_sha256, full_float32
from msngan.scores.scorer import choose

SHIPPED = embedded.shipped()
every_shipped = pytest.mark.parametrize("dataset", sorted(SHIPPED))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    embedded.save_extractor(network(), tmp_path / "toy.safetensors", METADATA)
    return tmp_path / "toy.safetensors"


@pytest.fixture
def toy(path: Path) -> EmbeddedExtractor:
    return EmbeddedExtractor.load(path)


@pytest.fixture
def no_inception(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No weights anywhere and no network; the path where torch hub would keep them."""

    def offline(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv(extractors.INCEPTION_VARIABLE, raising=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    return extractors.hub_file()


def test_features_are_those_of_the_network_in_eval_mode_in_float64(toy: EmbeddedExtractor) -> None:
    x = photographs(7)
    net = network()
    net.load_state_dict({k: v.half().to(v.dtype) for k, v in net.state_dict().items()})
    net.eval()
    with torch.no_grad():
        pool = net.features(convert.to_float(x))
    found = toy.features(x)
    assert found.pool.dtype == found.logits.dtype == torch.float64
    assert found.pool.shape == (7, toy.dimensions) == (7, 8)
    assert found.logits.shape == (7, toy.classes) == (7, 5)
    torch.testing.assert_close(found.pool.float(), pool)
    torch.testing.assert_close(found.logits.float(), net.head(pool))
    assert not found.pool.requires_grad


def test_features_depend_neither_on_batch_nor_mode_nor_autocast(toy: EmbeddedExtractor) -> None:
    x = photographs(9)
    expected = toy.features(x)
    toy.batch = 4
    toy.network.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = toy.features(x)
    torch.testing.assert_close(found.pool, expected.pool, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-6, atol=1e-6)
    assert not any(each.requires_grad for each in toy.network.parameters())


def test_other_channels_and_sizes_are_converted(toy: EmbeddedExtractor) -> None:
    grey, large = photographs(3, channels=1), photographs(3, size=48)
    expected = toy.features(grey.expand(-1, 3, -1, -1))
    assert torch.equal(toy.features(grey).pool, expected.pool)
    expected = toy.features(convert.resize(large, 32))
    assert torch.equal(toy.features(large).pool, expected.pool)


def test_images_that_are_not_uint8_batches_are_refused(toy: EmbeddedExtractor) -> None:
    with pytest.raises(TypeError, match=r"takes uint8 images, not torch.float32"):
        toy.features(torch.rand(2, 3, 32, 32))
    with pytest.raises(ValueError, match=r"must have shape \(N, C, H, W\), not \(3, 32, 32\)"):
        toy.features(photographs(1)[0])
    with pytest.raises(ValueError, match=r"not \(0, 3, 32, 32\)"):
        toy.features(photographs(0))
    with pytest.raises(ValueError, match="2 channels"):
        toy.features(photographs(2, channels=2))


def test_name_is_the_files_hash_and_the_same_network_writes_the_same_file(
    path: Path, toy: EmbeddedExtractor, tmp_path: Path
) -> None:
    again = tmp_path / "again.safetensors"
    embedded.save_extractor(network(), again, dict(reversed(METADATA.items())))
    assert again.read_bytes() == path.read_bytes()
    assert toy.name == f"embed-toy-{file_sha256(path)[:8]}"
    assert toy.weights_sha256 == file_sha256(path)
    embedded.save_extractor(network(), again, {**METADATA, "train_images": "101"})
    assert EmbeddedExtractor.load(again).name != toy.name


def test_metadata_comes_back_and_weights_are_half_in_the_file(path: Path) -> None:
    from safetensors import safe_open

    before = torch.get_rng_state()
    assert EmbeddedExtractor.load(path).metadata == {"format": embedded.FORMAT, **METADATA}
    with safe_open(path, framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118
    assert kinds == {torch.float16, torch.int64}  # int64: BatchNorm's counters
    assert next(EmbeddedExtractor.load(path).network.parameters()).dtype == torch.float32
    assert torch.equal(torch.get_rng_state(), before)
    with pytest.raises(UserError, match="no extractor file .*msngan extractor fit"):
        EmbeddedExtractor.load(path.with_name("none.safetensors"))


def test_weights_that_overflow_float16_are_refused(tmp_path: Path) -> None:
    net = network()
    net.head.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"head.weight does not fit into float16"):
        embedded.save_extractor(net, tmp_path / "x.safetensors", METADATA)
    assert not list(tmp_path.iterdir())


def with_metadata(**changed: str | None) -> bytes:
    from safetensors.torch import save

    metadata = {"format": embedded.FORMAT, **METADATA, **changed}
    return save(
        {k: v.half() for k, v in network().state_dict().items()},
        {name: value for name, value in metadata.items() if value is not None},
    )


def with_nan() -> bytes:
    from safetensors.torch import save

    state = {k: v.half() for k, v in network().state_dict().items()}
    state["head.bias"][0] = float("nan")
    return save(state, {"format": embedded.FORMAT, **METADATA})


BAD_FILES = {
    "empty": lambda whole: b"",
    "pickle": lambda whole: pickle.dumps({"a": 1}),
    "cut by a byte": lambda whole: whole[:-1],
    "foreign": lambda whole: with_metadata(format=None),
    "of another format": lambda whole: with_metadata(format="msngan-extractor-0"),
    "without its classes": lambda whole: with_metadata(classes=None),
    "of another width": lambda whole: with_metadata(widths="[4, 4, 8, 16]"),
    "of a huge width": lambda whole: with_metadata(widths="[4, 4, 8, 100000000]"),
    "of widths that are no list": lambda whole: with_metadata(widths="4"),
    "of classes that are no number": lambda whole: with_metadata(classes="many"),
    "of two channels": lambda whole: with_metadata(channels="2"),
    "of NaN": lambda whole: with_nan(),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is(case: str, path: Path) -> None:
    path.write_bytes(BAD_FILES[case](path.read_bytes()))
    with pytest.raises(UserError) as error:
        EmbeddedExtractor.load(path)
    message = str(error.value)
    assert message.startswith(f"{path} is not a complete extractor file (")
    assert "msngan extractor fit" in message
    assert "\n" not in message


def test_an_embedded_extractor_can_never_be_called_fid(toy: EmbeddedExtractor) -> None:
    assert toy.keys == {
        "frechet": f"fd/{toy.name}",
        "score": f"cs/{toy.name}",
        "kernel": f"kd/{toy.name}",
        **{role: f"{role}/{toy.name}" for role in ("precision", "recall", "density", "coverage")},
    }
    assert toy.official_inception is False
    liar = EmbeddedExtractor(network(), {**METADATA, "dataset": "inception"}, "6726825d" * 8)
    assert all(key.endswith("/embed-inception-6726825d") for key in liar.keys.values())


def with_free_memory(free: int | None, monkeypatch: pytest.MonkeyPatch) -> EmbeddedExtractor:
    monkeypatch.setattr(machine, "free_memory", lambda device: free)
    return EmbeddedExtractor(network(), METADATA, "ab" * 32)


def test_batch_is_what_half_of_the_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = with_free_memory(None, monkeypatch)
    assert with_free_memory(2**40, monkeypatch).batch == toy.batch > 7
    assert with_free_memory(14_000_000, monkeypatch).batch == 7  # 1 MB an image
    scarce = with_free_memory(1000, monkeypatch)
    assert scarce.batch == 1
    x = photographs(5)
    expected = toy.features(x)
    torch.testing.assert_close(scarce.features(x).pool, expected.pool, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(scarce.features(x).logits, expected.logits, rtol=1e-6, atol=1e-5)


def test_free_memory_is_what_the_system_says(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 9 kB\nMemAvailable:    7 kB\n")
    assert machine.free_memory(cpu) == 7 * 1024
    monkeypatch.setattr(Path, "read_text", lambda self: "MemTotal: 900 kB\n")
    assert machine.free_memory(cpu) is None
    assert machine.free_memory(torch.device("mps")) is None


def test_free_memory_of_a_gpu_has_what_torch_keeps_and_does_not_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def of(value: object) -> Callable[[torch.device], object]:
        return lambda device: asked.append(device) or value

    gpu = torch.device("cuda:1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", of((500, 1000)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", of(300))
    monkeypatch.setattr(torch.cuda, "memory_allocated", of(200))
    assert machine.free_memory(gpu) == 600
    assert asked == [gpu] * 3


def precisions() -> list[str]:
    """How float32 is computed: products and convolutions on a GPU, then on a CPU."""
    cuda, cudnn, mkldnn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    places = (cuda.matmul, cudnn.conv, mkldnn.matmul, mkldnn.conv)
    return [place.fp32_precision for place in places]


@pytest.fixture
def hurried() -> Iterator[list[str]]:
    """A user's wish for speed over precision; what precisions() then are."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    yield precisions()
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


def test_features_are_computed_in_full_float32_whatever_training_uses(
    toy: EmbeddedExtractor, hurried: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hurried[:3] == ["tf32", "tf32", "bf16"]
    inside: list[list[str]] = []
    toy.network.head.register_forward_hook(lambda *_: inside.append(precisions()))
    found = toy.features(photographs(3))
    assert inside == [["ieee"] * 4]
    assert precisions() == hurried
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.pool, toy.features(photographs(3)).pool)
    assert torch.equal(found.logits, toy.features(photographs(3)).logits)


def test_precisions_are_as_before_whichever_of_two_threads_leaves_last(hurried: list[str]) -> None:
    """Each enters while the other is inside; the first to enter leaves first."""
    entered, left = threading.Event(), threading.Event()
    inside: list[list[str]] = []

    def second() -> None:
        with full_float32():
            entered.set()
            left.wait(10)
            inside.append(precisions())

    other = threading.Thread(target=second)
    with full_float32():
        other.start()
        assert entered.wait(10)
        with full_float32():
            pass
    left.set()
    other.join()
    assert inside == [["ieee"] * 4]
    assert precisions() == hurried
    assert torch.backends.cudnn.allow_tf32  # which raises where the two ways to set it disagree


def test_a_file_of_another_hash_is_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "opened"),)

    path = tmp_path / extractors.INCEPTION_FILE
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(UserError, match=r"not the official Inception weights.*not 6726825d"):
        InceptionExtractor.load(path)
    monkeypatch.setenv(extractors.INCEPTION_VARIABLE, str(path))
    with pytest.raises(UserError, match="not the official Inception weights"):
        choose("inception", "cifar10", 3)
    assert not (tmp_path / "opened").exists()


def test_without_weights_and_network_the_remedies_are_named(no_inception: Path) -> None:
    with pytest.raises(UserError) as error:
        choose("inception", "cifar10", 3)
    for remedy in (
        str(no_inception.parent),
        extractors.INCEPTION_VARIABLE,
        "embedded",
        extractors.INCEPTION_FILE,
    ):
        assert remedy in str(error.value)


def test_weights_asked_for_by_name_must_be_there(
    no_inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="no Inception weights file nowhere.pth; give"):
        extractors.find_weights("nowhere.pth")
    monkeypatch.setenv(extractors.INCEPTION_VARIABLE, "elsewhere.pth")
    with pytest.raises(UserError, match=r"elsewhere.pth \(from \$MSNGAN_INCEPTION\)"):
        extractors.find_weights()


def test_auto_is_inception_only_with_a_gpu_and_its_weights(
    no_inception: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stub:
        name = "inception-stub"

        def __init__(self, path: Path, device: str) -> None:
            self.path, self.device = path, device

    loaded: list[str] = []

    def load(path: Path, device: str) -> Stub:
        loaded.append(str(path))
        return Stub(path, device)

    monkeypatch.setattr(scorer, "InceptionExtractor", Stub)
    monkeypatch.setattr(EmbeddedExtractor, "load", load)
    _, line = choose("auto", "cifar10", 3, "cuda")
    assert "Inception's weights were not found" in line
    no_inception.parent.mkdir(parents=True)
    no_inception.touch()
    _, line = choose("auto", "cifar10", 3, "cpu")
    assert "there is no GPU" in line
    assert loaded == [str(SHIPPED["cifar10"])] * 2
    found, line = choose("auto", "cifar10", 3, "cuda:1")
    assert isinstance(found, Stub)
    assert (found.path, found.device) == (no_inception, "cuda:1")
    assert "inception-stub" in line


@pytest.mark.parametrize(
    ("dataset", "channels", "expected"),
    [("digits", 1, "digits"), ("fashion", 1, "mnist"), ("svhn", 3, "cifar10")],
)
def test_a_data_set_without_an_extractor_borrows_one_and_says_so(
    dataset: str, channels: int, expected: str
) -> None:
    found, line = choose("embedded", dataset, channels)
    assert found.name.startswith(f"embed-{expected}-")
    assert found.name in line
    assert "not FID or IS" in line
    assert (f"it was trained on {expected}, not on {dataset}" in line) == (dataset != expected)
    assert "msngan extractor fit" not in line
    line = choose("embedded", dataset, channels, labelled=True)[1]
    assert ("train one with `msngan extractor fit" in line) == (dataset != expected)


def test_a_file_can_be_asked_for_and_anything_else_lists_the_choices(path: Path) -> None:
    found, line = choose(str(path), "cifar10", 3)
    assert found.name.startswith("embed-toy-")
    assert str(path) in line
    with pytest.raises(UserError, match="unknown extractor 'incepton' .did you mean 'inception'"):
        choose("incepton", "cifar10", 3)


@pytest.mark.quick
@every_shipped
def test_shipped_files_are_small_and_their_cards_tell_the_truth(dataset: str) -> None:
    path = SHIPPED[dataset]
    extractor = EmbeddedExtractor.load(path)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    facts = extractor.metadata
    assert path.stat().st_size < 2_000_000
    assert facts["dataset"] == dataset
    assert card.startswith(f"# {extractor.name}\n")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card, re.MULTILINE))
    assert rows["sha256"] == file_sha256(path)
    assert rows["file"] == f"{path.name}, {path.stat().st_size:,} bytes"
    assert rows["features"] == str(extractor.dimensions)
    assert rows["held-out accuracy"] == facts["held_out_accuracy"]
    assert rows["test accuracy"].split(",")[0] == facts["test_accuracy"]
    assert rows["trained on"].split()[0] == facts["train_images"]
    recipe = json.loads(facts["recipe"])
    assert rows["recipe"] == ", ".join(f"{name} {value}" for name, value in recipe.items())


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("|")[1:-1]]


def card_tables(card: str) -> dict[str, tuple[str, list[list[str]]]]:
    """The first cell of a table's head -> the line before the table, and its rows."""
    found = {}
    for before, block in re.findall(r"(.*)\n\n((?:\|.*\n)+)", card):
        head, _, *rows = block.splitlines()
        found[cells(head)[0]] = (before, [cells(row) for row in rows])
    return found


@every_shipped
def test_shipped_cards_show_the_floors_and_the_score_of_real_data(dataset: str) -> None:
    card = SHIPPED[dataset].with_suffix(".md").read_text(encoding="utf-8")
    facts = dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card, re.MULTILINE))
    real = re.fullmatch(
        r"CS ([\d.]+) of \d+ training images, ([\d.]+) of \d+ test images; at most 10",
        facts["score of the real data"],
    )
    assert real is not None
    assert all(1 < float(score) <= 10 for score in real.groups())
    rows = {int(row[0]): row[1:] for row in card_tables(card)["images"][1]}
    assert {500, 2000, 10_000} <= rows.keys()
    distances = [float(re.split("[ ,]", rows[size][0])[0]) for size in sorted(rows)]
    assert distances == sorted(distances, reverse=True)  # the bias falls with the sample
    tested = int(re.search(r"on (\d+) images", facts["test accuracy"])[1])  # type: ignore[index]
    for size, row in rows.items():
        assert ("estimate" in row[0]) == (size > tested)
    largest = max(size for size in rows if size <= tested)
    assert rows[largest][-1] == f"{real[2]} (1)"


@every_shipped
def test_shipped_files_are_of_the_recipe_that_the_command_uses(dataset: str) -> None:
    from msngan.scores.embedded import RECIPES

    facts = EmbeddedExtractor.load(SHIPPED[dataset]).metadata
    recipe = json.loads(json.dumps(RECIPES[dataset].as_dict()))
    assert json.loads(facts["recipe"]) == recipe


def remeasured(dataset: str) -> tuple[float, float]:
    from msngan.data import load

    extractor = EmbeddedExtractor.load(SHIPPED[dataset])
    test = load(dataset, split="test", size=32, download=False)
    assert test.labels is not None
    found = extractor.features(test.images[:1000]).logits.argmax(1)
    right = (found == test.labels[:1000]).double().mean()
    return float(right), float(extractor.metadata["test_accuracy"])


def test_digits_accuracy_is_what_its_file_says() -> None:
    found, said = remeasured("digits")
    assert found == pytest.approx(said, abs=5e-5)


@pytest.mark.data
@pytest.mark.skipif("MSNGAN_DATA" not in os.environ, reason="needs MSNGAN_DATA")
@pytest.mark.parametrize("dataset", ["cifar10", "mnist"])
def test_accuracy_on_real_images_is_what_the_file_says(dataset: str) -> None:
    found, said = remeasured(dataset)
    spread = (said * (1 - said) / 1000) ** 0.5  # of 1000 images out of 10,000
    assert found == pytest.approx(said, abs=3 * spread)
