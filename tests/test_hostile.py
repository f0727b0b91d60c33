"""Malicious files are refused in one line, in bounded memory and time, and nothing is executed.

The commands run in a process each family, whose peak memory is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hostile
import hostile_data
import pytest

MOST_MEMORY = 1_500_000_000  # bytes of the whole process, torch among them
MOST_SECONDS = 30  # of one command
CHILD = Path(__file__).parent / "hostile_child.py"
FIT = ["fit", "--config", "digits_msn", "--model.width", "1", "--model.latent_dim", "2"]
FIT += ["--data.batch_size", "8", "--data.limit", "64", "--data.size", "8", "--steps", "9"]
FIT += ["--threads", "1", "--scores.enabled", "false", "--samples.every", "0"]
FOLDER = ["fit", "--data.dataset", "folder", "--data.limit", "null", "--steps", "2"]
FOLDER += ["--model.width", "1", "--scores.enabled", "false", "--data.size", "8", "--data.root"]

Told = list[tuple[list[str], dict[str, Any]]]


@dataclass
class Place:
    """A folder of hostile files, and the commands that are to open them."""

    folder: Path
    canary: Path
    server: subprocess.Popen[str]
    said: Path

    def write(self, name: str, data: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)

    def run(self, commands: list[list[str]], seconds: int = MOST_SECONDS) -> Told:
        folder = str(self.folder)
        asked = {"limit": 12 * 2**30, "seconds": seconds, "folder": folder, "commands": commands}
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.write(json.dumps(asked) + "\n")
        self.server.stdin.flush()
        told = []
        while isinstance(line := json.loads(self.server.stdout.readline()), dict):
            told.append(line)
        died = f"died with {line} at {commands[len(told) :][:1]}: {self.said.read_text()[-2000:]}"
        assert (line, len(told)) == (0, len(commands)), died
        return list(zip(commands, told, strict=True))

    def refused(self, commands: list[list[str]], *, lines: bool = True) -> None:
        """Each with one line and nothing written."""
        before = snapshot(self.folder)
        found = self.run(commands)
        problems = []
        for words, told in found:
            text = told["err"].strip()
            one = text.startswith("msngan: error: ") and "\n" not in text and len(text) < 1000
            if told["code"] != 2 or (lines and not one) or told["out"].strip():
                problems.append((words, told["code"], text[-1500:]))
        assert not problems, "\n".join(map(str, problems))
        self.bounded(found)
        assert snapshot(self.folder) == before

    def bounded(self, found: Told) -> None:
        peak, words = max((told["peak"], words) for words, told in found)
        assert peak < MOST_MEMORY, f"{peak:,} bytes at {words}"
        assert not self.canary.exists()
        report = os.environ.get("MSNGAN_HOSTILE_REPORT")
        if report:
            slowest = max(told["seconds"] for _, told in found)
            with open(report, "a") as file:
                file.write(f"{len(found)} commands, peak {peak:,}, slowest {slowest:.1f} s\n")


def snapshot(folder: Path) -> object:
    """Every file by its size and time; the locks of runs, which are empty, are none."""
    return [
        (str(path), path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if not (path.is_dir() or (path.name.startswith(".") and not path.lstat().st_size))
    ]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the process that runs commands writes beside its answers."""
    return tmp_path_factory.mktemp("server") / "said"


@pytest.fixture(scope="module")
def server(said: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(CHILD)]
    pipe = subprocess.PIPE
    with (
        said.open("w") as errors,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=errors, text=True) as process,
    ):
        yield process


@pytest.fixture
def place(tmp_path: Path, server: subprocess.Popen[str], said: Path) -> Place:
    (tmp_path / "here").mkdir()
    return Place(tmp_path / "here", tmp_path / "executed", server, said)


FAMILIES: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "programs": hostile.programs,
    "bombs": lambda _: hostile.bombs(),
    "tensors": lambda _: hostile.tensors(),
    "claims": lambda _: hostile.claims(),
}


def test_the_corpus_is_made_of_a_checkpoint_that_is_read(place: Place) -> None:
    path = place.write("sound.ckpt", hostile.sound())
    for words, told in place.run([["sample", path, "--out", "x.png"], [*FIT, "--ckpt_path", path]]):
        assert told["code"] == 0, (words, told["err"])


def some(commands: list[list[str]], index: int, *, every: bool) -> list[list[str]]:
    """One of the commands that may open a file, in turns; all of them in the long form."""
    return commands if every else [commands[index % len(commands)]]


EVERY = pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.soak)])


@EVERY
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.filterwarnings("ignore")
def test_checkpoints(place: Place, family: str, every: bool) -> None:
    found = FAMILIES[family](place.canary)
    commands = []
    for index, (name, data) in enumerate(found.items()):
        path = place.write(f"{name.replace('/', ' ')}.ckpt", data)
        readers = [["sample", path, "--out", "x.png"], ["evaluate", path]]
        readers += [["export", path, "--out", "x.safetensors"], [*FIT, "--ckpt_path", path]]
        commands += some(readers, index, every=every)
    place.refused(commands)


@EVERY
def test_checkpoints_that_only_training_would_look_at(place: Place, every: bool) -> None:
    commands = []
    for index, (name, data) in enumerate(hostile.for_training().items()):
        path = place.write(f"{name}.ckpt", data)
        run = f"checkpoints/run{index}"
        place.write(f"{run}/last.ckpt", data)
        sound = hostile.FIXTURE.with_name("format-1.yaml").read_bytes()
        place.write(f"{run}/config.yaml", sound)
        readers = [[*FIT, "--ckpt_path", path], ["resume", f"run{index}", "--steps", "9"]]
        commands += some(readers, index, every=every)
    place.refused(commands)


@pytest.mark.soak
def test_a_program_under_any_name(place: Place) -> None:
    data = hostile.programs(place.canary)["bare pickle"]
    commands = []
    for ending in ("pt", "npz", "npy", "safetensors", "ckpt", "pth"):
        path = place.write(f"evil.{ending}", data)
        commands += [["sample", path], ["evaluate", path], [*FIT, "--ckpt_path", path]]
        commands += [["evaluate", "--samples", path, "--against", path]]
        scored = [*FIT, "--scores.enabled", "true", "--scores.extractor"]
        commands += [[*scored, path], [*scored, "inception", "--scores.inception_weights", path]]
        commands += [[*scored, "clip-rn50", "--scores.extractor_weights", path]]
        commands += [["evaluate", path, "--inception-weights", path], ["fit", "--config", path]]
    place.refused(commands)


def test_configs(place: Place) -> None:
    commands = []
    os.mkfifo(place.folder / "pipe")
    for index, (name, data) in enumerate(hostile_data.configs(place.canary).items()):
        path = place.write(f"{name.replace('/', ' ')}.yaml", data)
        commands += [["fit", "--config", path, "--steps", "2", "--scores.enabled", "false"]]
        if index % 2 and name not in ("run elsewhere", "width of 40 GB"):
            place.write(f"checkpoints/run{index}/config.yaml", data)
            commands += [["resume", f"run{index}"]]
        if len(data) < 10**6 and index % 2 == 0:
            commands += [["evaluate", "--protocol", path, "nothing"], ["study", path]]
    place.refused(commands)


def test_configs_and_records_of_a_run_that_is_shown(place: Place) -> None:
    """What reads many runs leaves a bad one out, or says what it cannot read, and goes on."""
    found = [("config.yaml", each) for each in hostile_data.configs(place.canary).values()]
    names = ("environment.json", "result.json", "metrics.jsonl", "scores.jsonl", "accuracy.jsonl")
    found += [(name, data) for name in names for data in hostile_data.records().values()]
    sound = hostile.FIXTURE.with_name("format-1.yaml").read_bytes()
    commands = []
    for index, (name, data) in enumerate(found):
        place.write(f"checkpoints/run{index}/config.yaml", sound)
        place.write(f"checkpoints/run{index}/{name}", data)
        commands += [["report", f"run{index}", "--out", str(place.folder / f"{index}.html")]]
    commands += [["leaderboard"], ["leaderboard", "--format", "json"]]
    ended = place.run(commands)
    for words, told in ended:
        assert told["code"] in (0, 2), (words, told["err"][-1500:])
        assert "Traceback" not in told["err"], (words, told["err"][-1500:])
    place.bounded(ended)


@EVERY
def test_images_and_archives_of_them(place: Place, every: bool) -> None:
    commands = []
    for index, (name, (file, data)) in enumerate(hostile_data.images(place.canary).items()):
        folder = name.replace("/", " ")
        place.write(f"{folder}/{file}", data)
        readers = [[*FOLDER, str(place.folder / folder)]]
        readers += [["evaluate", "--samples", str(place.folder / folder), "--against", "x"]]
        commands += some(readers, index, every=every)
    for name, data in hostile_data.archives(place.canary).items():
        commands += [[*FOLDER, place.write(f"{name.replace('/', ' ')}.zip", data)]]
    for name, (file, data) in hostile_data.arrays(place.canary).items():
        path = place.write(f"{name}/{file}", data)
        commands += [["evaluate", "--samples", path, "--against", path]]
    place.refused(commands)


@EVERY
def test_exported_generators_and_extractors(place: Place, every: bool) -> None:
    source = place.write("sound.ckpt", hostile.sound())
    out = str(place.folder / "sound.safetensors")
    place.run([["export", source, "--out", out]])
    from msngan.scores.embedded import FOLDER as SHIPPED

    commands = []
    kinds = {"generator": Path(out), "extractor": SHIPPED / "digits.safetensors"}
    for kind, sound in kinds.items():
        files = hostile_data.safetensors(place.canary, sound.read_bytes())
        for index, (name, data) in enumerate(files.items()):
            path = place.write(f"{kind} {name}.safetensors", data)
            if kind == "generator":
                readers = [["sample", path, "--out", "x.png"], ["evaluate", path]]
            else:
                readers = [["evaluate", source, "--extractor", path]]
            commands += some(readers, index, every=every)
    place.refused(commands)


def test_what_is_no_file_at_all(place: Place) -> None:
    commands = []
    for name in hostile_data.special(place.folder):
        path = str(place.folder / name)
        commands += [["fit", "--config", path], ["sample", path], ["evaluate", path]]
        commands += [["export", path], [*FIT, "--ckpt_path", path]]
        commands += [["evaluate", "nothing", "--protocol", path], ["study", path]]
        commands += [[*FOLDER, path], ["evaluate", "--samples", path, "--against", path]]
        for ending in ("ckpt", "yaml", "safetensors", "npz", "zip"):
            other = place.folder / f"{name}.{ending}"
            other.symlink_to(place.folder / name)
            commands += [["sample", str(other)], [*FOLDER, str(other)]]
            commands += [["fit", "--config", str(other)]]
    place.refused(commands)
