"""Plug-ins: what is registered is used like our own, and only a command line names code."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY, TINY_CLASSIFIER, Patch, Refused, Run, Shown, same_bits, weights
from torch import nn

from msngan import GAN, NORMS, register
from msngan.data import datasets
from msngan.losses import LOSSES, PENALTIES
from msngan.networks import CLASSIFIERS, CRITICS, GENERATORS
from msngan.runs import configs, options, plugins
from msngan.runs.folder import UserError
from msngan.scores.scorer import EXTRACTORS
from msngan.training.tasks import OF_PLUGINS

PAGE = Path(__file__).parent.parent / "msngan" / "PLUGINS.md"
PAIRS = re.findall(r"^`(msngan [^`]*)`\n\n```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.M)
SHOWN = {re.search(r"--plugin (\S+)", line)[1]: (line, code) for line, code in PAIRS}  # type: ignore[index]
TABLES: list[dict[str, Any]] = [NORMS, LOSSES, PENALTIES, GENERATORS, CRITICS, CLASSIFIERS]
TABLES += [datasets.DATASETS, EXTRACTORS, OF_PLUGINS]
KINDS = ("norm", "loss", "penalty", "generator", "critic", "classifier", "dataset", "extractor")
SMALL = {"digits_msn": [*TINY[2:], *QUIET], "digits_cnn3_msn": TINY_CLASSIFIER[2:]}


@pytest.fixture(autouse=True)
def registers() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = [dict(table) for table in TABLES]
    yield
    for table, kept in zip(TABLES, before, strict=True):
        table.clear()
        table.update(kept)
    options.ADDED.clear()
    plugins.LOADED.clear()
    options.add("CRITICS", "none_such", [])  # clears what was cached
    options.ADDED.clear()
    for name in [name for name in sys.modules if name.startswith("msngan_plugin_")]:
        del sys.modules[name]


@pytest.fixture
def plugin(tmp_path: Path, run: Run) -> Callable[[str], str]:
    """`plugin("tiny.py")`: one of the page's plug-ins as a file; returns its name."""

    def write(name: str) -> str:
        (tmp_path / name).write_text(SHOWN[name][1])
        return name

    return write


def start_again() -> None:
    """As a new command would: no plug-in is loaded."""
    for table in TABLES:
        for names in options.ADDED.values():
            for name in names:
                table.pop(name, None)
    options.ADDED.clear()
    options.add("CRITICS", "none_such", [])
    options.ADDED.clear()
    plugins.LOADED.clear()


@pytest.mark.parametrize("name", SHOWN)
def test_every_plug_in_of_the_page_runs_by_the_command_above_it(
    name: str, plugin: Callable[[str], str], run: Run, mine: Path, capfd: Shown
) -> None:
    plugin(name)
    _, command, *words = shlex.split(SHOWN[name][0])
    if command == "evaluate":
        words[0] = mine.name
        assert run(command, *words, "--images", "20") == 0
        assert "fd/pixels-1" in capfd.readouterr().out
        return
    small = SMALL[words[words.index("--config") + 1]]
    if "--data.size" in words:
        small = [each for each in small if each not in ("--data.size", "8", "--data.limit", "64")]
        small += ["--model.width", "2", "--data.batch_size", "8"]
    assert run(command, *words[:4], *small, *words[4:], "--run", "new") == 0
    saved = json.loads(Path("checkpoints/new/environment.json").read_text())["plugins"]
    assert [each["name"] for each in saved] == [name]
    if name == "norms.py":
        assert capfd.readouterr().out.count("norm of the critic's weights") == 3


def test_the_page_has_a_plug_in_of_every_kind() -> None:
    shown = PAGE.read_text()
    for kind in (*KINDS, "callback"):
        assert f"@register.{kind}(" in shown
        assert callable(getattr(register, kind))


def test_a_registered_network_has_its_options_in_the_config_the_help_and_the_weights(
    plugin: Callable[[str], str], run: Run, capfd: Shown
) -> None:
    words = ["fit", "--plugin", plugin("tiny.py"), *TINY, *QUIET, "--model.critic", "tiny"]
    assert run(*words, "--tiny.depth", "3", "--run", "deep") == 0
    state = weights(Path("checkpoints/deep"))
    assert "critic.body.6.weight" in state
    assert "critic.body.8.weight" not in state
    assert any("weight_norm" in name for name in state)  # --model.norm is put on it
    assert "tiny:\n  depth: 3" in Path("checkpoints/deep/config.yaml").read_text()
    capfd.readouterr()
    assert run("fit", "--plugin", "tiny.py", "--help") == 0
    text = " ".join(capfd.readouterr().out.split())
    assert "--tiny.depth N number of convolutions of stride 2 after the first (default: 2)" in text


def test_a_run_is_named_by_a_plug_in_s_options_and_says_what_comes_next_with_the_plug_in(
    plugin: Callable[[str], str], run: Run, capfd: Shown
) -> None:
    words = ["fit", "--plugin", plugin("tiny.py"), *TINY, *QUIET, "--model.critic", "tiny"]
    assert run(*words, "--run", "x") == 0
    shown = capfd.readouterr().err
    assert "\n  msngan sample x --plugin tiny.py\n" in shown
    assert "\n  msngan resume x --plugin tiny.py --steps N " in shown
    options = ["--model.critic=tiny", "--tiny.depth=3", "--data.cache=x"]
    config = configs.parse([*options, "--data.on_bad_image=skip", "--data.root=y"])
    assert config.name == "cifar10-critic=tiny-depth=3"


def test_a_run_with_a_plug_in_is_resumed_with_it_to_the_same_bits_and_not_without(
    plugin: Callable[[str], str], run: Run, capfd: Shown, refused: Refused
) -> None:
    words = ["fit", "--plugin", plugin("tiny.py"), *TINY, *QUIET, "--model.critic", "tiny"]
    assert run(*words, "--run", "whole") == 0
    assert run(*words, "--run", "parted", "--steps", "3") == 0
    start_again()
    line = refused("resume", "parted", "--steps", "6")
    assert "run parted was made with a plug-in; give --plugin tiny.py" in line
    line = refused("sample", "parted")
    assert "last.ckpt: critic in its options is 'tiny'; if a plug-in brings it, give --plug" in line
    assert "give --plugin" in refused("sample", "parted")
    Path("tiny.py").write_text(SHOWN["tiny.py"][1] + "\n# a comment\n")
    assert run("resume", "parted", "--plugin", "tiny.py", "--steps", "6") == 0
    assert "plug-in tiny.py has changed" in capfd.readouterr().err
    assert same_bits(weights(Path("checkpoints/whole")), weights(Path("checkpoints/parted")))
    assert run("sample", "parted", "--plugin", "tiny.py") == 0
    assert run("export", "parted", "--plugin", "tiny.py") == 0


def test_r3gan_as_a_plug_in_trains_the_weights_of_the_built_in_parts(
    plugin: Callable[[str], str], run: Run
) -> None:
    plugin("r3gan.py")
    assert len(SHOWN["r3gan.py"][1].splitlines()) < 40
    common = ["fit", *TINY, *QUIET, "--model.norm", "none", "--trainer.precision", "64-true"]
    own = ["--plugin", "r3gan.py", "--model.loss", "r3gan", "--model.penalty", "r1_and_r2"]
    ours = ["--model.loss", "relativistic_paired", "--model.penalty", "[r1, r2]"]
    assert run(*common, *own, "--run", "own") == 0
    assert run(*common, *ours, "--model.penalty_weight", "[1, 1]", "--run", "ours") == 0
    a, b = (weights(Path("checkpoints") / name) for name in ("own", "ours"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-9)


def test_a_study_trains_its_runs_with_the_plug_in(
    plugin: Callable[[str], str], run: Run, tmp_path: Path
) -> None:
    plugin("tiny.py")
    small = dict(zip(TINY[2::2], TINY[3::2], strict=True)) | dict(
        zip(QUIET[::2], QUIET[1::2], strict=True)
    )
    fixed = "\n".join(f"  {name[2:]}: {value}" for name, value in small.items())
    Path("both.yaml").write_text(
        f"config: digits_msn\ngrid: {{seed: [0]}}\noptions:\n{fixed}\n"
        "arms:\n  ours: {}\n  own: {model.critic: tiny}\n"
    )
    assert run("study", "both.yaml", "--plugin", "tiny.py") == 0
    assert Path("checkpoints/both/results.json").is_file()


@pytest.mark.parametrize("key", ["plugin: evil.py", "plugins: [evil.py]", "class_path: evil.Code"])
def test_a_config_cannot_name_code(key: str, run: Run, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("open('ran', 'w')")
    (tmp_path / "bad.yaml").write_text(f"{key}\nsteps: 3\n")
    line = refused("fit", "--config", "bad.yaml")
    assert "plug-in" in line or "unknown option" in line
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("1 +", "line 1: SyntaxError: invalid syntax"),
        ("import os\nos.nothing", "line 2: AttributeError: module 'os' has no attribute 'nothing'"),
        ("import sys\nsys.exit(0)", "line 2: SystemExit: 0"),
        ("class Odd(BaseException): ...\nraise Odd", "line 2: Odd"),
        ("1 +\0", "SyntaxError: source code string cannot contain null bytes"),
        (
            "from . import broken",
            "line 1: ImportError: .* import a file beside it by its name alone",
        ),
        ("import os\nimport broken", r"line 2: SyntaxError: .* \(broken.py, line 1\)"),
        ("from msngan import register\nregister.loss('hinge', 1)", "loss 'hinge' is of type int"),
        ("from msngan import register\nregister.loss('Mine')(1)", "is of type int"),
    ],
)
def test_a_plug_in_that_fails_is_one_line(
    code: str, words: str, refused: Refused, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "bad.py").write_text(code)
    (tmp_path / "broken.py").write_text("1 +")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    line = refused("fit", "--plugin", "bad.py", "--config", "digits_msn")
    assert "--plugin bad.py: " in line
    assert "line None" not in line
    assert re.search(words, line), line


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--plugin"], "--plugin needs a value"),
        (["--plugin", "nothing.py"], "nothing.py: no such file"),
        (["--plugin", "folder.py"], "folder.py: not a regular file"),
        (["--plugin=nothing"], "no such plug-in; give the path of a Python file"),
    ],
)
def test_a_plug_in_that_is_not_there_is_one_line(
    words: list[str], answer: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "folder.py").mkdir()
    assert answer in refused("fit", *words, "--config", "digits_msn")


# Uses what lies beside it when it is loaded, and again when it makes the network.
BESIDE = """
import pickle
from dataclasses import dataclass
from torch import nn
from msngan import register

@dataclass
class Own:
    units: int = 3

@register.critic(__file__.split("/")[-2])
def critic(channels: int, size: int) -> nn.Module:
    import beside_{0}
    pickle.dumps(Own())
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, beside_{0}.UNITS))

print("loaded")
"""


@pytest.mark.parametrize("name", ["\x1b[31mmine.py", "x" * 5000, "a\nb.py"])
def test_a_recorded_name_cannot_write_to_the_terminal(name: str) -> None:
    with pytest.raises(UserError, match="was made with a plug-in") as refused:
        plugins.check_recorded({"plugins": [{"name": name}]}, "run mine")
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 200


def test_two_files_of_one_name_are_two_plug_ins_with_what_lies_beside_each(
    run: Run, tmp_path: Path, capfd: Shown, monkeypatch: Patch, refused: Refused
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "net.py").write_text(BESIDE.format(name))
        (tmp_path / name / f"beside_{name}.py").write_text("UNITS = 1")
        words += ["--plugin", f"{name}/net.py"]
    assert run("configs", *words) == 0
    shown = capfd.readouterr()
    assert "loaded" in shown.err
    assert "loaded" not in shown.out  # which a program may read
    for name in ("one", "two"):
        gan = GAN(critic=name, size=8, channels=1, norm="spectral", width=2)
        assert gan.critic[1].out_features == 1
    (tmp_path / "three").mkdir()
    (tmp_path / "three" / "net.py").write_text("import beside_one")
    (tmp_path / "three" / "beside_one.py").write_text("UNITS = 2")
    line = refused("configs", "--plugin", "three/net.py")
    assert "one/beside_one.py has been imported by another plug-in" in line


@pytest.mark.parametrize(
    ("kind", "task", "other"),
    [("classifier", "classifier", "gan"), ("critic", "gan", "classifier")],
)
def test_options_of_a_network_belong_to_the_task_that_trains_it(
    kind: str, task: str, other: str
) -> None:
    getattr(register, kind)("deep", lambda depth_of=2: nn.Identity())
    assert "deep.depth_of" in options.options_of(task)
    assert "deep.depth_of" not in options.options_of(other)


def test_an_installed_package_brings_a_plug_in_by_its_entry_point(
    run: Run, tmp_path: Path, monkeypatch: Patch, refused: Refused
) -> None:
    site = tmp_path / "site"
    (site / "own-1.0.dist-info").mkdir(parents=True)
    (site / "own_tiny.py").write_text(SHOWN["tiny.py"][1])
    (site / "own-1.0.dist-info" / "METADATA").write_text("Name: own\nVersion: 1.0\n")
    entry = "[msngan.plugins]\ntiny_critic = own_tiny\n"
    (site / "own-1.0.dist-info" / "entry_points.txt").write_text(entry)
    monkeypatch.syspath_prepend(str(site))
    words = ["fit", *TINY, *QUIET, "--model.critic", "tiny", "--run", "own"]
    assert "unknown value 'tiny'" in refused(*words)
    assert "did you mean 'tiny_critic'" in refused(*words, "--plugin", "tiny_critc")
    assert run(*words, "--plugin", "tiny_critic") == 0


class Sized(nn.Module):
    """Has parameters of types that no option can have, or without a default."""

    def __init__(self, width: int, shape: object = None) -> None: ...


class Needy(nn.Module):
    def __init__(self, width: int, depth: int) -> None: ...


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["", "Mine", "1st", "a b", "x" * 41, 3, "model", "seed", "module"])
def test_a_name_that_cannot_be_is_refused(kind: str, name: Any) -> None:
    entry = {"norm": NORMS["batch"], "loss": LOSSES["hinge"], "penalty": PENALTIES["r1"]}
    with pytest.raises(UserError, match=r"lower-case|taken"):
        getattr(register, kind)(name, entry.get(kind, nn.Identity))


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_that_is_taken_is_refused(kind: str) -> None:
    entry = {"norm": NORMS["batch"], "loss": LOSSES["hinge"], "penalty": PENALTIES["r1"]}
    made = entry.get(kind, nn.Identity)
    assert getattr(register, kind)("mine", made) is made
    for other in KINDS:
        with pytest.raises(UserError, match="taken"):
            getattr(register, other)("mine", entry.get(other, nn.Identity))


@pytest.mark.parametrize("kind", ["critic", "generator", "classifier"])
def test_a_parameter_that_no_option_can_be_is_refused(kind: str) -> None:
    with pytest.raises(UserError, match=r"parameter shape is of type"):
        getattr(register, kind)("sized", Sized)
    with pytest.raises(UserError, match=r"parameter depth is none of .* has no default"):
        register.critic("needy", Needy)


def test_a_registered_critic_is_used_from_python_too() -> None:
    @register.critic("mine")
    class Mine(nn.Module):
        def __init__(self, channels: int, size: int, units: int = 3) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(channels * size**2, units))
            self.head = nn.Linear(units, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(images))

    gan = GAN(critic="mine", critic_options={"units": 5}, size=8, width=2, norm="spectral")
    assert gan.critic.head.in_features == 5
    assert GAN(critic="mine", size=8, width=2).critic.head.in_features == 3
    with pytest.raises(UserError, match="has no option 'unit'"):
        GAN(critic="mine", critic_options={"unit": 5}, size=8, width=2)


def test_weights_of_penalties_fit_their_names() -> None:
    small = dict(size=8, width=2, norm="none")
    gan = GAN(penalty=["r1", "clip"], penalty_weight=[2.0, 0.5], **small)
    assert [(name, weight) for name, _, weight in gan.penalties] == [("r1", 2.0), ("clip", 0.5)]
    assert [each[2] for each in GAN(penalty=["r1", "clip"], **small).penalties] == [10.0, 0.01]
    for wrong, words in (
        (
            dict(penalty=["r1", "r2"], penalty_weight=[1.0]),
            r"\[1.0\] does not fit .* r1,r2",
        ),
        (dict(penalty=["r1", "r2", "r1"]), "--model.penalty r1,r2,r1: r1 stands there more than"),
    ):
        with pytest.raises(UserError, match=words):
            GAN(**small, **wrong)


BROKEN = """
import torch
from torch import nn
from msngan import register

@register.critic("wrong")
class Wrong(nn.Module):
    def __init__(self, size: int, kind: str = "shape") -> None:
        super().__init__()
        self.kind, self.head = kind, nn.Linear(size if kind == "size" else 3 * size**2, 2)
        if kind == "constructor":
            raise RuntimeError("no such thing")

    def forward(self, images):
        return self.head(images.flatten(1)[:, :3] if self.kind == "size" else images.flatten(1))

@register.generator("large")
def large(latent_dim: int, channels: int, size: int) -> nn.Module:
    return nn.Sequential(nn.Linear(latent_dim, 4 * channels * size**2),
                         nn.Unflatten(1, (channels, 2 * size, 2 * size)))
"""


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (
            ["--model.critic", "wrong"],
            "--model.critic wrong: the critic returns logits of shape (2, 2)",
        ),
        (
            ["--model.critic", "wrong", "--wrong.kind", "size"],
            "broken.py, line 15: RuntimeError: mat1",
        ),
        (
            ["--model.critic", "wrong", "--wrong.kind", "constructor"],
            "line 12: RuntimeError: no such",
        ),
        (
            ["--model.generator", "large"],
            "the generator makes images of 3x16x16, the batch has 3x8x8",
        ),
    ],
)
def test_a_network_that_cannot_train_is_refused_before_anything_is_written(
    words: list[str], answer: str, refused: Refused, tmp_path: Path
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    small = [*TINY, *QUIET, "--data.channels", "3", "--plugin", "broken.py"]
    assert answer in refused("fit", *small, *words)


@pytest.mark.parametrize(
    "given",
    [
        {"critic_betas": "0,0.9"},
        {"penalty": "r1,r2"},
        {"penalty": ("r1", "r2")},
        {"penalty": ["r1", "r2"], "penalty_weight": (1.0, 2.0)},
        {"penalty": ["r1", "r2"], "penalty_weight": "1,2"},
        {"penalty": ["r1", "r2"], "penalty_every": (1, 2)},
        {"norm_layers": (0, "head")},
        {"norm_layers": "0,head"},
    ],
    ids=str,
)
def test_what_a_file_could_not_store_is_refused_before_training(given: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--model.{[*given][-1]}"):
        GAN(size=8, width=2, norm="spectral", **given)
