"""Extractors: what goes in, what comes out, what it may be called, and which one a run gets."""

from __future__ import annotations

import json
import os
import pickle
import re
import urllib.error
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from toy_extractor import METADATA, extractor, network, photographs

from msngan.data import images as convert
from msngan.data import load
from msngan.runs import hardware as machine
from msngan.runs.folder import UserError
from msngan.scores import embedded, extractors, scorer
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.extractors import InceptionExtractor, file_sha256
from msngan.scores.scorer import choose

SHIPPED = embedded.shipped()
FILES = {path.stem: path for path in embedded.FOLDER.glob("*.safetensors")}
every_shipped = pytest.mark.parametrize("stem", sorted(FILES))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    embedded.save_extractor(network(), tmp_path / "toy.safetensors", METADATA)
    return tmp_path / "toy.safetensors"


@pytest.fixture
def vgg7(tmp_path: Path) -> EmbeddedExtractor:
    facts = {**METADATA, "network": "vgg7", "widths": "[1]"}
    embedded.save_extractor(network("vgg7"), tmp_path / "vgg7.safetensors", facts)
    return EmbeddedExtractor.load(tmp_path / "vgg7.safetensors")


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


@pytest.mark.parametrize("kind", embedded.NETWORKS)
def test_features_are_those_of_the_network_in_eval_mode_in_float64(kind, request):
    toy = request.getfixturevalue("toy" if kind == "residual" else kind)
    x = photographs(7)
    net = network(kind)
    net.load_state_dict({k: v.half().to(v.dtype) for k, v in net.state_dict().items()})
    net.eval()
    with torch.no_grad():
        pool = net.body(convert.to_float(x))
    found = toy.features(x)
    assert found.pool.dtype == found.logits.dtype == torch.float64
    assert found.pool.shape == (7, toy.dimensions) == (7, 8)
    assert found.logits.shape == (7, toy.classes) == (7, 5)
    torch.testing.assert_close(found.pool.float(), pool)
    torch.testing.assert_close(found.logits.float(), net.head(pool))
    assert not found.pool.requires_grad


def test_features_depend_neither_on_batch_nor_mode_nor_autocast(toy):
    x = photographs(9)
    expected = toy.features(x)
    toy.network.train()
    with torch.autocast("cpu", torch.bfloat16):
        toy.batch = 4
        found = toy.features(x)
    torch.testing.assert_close(found.pool, expected.pool, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-6, atol=1e-6)
    assert not any(each.requires_grad for each in toy.network.parameters())


def test_other_channels_and_sizes_are_converted(toy):
    grey, large = photographs(3, channels=1), photographs(3, size=48)
    expected = toy.features(grey.expand(-1, 3, -1, -1))
    assert torch.equal(toy.features(grey).pool, expected.pool)
    expected = toy.features(convert.resize(large, 32))
    assert torch.equal(toy.features(large).pool, expected.pool)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 3, 32, 32), r"takes uint8 images, not torch.float32"),
        (photographs(1)[0], r"must have shape \(N, C, H, W\), not \(3, 32, 32\)"),
        (photographs(0), r"not \(0, 3, 32, 32\)"),
        (photographs(2, channels=2), "2 channels"),
    ],
)
def test_images_that_are_not_uint8_batches_are_refused(toy, images, message):
    with pytest.raises((TypeError, ValueError), match=message):
        toy.features(images)


def test_name_is_the_files_hash_and_the_same_network_writes_the_same_file(path, toy, tmp_path):
    again = tmp_path / "again.safetensors"
    embedded.save_extractor(network(), again, dict(reversed(METADATA.items())))
    assert again.read_bytes() == path.read_bytes()
    assert toy.name == f"embed-toy-{file_sha256(path)[:8]}"
    assert toy.weights_sha256 == file_sha256(path)
    embedded.save_extractor(network(), again, {**METADATA, "train_images": "101"})
    assert EmbeddedExtractor.load(again).name != toy.name


def test_metadata_comes_back_and_weights_are_half_in_the_file(path):
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


def test_weights_that_overflow_float16_are_refused(tmp_path):
    net = network()
    net.head.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"head.weight does not fit into float16"):
        embedded.save_extractor(net, tmp_path / "x.safetensors", METADATA)
    assert not list(tmp_path.iterdir())


def written(nan: bool = False, **changed: str | None) -> bytes:
    """The file's bytes with other metadata; None leaves a value out. nan: in the head's bias."""
    from safetensors.torch import save

    state = {k: v.half() for k, v in network().state_dict().items()}
    if nan:
        state["head.bias"][0] = float("nan")
    metadata = {"format": embedded.FORMAT, **METADATA, **changed}
    return save(state, {name: value for name, value in metadata.items() if value is not None})


BAD_FILES = {
    "empty": lambda whole: b"",
    "pickle": lambda whole: pickle.dumps({"a": 1}),
    "cut by a byte": lambda whole: whole[:-1],
    "foreign": lambda whole: written(format=None),
    "of another format": lambda whole: written(format="msngan-extractor-0"),
    "without its classes": lambda whole: written(classes=None),
    "of another width": lambda whole: written(widths="[4, 4, 8, 16]"),
    "of a huge width": lambda whole: written(widths="[4, 4, 8, 100000000]"),
    "of widths that are no list": lambda whole: written(widths="4"),
    "of too many widths": lambda whole: written(widths="[4, 4, 8, 16, 16]"),
    "of too many widths of vgg7": lambda whole: written(network="vgg7", widths="[4, 4]"),
    "of classes that are no number": lambda whole: written(classes="many"),
    "of an unknown network": lambda whole: written(network="densenet_bc"),
    "of another network": lambda whole: written(network="vgg7"),
    "of a huge width of vgg7": lambda whole: written(network="vgg7", widths="[100000000]"),
    "of two channels": lambda whole: written(channels="2"),
    "of NaN": lambda whole: written(nan=True),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_damaged_file_is_refused(case, path):
    path.write_bytes(BAD_FILES[case](path.read_bytes()))
    with pytest.raises(UserError) as error:
        EmbeddedExtractor.load(path)
    message = str(error.value)
    assert message.startswith(f"{path} is not a complete extractor file (")
    assert "msngan extractor fit" in message
    assert "\n" not in message
    assert "unpack" not in message


def test_every_network_is_shipped_for_the_same_data_sets_under_a_name_of_its_own(vgg7):
    assert vgg7.name == f"embed-vgg7-toy-{vgg7.weights_sha256[:8]}"
    files = [embedded.shipped(network) for network in embedded.REQUESTS.values()]
    assert [*embedded.REQUESTS.values()] == [*embedded.NETWORKS]
    assert {path for each in files for path in each.values()} == {*FILES.values()}
    assert all({*each} == {"cifar10", "digits", "mnist"} for each in files)
    names = [choose(request, "digits", 1)[0].name for request in embedded.REQUESTS]
    assert names[0].startswith("embed-digits-")
    assert names[1].startswith("embed-vgg7-digits-")
    for request in embedded.REQUESTS:
        line = choose(request, "svhn", 3, labelled=True)[1]
        named = "extractor fit --dataset svhn --network vgg7`" in line
        assert named == (request == "embedded-vgg7")


def test_an_embedded_extractor_can_never_be_called_fid(toy):
    named = {"frechet": "fd", "score": "cs", "kernel": "kd"}
    named |= {role: role for role in ("precision", "recall", "density", "coverage", "agreement")}
    named |= {"intra": "intra-fd"}
    assert toy.keys == {role: f"{name}/{toy.name}" for role, name in named.items()}
    assert toy.official_inception is False
    liar = EmbeddedExtractor(network(), {**METADATA, "dataset": "inception"}, "6726825d" * 8)
    assert all(key.endswith("/embed-inception-6726825d") for key in liar.keys.values())


def test_clean_resizing_gives_other_features_and_another_name(path, toy):
    clean, images = EmbeddedExtractor.load(path, clean=True), photographs(5, size=48)
    assert clean.name == toy.name.replace("embed-toy-", "embed-toy-clean-")
    assert (toy.resize, clean.resize) == ("bicubic-antialias-32", "clean-bicubic-32")
    found, rounded = clean.features(images).pool, toy.features(images).pool
    assert 0 < (found - rounded).abs().max() < 0.1  # its own way differs by rounding alone
    x = convert.clean_resize(images, 32) / 127.5 - 1
    with torch.no_grad():
        expected = clean.network.body(x)
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5)
    same = photographs(2)
    assert torch.equal(clean.features(same).pool, toy.features(same).pool)


def test_batch_is_what_half_of_the_free_memory_holds(monkeypatch):
    def with_free(free: int | None) -> EmbeddedExtractor:
        monkeypatch.setattr(machine, "free_memory", lambda device: free)
        return extractor()

    toy, scarce = with_free(None), with_free(1000)
    assert with_free(2**40).batch == toy.batch > 7
    assert with_free(14_000_000).batch == 7  # 1 MB an image
    assert scarce.batch == 1


def test_free_memory_is_what_the_system_says_and_what_torch_keeps_and_does_not_use(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda:1")
    for text, free in (
        ("MemTotal: 9 kB\nMemAvailable:    7 kB\n", 7 * 1024),
        ("MemTotal: 9 kB", None),
    ):
        monkeypatch.setattr(Path, "read_text", lambda self, text=text: text)
        assert machine.free_memory(cpu) == free
    assert machine.free_memory(torch.device("mps")) is None
    asked = []
    for name, value in (
        ("mem_get_info", (500, 1000)),
        ("memory_reserved", 300),
        ("memory_allocated", 200),
    ):
        answer = lambda device, value=value: asked.append(device) or value  # noqa: E731
        monkeypatch.setattr(torch.cuda, name, answer)
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


def test_features_are_computed_in_full_float32_whatever_training_uses(toy, hurried, monkeypatch):
    assert hurried[:3] == ["tf32", "tf32", "bf16"]
    inside: list[list[str]] = []
    toy.network.head.register_forward_hook(lambda *_: inside.append(precisions()))
    found = toy.features(photographs(3))
    assert inside == [["ieee"] * 4]
    assert precisions() == hurried
    assert torch.backends.cudnn.allow_tf32  # which raises where the two ways to set it disagree
    torch.set_float32_matmul_precision("highest")
    assert torch.equal(found.pool, toy.features(photographs(3)).pool)
    assert torch.equal(found.logits, toy.features(photographs(3)).logits)


def test_a_file_of_another_hash_is_refused_unopened(tmp_path, monkeypatch):
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


def test_without_weights_and_network_the_remedies_are_named(no_inception, monkeypatch):
    with pytest.raises(UserError) as error:
        choose("inception", "cifar10", 3)
    names = (extractors.INCEPTION_VARIABLE, "embedded", extractors.INCEPTION_FILE)
    for remedy in (str(no_inception.parent), *names):
        assert remedy in str(error.value)
    with pytest.raises(UserError, match="no Inception weights file nowhere.pth; give"):
        extractors.find_weights("nowhere.pth")
    monkeypatch.setenv(extractors.INCEPTION_VARIABLE, "elsewhere.pth")
    with pytest.raises(UserError, match=r"elsewhere.pth \(from \$MSNGAN_INCEPTION\)"):
        extractors.find_weights()


def test_auto_is_inception_only_with_a_gpu_and_its_weights(no_inception, monkeypatch):
    loaded: list[Path] = []

    class Stub:
        name = "inception-stub"

        def __init__(self, path: Path, device: str, clean: bool) -> None:
            loaded.append(path)
            self.device = device

    monkeypatch.setattr(scorer, "InceptionExtractor", Stub)
    monkeypatch.setattr(EmbeddedExtractor, "load", Stub)
    assert "Inception's weights were not found" in choose("auto", "cifar10", 3, "cuda")[1]
    no_inception.parent.mkdir(parents=True)
    no_inception.touch()
    assert "there is no GPU" in choose("auto", "cifar10", 3, "cpu")[1]
    found, line = choose("auto", "cifar10", 3, "cuda:1")
    assert loaded == [SHIPPED["cifar10"], SHIPPED["cifar10"], no_inception]
    assert found.device == "cuda:1"
    assert "inception-stub" in line


@pytest.mark.parametrize(
    ("dataset", "channels", "expected"),
    [("digits", 1, "digits"), ("fashion", 1, "mnist"), ("svhn", 3, "cifar10")],
)
def test_a_data_set_without_an_extractor_borrows_one_and_says_so(dataset, channels, expected):
    found, line = choose("embedded", dataset, channels)
    assert found.name.startswith(f"embed-{expected}-")
    assert found.name in line
    assert "not FID or IS" in line
    assert (f"it was trained on {expected}, not on {dataset}" in line) == (dataset != expected)
    assert "msngan extractor fit" not in line
    line = choose("embedded", dataset, channels, labelled=True)[1]
    assert ("train one with `msngan extractor fit" in line) == (dataset != expected)


def test_a_file_can_be_asked_for_and_anything_else_lists_the_choices(path):
    found, line = choose(str(path), "cifar10", 3)
    assert found.name.startswith("embed-toy-")
    assert str(path) in line
    with pytest.raises(UserError, match="unknown extractor 'incepton' .did you mean 'inception'"):
        choose("incepton", "cifar10", 3)


@pytest.mark.quick
@every_shipped
def test_shipped_files_are_small_and_their_cards_tell_the_truth(stem):
    path = FILES[stem]
    made = EmbeddedExtractor.load(path)
    card = path.with_suffix(".md").read_text(encoding="utf-8")
    facts = made.metadata
    network = facts.get("network", "residual")
    assert path.stat().st_size < 1_500_000
    assert path.name == embedded.file_name(facts["dataset"], network)
    assert card.startswith(f"# {made.name}\n")
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card, re.MULTILINE))
    assert rows["sha256"] == file_sha256(path)
    assert rows["file"] == f"{path.name}, {path.stat().st_size:,} bytes"
    assert rows["features"] == str(made.dimensions)
    assert rows["held-out accuracy"] == facts["held_out_accuracy"]
    assert rows["test accuracy"].split(",")[0] == facts["test_accuracy"]
    assert rows["trained on"].split()[0] == facts["train_images"]
    recipe = json.loads(facts["recipe"])
    assert rows["recipe"] == ", ".join(f"{name} {value}" for name, value in recipe.items())
    # the first files are older than the option; the others say what differs from the recipe
    usual = json.loads(json.dumps(asdict(embedded.RECIPES[facts["dataset"]])))
    assert recipe.get("network", "residual") == network
    widths = usual["widths"][:1] if network == "vgg7" else usual["widths"]
    expected = {**usual, "network": network, "widths": widths}
    command = rows["trained by"].strip("`").split()
    assert command[:5] == ["msngan", "extractor", "fit", "--dataset", facts["dataset"]]
    given = dict(zip(command[5::2], command[6::2], strict=True))
    for option in ("epochs", "seed"):
        expected[option] = int(given.pop(f"--{option}", expected[option]))
    assert given == ({} if network == "residual" else {"--network": network})
    assert {"network": network} | recipe == expected


@every_shipped
def test_shipped_cards_show_the_floors_and_the_score_of_real_data(stem):
    card = FILES[stem].with_suffix(".md").read_text(encoding="utf-8")
    facts = dict(re.findall(r"^\| ([^|]+) \| ([^|]*) \|$", card, re.MULTILINE))
    words = r"CS ([\d.]+) of \d+ training images, ([\d.]+) of \d+ test images; at most 10"
    real = re.fullmatch(words, facts["score of the real data"])
    assert all(1 < float(score) <= 10 for score in real.groups())
    table = card.partition("| images |")[2].partition("\n\n")[0]
    found = re.findall(r"^\| (\d+) \| (.*) \|$", table, re.MULTILINE)
    rows = {int(size): cells.split(" | ") for size, cells in found}
    assert {500, 2000, 10_000} <= rows.keys()
    distances = [float(re.split("[ ,]", rows[size][0])[0]) for size in sorted(rows)]
    assert distances == sorted(distances, reverse=True)  # the bias falls with the sample
    tested = int(re.search(r"on (\d+) images", facts["test accuracy"])[1])  # type: ignore[index]
    for size, row in rows.items():
        assert ("estimate" in row[0]) == (size > tested)
    largest = max(size for size in rows if size <= tested)
    assert rows[largest][-1] == f"{real[2]} (1)"


NEEDS_DATA = [pytest.mark.data]
NEEDS_DATA += [pytest.mark.skipif("MSNGAN_DATA" not in os.environ, reason="needs MSNGAN_DATA")]


@pytest.mark.parametrize("network", embedded.NETWORKS)
@pytest.mark.parametrize(
    "dataset", ["digits", *(pytest.param(name, marks=NEEDS_DATA) for name in ("cifar10", "mnist"))]
)
def test_accuracy_on_real_images_is_what_the_file_says(dataset, network):
    shipped = EmbeddedExtractor.load(embedded.shipped(network)[dataset])
    said = float(shipped.metadata["test_accuracy"])
    test = load(dataset, split="test", size=32, download=False)
    found = shipped.features(test.images[:1000]).logits.argmax(1)
    right = (found == test.labels[:1000]).double().mean()
    spread = (said * (1 - said) / 1000) ** 0.5  # of 1000 images out of 10,000
    # The test split of the digits has fewer than 1000 images.
    assert float(right) == pytest.approx(said, abs=5e-5 if dataset == "digits" else 3 * spread)
