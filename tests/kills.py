"""Runs in forked processes that are killed at a chosen file operation, or at a chosen time."""

from __future__ import annotations

import builtins
import csv
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import TINY, TINY_CLASSIFIER, weights
from together import fork, wait

from msngan.__main__ import main

# Once, for all children; `main` would import them in each.
for _name in ("commands.fit", "commands.resume", "training.run"):
    import_module(f"msngan.{_name}")
import_module("torch.utils.tensorboard")

CLOCK = ("seconds", "steps_per_second", "time")  # what no run repeats
COMMON = ["--checkpoint.every", "2", "--records.every", "1", "--dynamics.every", "3"]
COMMON += ["--logger", "tensorboard,csv"]
COMMON += ["--model.norm", "optional_spectral", "--model.norm_options.criterion", "random"]
COMMON += ["--model.norm_options.on", "0.8", "--model.norm_options.off", "0.3"]
OPTIONS = {
    "gan": [*TINY, *COMMON, "--scores.every", "2", "--scores.samples", "20", "--scores.runs", "2"]
    + ["--scores.metrics", "fid", "--samples.every", "2", "--samples.count", "4"]
    + ["--model.generator_lr", "0.05"],
    "classifier": [*TINY_CLASSIFIER, *COMMON, "--steps", "14", "--model.lr", "0.05"],
}
DELICATE = ["open .environment.json.tmp", "half of metrics.jsonl", "half of ..next.ckpt.tmp"]
DELICATE += ["os.rename .next.ckpt", "half of .result.json.tmp", "half of metrics.csv"]


class Ticks:
    """Counts this process's file operations in the run's folders, and kills it at one of them."""

    def __init__(self, last: int | None) -> None:
        self.last, self.place = last, str(Path.cwd())
        self.labels: list[str] = []
        self._begun: set[str] = set()

    def at(self, label: str) -> bool:
        """Whether this is the one to be killed at."""
        self.labels.append(label)
        return len(self.labels) == self.last

    def tick(self, label: str) -> None:
        if self.at(label):
            die(label)

    def ours(self, path: object) -> bool:
        if not isinstance(path, (str, os.PathLike)):
            return False
        whole = os.path.abspath(os.fspath(path))
        return whole.startswith(self.place) and "tensorboard" not in whole

    def install(self) -> None:
        sys.addaudithook(self._audit)
        fsync, save, opened = os.fsync, torch.save, builtins.open

        def watched_fsync(descriptor: int) -> None:
            self.tick("fsync")
            fsync(descriptor)

        def watched_save(value: Any, path: Any) -> None:
            if self.at(f"half of {name(path)}"):
                buffer = io.BytesIO()
                save(value, buffer)
                whole = buffer.getvalue()
                Path(path).write_bytes(whole[: len(whole) // 2])
                die(f"half of {name(path)}")
            save(value, path)

        def watched_open(path: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            file = opened(path, mode, *rest, **options)
            if set(mode) & set("wax+") and self.ours(path):
                return Torn(file, name(path), self)
            return file

        os.fsync, torch.save = watched_fsync, watched_save
        builtins.open = io.open = watched_open

    def first(self, label: str) -> bool:
        """Of a temporary file only the first write counts: which is cut makes no difference."""
        if ".tmp" in label and label in self._begun:
            return False
        self._begun.add(label)
        return True

    def _audit(self, event: str, given: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = given
            if flags & (os.O_WRONLY | os.O_RDWR) and self.ours(path):
                self.tick(f"open {name(path)}")
        elif event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.chmod"):
            if self.ours(given[0]):
                self.tick(f"{event} {name(given[0])}")
        elif event == "fcntl.flock":
            self.tick(event)


class Torn:
    """A file whose writes may be cut in the middle."""

    def __init__(self, file: Any, label: str, ticks: Ticks) -> None:
        self._file, self._label, self._ticks = file, label, ticks

    def write(self, data: Any) -> int:
        if self._ticks.first(self._label) and self._ticks.at(f"half of {self._label}"):
            self._file.write(data[: len(data) // 2])
            self._file.flush()
            die(self._label)
        return self._file.write(data)

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._file, attribute)

    def __enter__(self) -> Torn:
        return self

    def __exit__(self, *ending: object) -> None:
        self._file.close()


def name(path: Any) -> str:
    """Without the random part of a temporary one."""
    parts = Path(os.fspath(path)).name.split(".")
    return ".".join([*parts[:-2], "tmp"]) if parts[-1] == "tmp" else ".".join(parts)


def die(label: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError(label)


class Trial:
    """One run in a folder of its own, killed and taken up again."""

    def __init__(
        self, folder: Path, task: str, temporary: str | None = None, copied: Trial | None = None
    ) -> None:
        self.folder, self.task, self.temporary = folder, task, temporary
        folder.mkdir(parents=True)
        if copied is not None:
            shutil.copytree(copied.folder, folder, dirs_exist_ok=True)
        self.log = folder / "log"

    @property
    def run(self) -> Path:
        return self.folder / "checkpoints" / "mine"

    def start(self, kill_at: int | None = None, count: bool = False) -> int:
        """What a user would type next, in a child; its process id."""
        begun = (self.run / "config.yaml").exists()
        command = ["resume", "mine"] if begun else ["fit", *OPTIONS[self.task], "--run", "mine"]

        def work() -> None:
            os.chdir(self.folder)
            if self.temporary:
                os.environ["TMPDIR"], tempfile.tempdir = self.temporary, None
            ticks = Ticks(kill_at)
            if kill_at is not None or count:
                ticks.install()
            code = main(command)
            if count:
                Path("ticks.json").write_text(json.dumps(ticks.labels))
            sys.exit(code)

        return fork(work, self.log)

    def finish(self) -> str | None:
        """Take it up and let it end; what went wrong, if anything did."""
        if (self.run / "result.json").exists():
            return None
        code = wait(self.start())
        return None if code == 0 else f"exit code {code}: {self.log.read_text()[-2000:]}"

    def said(self) -> dict[str, Any]:
        """Everything that the run has left and must be the same."""
        found: dict[str, Any] = {}
        for path in sorted([*self.run.glob("*.ckpt"), *self.run.glob(".*.ckpt")]):
            held = weights(self.run, path.name)
            found[path.name] = {name: each.numpy().tobytes() for name, each in held.items()}
        found.pop("previous.ckpt", None)  # a kill may leave it nearer to the last
        for path in self.run.glob("*.jsonl"):
            lines = [json.loads(line) for line in path.read_text().splitlines()]
            found[path.name] = [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]
        with open(self.run / "metrics.csv", newline="") as table:
            rows = [*csv.DictReader(table)]
        found["metrics.csv"] = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
        with np.load(self.run / "dynamics.npz") as arrays:
            found["dynamics"] = {n: arrays[n].tobytes() for n in arrays.files if n != "seconds"}
        pictures = (self.folder / "samples" / "mine").iterdir()
        found["pictures"] = {path.name: path.read_bytes() for path in pictures}
        found["result"] = json.loads((self.run / "result.json").read_text())["status"]
        found["left"] = [str(path) for path in self.folder.rglob("*.tmp")]
        return found

    def differs(self, whole: dict[str, Any]) -> str | None:
        try:
            mine = self.said()
        except Exception:
            return traceback.format_exc()[-2000:]
        names = [key for key in whole.keys() | mine.keys() if mine.get(key) != whole.get(key)]
        return f"not as the undisturbed run: {', '.join(sorted(names))}" if names else None


@dataclass
class Report:
    """Kills tried, and what was lost."""

    tried: int = 0
    losses: list[str] = field(default_factory=list)

    def judge(self, trial: Trial, whole: dict[str, Any], about: str) -> None:
        problem = trial.finish() or trial.differs(whole)
        if problem:
            self.losses.append(f"{about}: {problem}")
        shutil.rmtree(trial.folder)


def undisturbed(folder: Path, task: str) -> tuple[dict[str, Any], list[str], float]:
    """What it leaves, its file operations, its seconds."""
    trial = Trial(folder, task)
    wait(trial.start())  # fills the caches of references
    shutil.rmtree(folder)
    trial = Trial(folder, task)
    start = time.monotonic()
    code = wait(trial.start(count=True))
    seconds = time.monotonic() - start
    assert code == 0, trial.log.read_text()
    return trial.said(), json.loads((folder / "ticks.json").read_text()), seconds


def each_operation(
    folder: Path, task: str, *, few: bool = False, of_resume: bool = False
) -> Report:
    """Kill a run, or its resumption, at each of its file operations.

    few: only at one of each delicate kind, from the middle of the run. of_resume: first kill the
    run in the middle, then its resumption.
    """
    report = Report()
    whole, labels, _ = undisturbed(folder / "whole", task)
    first = None
    if of_resume:
        middle = [i for i, label in enumerate(labels, 1) if label.startswith("half of metrics")]
        first = Trial(folder / "first", task)
        wait(first.start(kill_at=middle[len(middle) * 2 // 3]))
        counted = Trial(folder / "counted", task, copied=first)
        assert wait(counted.start(count=True)) == 0, counted.log.read_text()
        labels = json.loads((counted.folder / "ticks.json").read_text())
    wanted = [*range(1, len(labels) + 1)]
    if few:
        places = [[n for n in wanted if labels[n - 1] == label] for label in DELICATE]
        wanted = [each[len(each) // 2] for each in places]
    for number in wanted:
        trial = Trial(folder / str(number), task, copied=first)
        code = wait(trial.start(kill_at=number))
        about = f"{task}: kill at operation {number} of {len(labels)} ({labels[number - 1]})"
        if code != -signal.SIGKILL:
            report.losses.append(f"{about}: not killed, exit code {code}")
        report.tried += 1
        report.judge(trial, whole, about)
    return report


def at_random(folder: Path, task: str, kills: int, seed: int, other: str) -> Report:
    """Kill at random times, several times a run; every second run has TMPDIR elsewhere."""
    report = Report()
    whole, _, seconds = undisturbed(folder / "whole", task)
    draw = random.Random(seed)
    number = 0
    while report.tried < kills:
        number += 1
        trial = Trial(folder / str(number), task, other if number % 2 else None)
        moments = []
        for _ in range(min(draw.randint(1, 4), kills - report.tried)):
            moments.append(draw.uniform(0, seconds))
            child = trial.start()
            time.sleep(moments[-1])
            os.kill(child, signal.SIGKILL)
            report.tried += 1
            if wait(child) != -signal.SIGKILL:
                report.tried -= 1  # it had ended by itself
                break
        said = ", ".join(f"{moment:.3f}" for moment in moments)
        report.judge(trial, whole, f"{task}: seed {seed}, run {number}, killed after {said} s")
    return report
