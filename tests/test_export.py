"""Exported generators: each format gives the images of the generator and says what it is."""

from __future__ import annotations

import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import QUIET, TINY
from test_readme import blocks
from torch import Tensor, nn

from msngan import export, load_generator, networks
from msngan.__main__ import main
from msngan.commands.export import ENDINGS
from msngan.networks import read_generator
from msngan.networks.generator_files import write_generator
from msngan.runs.folder import Failure, UserError

Run = Callable[..., int]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def files(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint and its generator in each format, by the command line."""
    folder = tmp_path_factory.mktemp("exported")
    (folder / "last.ckpt").write_bytes((trained / "checkpoints/mine/last.ckpt").read_bytes())
    for name, ending in ENDINGS.items():
        out = str(folder / f"x{ending}")
        assert main(["export", str(folder / "last.ckpt"), "--format", name, "--out", out]) == 0
    return folder


@pytest.fixture
def here(files: Path, run: Run, tmp_path: Path) -> Path:
    for path in files.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def about(path: Path) -> dict[str, str]:
    """The metadata of an exported file, as other programs read them."""
    if path.suffix == ".onnx":
        return dict(onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map)
    if path.suffix == ".pt":
        found = {"msngan.json": ""}
        torch.jit.load(path, _extra_files=found)
        return json.loads(found["msngan.json"])
    data = path.read_bytes()
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


@pytest.mark.parametrize("ending", ENDINGS.values())
def test_a_file_draws_the_images_of_its_checkpoint_and_says_what_it_is(here, run, ending) -> None:
    drawn = []
    for target in ("last.ckpt", f"x{ending}"):
        assert run("sample", target, "--n", "70", "--format", "npz", "--out", "x.npz") == 0
        drawn.append(np.load("x.npz")["arr_0"].astype(int))
    assert abs(drawn[0] - drawn[1]).max() <= (0 if ending == ".safetensors" else 1)
    assert drawn[0].std() > 5
    assert run("sample", f"x{ending}", "--interpolate", "2", "--out", "x.png") == 0
    facts = about(Path(f"x{ending}"))
    assert (facts["run"], facts["step"], facts["weights"]) == ("mine", "6", "ema")
    assert json.loads(facts["options"])["norm"] == "mean_spectral"
    assert json.loads(facts["data"])["dataset"] == "digits"
    assert run("sample", f"x{ending}", "--raw", "--out", "x.png") == 2


@pytest.mark.parametrize("ending", [".onnx", ".pt"])
def test_a_program_computes_the_generator_for_any_batch_without_msngan(here, ending) -> None:
    generator = load_generator("last.ckpt")
    z = torch.randn(7, generator.latent_dim)
    for batch in (z, z[:1]):
        if ending == ".onnx":
            session = onnxruntime.InferenceSession("x.onnx")
            (images,) = map(torch.from_numpy, session.run(["images"], {"z": batch.numpy()}))
        else:
            images = torch.jit.load("x.pt")(batch)
        torch.testing.assert_close(images, generator(batch), rtol=0, atol=1e-5)
    path = Path(f"x{ending}")
    held = path.read_bytes()
    if ending == ".pt":
        with zipfile.ZipFile(path) as archive:
            held = b"".join(map(archive.read, archive.namelist()))
    assert str(Path(torch.__file__).parent).encode() not in held  # where it was exported


def test_evaluate_scores_every_format_alike(here, run, capsys) -> None:
    targets = ["last.ckpt", *(f"x{ending}" for ending in ENDINGS.values())]
    sizes = ["--images", "20", "--runs", "1", "--metrics", "fid"]
    capsys.readouterr()
    assert run("evaluate", *targets, *sizes, "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)
    (first, *others) = [next(iter(row["scores"].values()))["mean"] for row in rows]
    assert others == pytest.approx([first] * 3, rel=1e-3)
    assert {row["step"] for row in rows} == {6}


def changed_onnx(path: Path, change: Callable[[Any], object]) -> bytes:
    model = onnx.load(path)
    change(model)
    return model.SerializeToString()


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None]) -> bytes:
    """The archive with each member as `change` gives it; None leaves it out."""
    made = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            if (data := change(name, old.read(name))) is not None:
                new.writestr(name, data)
    return made.getvalue()


class Writing(nn.Module):
    """A TorchScript program that writes a file."""

    def forward(self, z: Tensor) -> Tensor:
        torch.save(z, "canary")
        return z


def of_onnx(path: Path) -> dict[str, tuple[bytes, str]]:
    def elsewhere(weight: Any) -> Any:
        weight.ClearField("raw_data")
        weight.data_location = onnx.TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="/etc/passwd")
        return weight

    def in_a_branch(model: Any) -> None:
        weight = onnx.numpy_helper.from_array(np.zeros(2), "w")
        inner = onnx.helper.make_graph([], "inner", [], [], [elsewhere(weight)])
        model.graph.node[0].attribute.append(onnx.helper.make_attribute("then_branch", inner))

    def of_more(model: Any) -> None:
        (entry,) = (each for each in model.metadata_props if each.key == "options")
        entry.value = json.dumps(json.loads(entry.value) | {"latent_dim": 9})

    files = "it names other files, which are not read"
    return {
        "external": (changed_onnx(path, lambda m: elsewhere(m.graph.initializer[0])), files),
        "external in a branch": (changed_onnx(path, in_a_branch), files),
        "foreign": (changed_onnx(path, lambda m: m.ClearField("metadata_props")), "does not say"),
        "latent": (changed_onnx(path, of_more), "cannot be computed"),
        "no node": (changed_onnx(path, lambda m: m.graph.ClearField("node")), "onnxruntime refu"),
        "cut": (path.read_bytes()[:5000], "it is cut, or not an ONNX file"),
    }


def of_torchscript(path: Path) -> dict[str, tuple[bytes, str]]:
    evil = io.BytesIO()
    torch.jit.save(torch.jit.script(Writing()), evil)

    def without(part: str) -> Callable[[str, bytes], bytes | None]:
        return lambda name, data: None if part in name else data

    def with_json(text: bytes) -> bytes:
        return rewritten(path, lambda name, data: text if "msngan.json" in name else data)

    return {
        "program": (evil.getvalue(), "it holds no msngan.json"),
        "checkpoint": (hostile.sound(), "it holds no msngan.json"),
        "list": (with_json(b"[]"), "its metadata are not strings"),
        "numbers": (with_json(b'{"step": 1}'), "its metadata are not strings"),
        "text": (with_json(b"no"), "not valid JSON"),
        "format": (with_json(b"{}"), "it does not say format, version"),
        "code": (rewritten(path, without(".py")), "it is cut, or not a TorchScript file"),
        "cut": (path.read_bytes()[:5000], "it is cut, or not a TorchScript file"),
    }


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [of_onnx, of_torchscript])
def test_a_file_that_is_not_ours_is_refused_in_one_line_before_it_runs(
    here, refused: Refused, kind: Callable[[Path], dict[str, tuple[bytes, str]]]
) -> None:
    ending = {of_onnx: ".onnx", of_torchscript: ".pt"}[kind]
    for name, (data, reason) in kind(here / f"x{ending}").items():
        path = Path(f"{name}{ending}")
        path.write_bytes(data)
        line = refused("sample", str(path), "--out", "x.png")
        assert f"{path} is damaged, or was not written by `msngan export`: " in line
        assert reason in line
    assert not Path("canary").exists()


def test_a_program_of_a_plug_in_s_generator_needs_no_plug_in(here, run) -> None:
    facts = about(Path("x.pt"))
    facts["options"] = facts["options"].replace('"generator": "dcgan"', '"generator": "mine"')
    assert '"mine"' in facts["options"]
    text = json.dumps(facts).encode()
    data = rewritten(Path("x.pt"), lambda name, data: text if "msngan.json" in name else data)
    Path("mine.pt").write_bytes(data)
    assert run("sample", "mine.pt", "--out", "x.png") == 0


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("--out x.ckpt", "must end in .safetensors, .onnx, .pt"),
        ("--out y.pt --format onnx", "--out y.pt must end in .onnx"),
        ("--out x.pt", "x.pt exists; choose another --out"),
        ("--format onx", "did you mean 'onnx'"),
        ("--out y.pt --half", "half is for .safetensors files"),
    ],
)
def test_what_export_cannot_write_is_one_line(here, refused, words: str, answer: str) -> None:
    assert answer in refused("export", "last.ckpt", *words.split())


def test_a_program_is_not_exported_again_and_safetensors_are(here, run, refused, capfd) -> None:
    assert "cannot be exported again" in refused("export", "x.onnx", "--out", "y.pt")
    assert run("export", "x.safetensors", "--out", "y.pt") == 0
    assert "checked: its images are within 0 of the generator's" in capfd.readouterr().out
    z = torch.randn(2, 4)
    assert torch.equal(load_generator("y.pt")(z), load_generator("x.safetensors")(z))


def test_half_halves_the_file_says_how_far_images_move_and_loads_as_float32(here, run, capfd):
    assert run("export", "last.ckpt", "--out", "half.safetensors", "--half") == 0
    (said,) = re.findall(r"images are within (\S+) of", capfd.readouterr().out)
    whole, half = (load_generator(f"{name}.safetensors") for name in ("x", "half"))
    less = Path("x.safetensors").stat().st_size - Path("half.safetensors").stat().st_size
    weights = sum(each.numel() for each in whole.parameters() if each.ndim > 1)
    assert less == pytest.approx(2 * weights, abs=100)  # the header has other numbers
    assert {each.dtype for each in half.parameters()} == {torch.float32}
    pairs = zip(whole.state_dict().items(), half.state_dict().values(), strict=True)
    for (name, value), rounded in pairs:
        close = 2**-11 if value.ndim > 1 else 0  # of 11 significant bits
        torch.testing.assert_close(rounded, value, rtol=close, atol=close * 2**-14, msg=name)
    z = torch.randn(50, whole.latent_dim)
    assert 0 < (whole(z) - half(z)).abs().max() < 10 * float(said) < 0.1
    export("half.safetensors", "again.safetensors", half=True)
    assert Path("again.safetensors").read_bytes() == Path("half.safetensors").read_bytes()


def test_a_weight_that_float16_cannot_hold_is_one_line_and_leaves_no_file(here) -> None:
    generator, saved = read_generator(Path("last.ckpt"))
    with torch.no_grad():
        next(each for each in generator.parameters() if each.ndim > 1)[:] = 1e5
    with pytest.raises(UserError, match="has values that float16 cannot hold"):
        write_generator(generator, saved, Path("y.safetensors"), half=True)
    assert not Path("y.safetensors").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(
    here, refused, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    line = refused("export", "last.ckpt", "--format", "onnx")
    assert f"needs {missing}, which is not installed here" in line
    assert "run `pip install onnx onnxruntime onnxscript`" in line
    if missing != "onnxscript":
        assert f"an ONNX file needs {missing}" in refused("sample", "x.onnx")


class Restless(nn.Module):
    """A generator that no file holds: it draws random numbers of its own."""

    latent_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 64)

    def forward(self, z: Tensor) -> Tensor:
        return (self.layer(z) + torch.randn(len(z), 64)).tanh().unflatten(1, (1, 8, 8))


class Branching(Restless):
    """A generator that asks for values while it is traced."""

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z if float(z.sum()) == 0 else -z).tanh().unflatten(1, (1, 8, 8))


@pytest.mark.parametrize(
    ("generator", "ending", "error", "answer"),
    [
        (Restless(), ".pt", Failure, "the TorchScript file is not kept: "),
        (Branching(), ".pt", Failure, "its images differ from the generator's by up to"),
        (Branching(), ".onnx", UserError, "cannot be written as ONNX"),
    ],
)
def test_a_generator_that_a_format_does_not_hold_leaves_no_file(
    here, generator: nn.Module, ending: str, error: type[Exception], answer: str
) -> None:
    _, saved = read_generator(Path("last.ckpt"))
    before = {*Path().iterdir()}
    with pytest.raises(error, match=answer):
        write_generator(generator, saved, Path(f"y{ending}"))
    assert {*Path().iterdir()} == before


class Counting(Restless):
    """A generator that asks how many images it makes, as a trace does not record."""

    def forward(self, z: Tensor) -> Tensor:
        return self.layer(z).tanh().reshape(len(z), 1, 8, 8)


def test_a_generator_that_asks_for_the_number_of_images_makes_any_number(here) -> None:
    generator = Counting()
    write_generator(generator, read_generator(Path("last.ckpt"))[1], Path("y.pt"))
    z = torch.randn(5, 4)
    torch.testing.assert_close(load_generator("y.pt")(z), generator(z), rtol=0, atol=1e-5)


def test_export_from_python_takes_the_module_of_a_gan_that_was_given_one(here) -> None:
    from pytorch_lightning.callbacks import ModelCheckpoint
    from test_python import IMAGES, Upsampler, own_critic, trainer
    from torch.utils.data import DataLoader

    from msngan import GAN

    gan = GAN(generator=Upsampler(), critic=own_critic(), generator_norm="mean_spectral")
    saving = ModelCheckpoint("own", every_n_train_steps=2, filename="at")
    trainer(2, saving).fit(gan, DataLoader(IMAGES, 8))
    with pytest.raises(UserError, match="give it again"):
        export("own/at.ckpt", "own.pt")
    export("own/at.ckpt", "own.pt", generator=Upsampler())
    z = torch.randn(3, 6)
    again = load_generator("own.pt")  # the program holds the module
    torch.testing.assert_close(again(z), gan.eval()(z), rtol=0, atol=1e-5)


def test_the_python_of_the_page_runs(here: Path, run: Run) -> None:
    conditional = ["--model.conditional", "true", "--run", "digits_cond-s0-0"]
    assert run("fit", *TINY, *QUIET, "--steps", "1", *conditional) == 0
    Path("checkpoints/digits_msn-s0-0").mkdir(parents=True)
    Path("last.ckpt").rename("checkpoints/digits_msn-s0-0/last.ckpt")
    for ending in (".onnx", ".pt"):
        Path(f"x{ending}").rename(f"digits_msn-s0-0-00002500{ending}")
    given: dict[str, Any] = {}
    for block in blocks(Path(networks.__file__).with_name("README.md"), "python"):
        exec(compile(block, "README.md", "exec"), given)
        assert given["images"].shape == (16, 1, 8, 8)
    assert given["about"]["weights"] == "ema"
