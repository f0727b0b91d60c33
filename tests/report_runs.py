"""Runs on disk, as the tests of `msngan report` need them, without training any, and its pages."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from figure_runs import synthetic
from PIL import Image
from score_lines import CS, FD, official, score_line

from msngan.training.dynamics import PER_LAYER, Dynamics, write

HOSTILE = "<script>alert(1)</script><img src=https://x.example/a.png onerror=x>\"'&"
ENVIRONMENT = {
    "config": "cifar_msn",
    "msngan": "0.1.0",
    "processor": "AMD EPYC",
    "gpu": None,
    "versions": {"torch": "2.15.0"},
    "command": "msngan evaluate g",
    "commands": [
        {"time": "2026-11-20T10:29:50Z", "command": f"msngan {words}"}
        for words in ("fit --config cifar_msn --run g", "resume g --steps 400", "evaluate g")
    ],
    "time": "2026-11-20T10:29:50Z",
}
LAYERS = ("critic.body.0", "critic.body.1", "critic.head", "generator.stem", "generator.last")
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A parsed page: its text, its table cells, its attributes. Unbalanced tags are an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if {"td", "th"} & {*self.open}:
            self.rows[-1][-1] += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)

    def row(self, *start: str) -> list[str]:
        """The one row of a table that begins so."""
        (found,) = [each for each in self.rows if each[: len(start)] == [*start]]
        return found


def lines(path: Path, records: list[Any]) -> None:
    """A .jsonl file; a str is written as it is."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in records]
    path.write_text("".join(f"{text}\n" for text in texts))


def folder_of(root: Path, name: str, config: dict[str, Any], **result: Any) -> Path:
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({"run": name, "seed": 0, **config}))
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT))
    if result:
        (folder / "result.json").write_text(json.dumps({"format": 1, **result}))
    return folder


def gan(root: Path, name: str = "g") -> Path:
    """A finished GAN: scores under two protocols, five grids, dynamics and gates."""
    model = {"norm": "optional_spectral", "loss": "hinge", "width": 16}
    data = {"dataset": "cifar10", "batch_size": 64}
    config = {"steps": 400, "model": model, "data": data}
    folder = folder_of(root, name, config, status="done", step=400, reason=None)
    constant = {"real_logit": 0.1, "fake_logit": -0.2, "steps_per_second": 5.5}
    constant |= {"generator_lr": 2e-4, "critic_lr": 2e-4}
    losses = {k: {"critic_loss": 1.4 - k / 1000} for k in range(50, 401, 50)}
    lines(folder / "metrics.jsonl", [{"step": k, **losses[k], **constant} for k in losses])
    scores = scores_over(range(100, 401, 100), 5000, 0)
    lines(folder / "scores.jsonl", [*scores, {**official(31.5), "step": 400}])
    gates = [
        {"step": s, "layer": "body.0", "on": on, "criterion": "sigma", "value": 1.5, "sigma": 1.2}
        for s, on in ((50, True), (150, False))
    ]
    lines(folder / "gates.jsonl", gates)
    write(folder / "dynamics.npz", dynamics())
    (folder / "last.ckpt").touch()
    for step in (0, 100, 200, 300, 400):
        grid(root, name, f"step-{step:08d}.png")
    grid(root, name, "real.png")
    return folder


def scores_over(steps: Iterable[int], first: float, shift: float) -> list[dict[str, Any]]:
    """Score lines whose Fréchet distance at a step is first / step + shift."""
    return [
        score_line(
            scores={
                FD: {"mean": first / step + shift, "sd": 0.2},
                CS: {"mean": 5 + step / 1000, "sd": 0.1},
            },
            floors={FD: {"mean": 0.11, "kind": "real-vs-real"}},
            step=step,
        )
        for step in steps
    ]


def grid(root: Path, run: str, name: str) -> Path:
    path = root / "samples" / run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_mandelbrot((137, 137), (-2, -1, 1, 1), 50).convert("RGB").save(path)
    return path


def accuracy_line(epoch: int, validation: float | None, test: float) -> dict[str, Any]:
    """Of ten steps an epoch, and 1000 test images."""
    line = {"format": 1, "run": "ignored", "step": 10 * epoch, "epoch": float(epoch)}
    line |= {"seconds": 3.5, "learning_rate": 1e-3, "validation_accuracy": validation}
    line |= {"train_loss": math.exp(-epoch), "train_accuracy": 0.99, "test_accuracy": test}
    line |= {"test_loss": 0.4, "test_right": [round(100 * test)] * 10}
    return line | {"validation_loss": None if validation is None else 0.5}


# The best epoch by validation is the second; the test set would have chosen the third.
EPOCHS = [(1, 0.80, 0.79), (2, 0.95, 0.93), (3, 0.94, 0.96), (4, 0.95, 0.92)]


def classifier(root: Path, name: str = "c", epochs: Any = EPOCHS, **model: Any) -> Path:
    chosen = {"network": "cnn3", "norm": "mean_spectral", "lr": 1e-4, **model}
    config = {"task": "classifier", "epochs": 4, "steps": None, "model": chosen}
    config |= {"data": {"dataset": "mnist"}}
    folder = folder_of(root, name, config, status="done", step=40, reason=None)
    lines(folder / "accuracy.jsonl", [accuracy_line(*each) for each in epochs])
    record = {"accuracy": 0.5, "steps_per_second": 12.0, "lr": 1e-4}
    lines(folder / "metrics.jsonl", [{"step": s, "loss": 2 / s, **record} for s in range(2, 41, 2)])
    return folder


def dynamics(count: int = 6, layers: tuple[str, ...] = LAYERS) -> Dynamics:
    """Columns in which each quantity of layer i at measurement t is (t + 1) / 10 + i / 100.

    The first measurement has no gradients, and the last layer no drift.
    """
    networks = tuple(dict.fromkeys(name.partition(".")[0] for name in layers))
    shapes = ((16, 8, 3, 3),) * len(layers)
    made = synthetic(count, 100, layers=layers, shapes=shapes, networks=networks)
    for name in PER_LAYER:
        values = getattr(made, name)
        values[:] = (np.arange(count)[:, None] + 1) / 10 + np.arange(len(layers)) / 100
        if name.startswith("gradient"):
            values[0] = np.nan
    made.drift[:, -1] = np.nan
    made.spectral_complexity[:] = 12.5
    return made


STUDY = """\
config: digits_cnn3_msn
options: {epochs: 4}
arms:
  none: {model.norm: none}
  msn: {model.norm: mean_spectral}
grid:
  model.lr: [0.01, 0.001]
  seed: [0, 1]
compare:
  - [msn, none]
"""
SHIFT = {"none": 0.0, "msn": 0.01}


def study(root: Path, name: str = "grid") -> Path:
    """Eight runs: one diverged after two epochs, one stopped after three, one not begun."""
    from msngan.runs.configs import find_config
    from msngan.study.study_files import Place, started_study

    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text(STUDY)
    planned = started_study(Place(name, root))
    assert planned is not None
    base = yaml.safe_load(find_config("digits_cnn3_msn").read_text())
    for index, child in enumerate(planned.children[:-1]):
        config = json.loads(json.dumps(base))
        for option, value in child.options.items():
            section, _, inner = option.rpartition(".")
            (config.setdefault(section, {}) if section else config)[inner] = value
        ends = {"status": "done", "step": 40, "reason": None}
        if index == 3:
            ends = {"status": "diverged", "step": 25, "reason": "the loss is no number"}
        made = folder_of(root, child.name, config, **({} if index == 6 else ends))
        count = {3: 2, 6: 3}.get(index, 4)
        shift = SHIFT[child.row] + child.seed / 100
        found = [(e, 0.8 + e / 100 + shift, 0.8 + e / 100 + shift) for e in range(1, count + 1)]
        lines(made / "accuracy.jsonl", [accuracy_line(*each) for each in found])
    return folder
