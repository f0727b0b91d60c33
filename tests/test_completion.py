"""Completion in bash and zsh, the config that fit prints, and python -m msngan."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from argcomplete import CompletionFinder
from test_architecture import loaded_after

from msngan.__main__ import commands
from msngan.commands.completion import answer
from msngan.commands.export import ENDINGS
from msngan.runs.configs import is_study, known_configs, parse, top_level
from msngan.runs.options import options_of

Complete = Callable[[str], list[str]]


@pytest.fixture
def complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Complete:
    """`complete("msngan sa")`: what the shell gets, in a folder with two runs and a plug-in."""
    monkeypatch.chdir(tmp_path)
    for root, name in {"": "digits_msn-norm=none-s0-0", "other": "far"}.items():
        folder = tmp_path / root / "checkpoints" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    for name in ("x.onnx", "x.txt", "mine.yaml"):
        Path(name).touch()
    Path("mine.py").write_text("raise SystemExit('it was run')")
    monkeypatch.setattr("argcomplete.io.debug_stream", sys.stderr)  # else it takes descriptor 9
    monkeypatch.setattr(CompletionFinder, "_init_debug_stream", lambda finder: None)

    def call(line: str) -> list[str]:
        for name, value in {
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "answer"),
        }.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ending:
            answer(commands())
        assert ending.value.code == 0
        found = [word.strip() for word in (tmp_path / "answer").read_text().split("\n")]
        (tmp_path / "answer").unlink()
        return [word for word in found if word]

    return call


def test_commands_and_their_options_and_values(complete: Complete) -> None:
    assert complete("msngan ") == [*commands()]
    assert complete("msngan sam") == ["sample"]
    assert complete("msngan --ve") == ["--version"]
    assert complete("msngan sample --interp") == ["--interpolate"]
    assert complete("msngan export x --format ") == [*ENDINGS]
    assert complete("msngan extractor ") == ["fit", "list", "compare"]
    assert complete("msngan extractor fit --no-d") == ["--no-download"]
    assert complete("msngan completion ") == ["bash", "zsh"]


def test_every_option_of_fit_and_the_values_of_those_that_are_names(complete: Complete) -> None:
    for task, words in {"gan": "", "classifier": "--config digits_cnn3_msn "}.items():
        known = {f"--{name}" for name in options_of(task)}
        assert {*complete(f"msngan fit {words}--")} >= known | {"--config", "--plugin"}
    assert complete("msngan fit --config digits_cnn3_msn --model.network vg") == ["vgg7"]
    assert complete("msngan fit --model.norm mean_s") == ["mean_spectral"]
    assert complete("msngan fit --model.penalty r") == ["r1", "r2"]
    assert complete("msngan fit --model.penalty [r1,r2] --model.conv_bias ") == ["true", "false"]
    assert complete("msngan resume x --model.critic_l") == ["--model.critic_lr"]
    next(Path("checkpoints").iterdir()).joinpath("config.yaml").write_text("task: classifier")
    resume = "msngan resume digits_msn-norm=none-s0-0"
    assert complete(f"{resume} --accuracy.e") == ["--accuracy.every"]
    assert complete(f"{resume} --model.network vg") == ["vgg7"]


def test_names_of_runs_configs_and_studies_and_files_of_the_right_kind(complete: Complete) -> None:
    run = "digits_msn-norm=none-s0-0"
    for command in ("resume", "sample", "export", "evaluate", "report", "leaderboard"):
        assert run in complete(f"msngan {command} dig")
    assert {*complete("msngan sample ")} >= {run, "x.onnx"}
    assert "x.txt" not in complete("msngan sample ")
    assert complete("msngan leaderboard --compare a di") == [run]
    assert complete("msngan sample --root other fa") == ["far"]
    configs = {name: is_study(top_level(path)) for name, path in known_configs().items()}
    assert {*complete("msngan fit --config digits")} == {
        name for name, study in configs.items() if name.startswith("digits") and not study
    }
    assert complete("msngan fit --config min") == ["mine.yaml"]
    assert complete("msngan study study_di") == ["study_digits"]
    assert complete("msngan evaluate x --dataset svh") == ["svhn"]
    assert complete("msngan evaluate x --protocol p") == ["paper"]


def test_a_plug_in_is_completed_and_not_run(complete: Complete) -> None:
    assert complete("msngan fit --plugin mine.p") == ["mine.py"]
    assert complete("msngan fit --plugin mine.py --model.norm_l") == ["--model.norm_layers"]
    assert complete("msngan sample --plugin mine.py --interp") == ["--interpolate"]


BASH = """
source <(msngan completion bash)
COMP_LINE="msngan sample digits_msn-norm="; COMP_POINT=${#COMP_LINE}; COMP_TYPE=9
_python_argcomplete msngan 2>/dev/null
echo "${COMPREPLY[@]}"
"""
ZSH = """
compdef() { : }
_describe() { print -r -- ${(P)2} }
source <(msngan completion zsh)
words=(msngan sample digits_msn-norm=); BUFFER="msngan sample digits_msn-norm="; CURSOR=$#BUFFER
_python_argcomplete
"""


@pytest.mark.parametrize(
    ("shell", "script", "expected"),
    [("bash", BASH, "none-s0-0"), ("zsh", ZSH, "digits_msn-norm=none-s0-0")],
)
def test_the_script_completes_in_its_shell(
    complete: Complete, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell, script, expected
) -> None:
    if (path := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not here")
    program = tmp_path / "bin" / "msngan"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m msngan "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    ended = subprocess.run([path, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip(" :\n") == expected, ended.stderr


def test_a_missing_library_and_another_shell_are_one_line(refused, monkeypatch) -> None:
    assert "did you mean 'bash'" in refused("completion", "bsh")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    assert "run `pip install argcomplete`" in refused("completion", "bash")


def test_completing_imports_no_torch(complete: Complete, monkeypatch) -> None:
    complete("msngan fit --model.no")  # sets the variables
    monkeypatch.setenv("COMP_LINE", "msngan fit --model.no")
    code = "import sys, msngan.__main__ as m\ntry: m.main()\nexcept SystemExit: print(*sys.modules)"
    words = [sys.executable, "-c", code]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "argcomplete" in ended.stdout.split()
    assert not {*ended.stdout.split()} & {"torch", "numpy", "rich"}


def test_fit_prints_the_config_that_gives_the_same_run(run, tmp_path, capsys) -> None:
    words = ["--config", "digits_msn", "--model.width", "3", "--model.penalty", "[r1, r2]"]
    assert run("fit", *words, "--print_config") == run("fit", *words, "--print-config") == 0
    assert not [*tmp_path.iterdir()]
    printed = capsys.readouterr().out
    Path("mine.yaml").write_text(printed[: len(printed) // 2])
    assert printed == 2 * Path("mine.yaml").read_text()
    assert parse(["--config", "mine.yaml"]).options == parse(words).options
    assert "torch" not in loaded_after("fit", *words, "--print_config")


def test_python_m_msngan_is_the_command() -> None:
    words = [sys.executable, "-m", "msngan"]
    shown = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.split()[0] == "msngan"
    ended = subprocess.run([*words, "fti"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "did you mean 'fit'" in ended.stderr
