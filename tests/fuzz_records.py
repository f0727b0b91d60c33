"""Damaged records of runs, as leaderboard, report, figures, study and a resume read them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import report_runs
import yaml
from fuzz_harness import command
from fuzz_inputs import SCALARS, changed, damaged, damaged_lines, json_text
from score_lines import FD

from msngan.runs.folder import Run
from msngan.runs.jsonl import keep_until, read_lines
from msngan.runs.safe_read import object_or_empty
from msngan.study.study_files import Place, open_study, started_study
from msngan.training.callbacks import Accuracy, collapse_checks
from msngan.training.callbacks import scores as rules
from msngan.training.callbacks.run_callback import Saving

Case = Callable[[random.Random], Callable[[], Any]]
SOUND = {"critic_loss": 1.2, "fixed_loss": 2.0, "blank_loss": 2.0, "real_logit": 0.1}
SOUND |= {"logit_spread": 0.0, "sample_distance": 0.01, "growth": 200.0, "generator_gradient": 0}
ROWS = 4  # of a file that is damaged


def _original(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()][:ROWS]


def _damage(path: Path, whole: bytes, records: list[Any] | None, draw: random.Random) -> None:
    """Write a damaged form of a file, which is lines, JSON, YAML or bytes."""
    kind = draw.random()
    if records is not None:
        made = damaged_lines(records, draw) if kind < 0.9 else damaged(whole, draw, whole)
    elif path.suffix == ".json" and kind < 0.6:
        made = json_text(changed(json.loads(whole), draw)).encode()
    elif path.suffix == ".yaml" and kind < 0.6:
        made = odd_yaml(yaml.safe_load(whole), draw)
    else:
        made = damaged(whole, draw, whole)
    path.write_bytes(made)


def odd_yaml(value: Any, draw: random.Random) -> bytes:
    """YAML with one value of it replaced by a scalar as it stands, or by a JSON value."""
    mark = "0123marked0123"
    try:
        text = yaml.safe_dump(changed(value, draw, [mark, *[{"x": mark}, [mark]]]), sort_keys=False)
        return text.replace(mark, draw.choice(SCALARS)).encode(errors="replace")
    except yaml.YAMLError:
        return b"{}"


class Folder:
    """A run whose files are damaged one at a time; the others are whole."""

    def __init__(self, root: Path, make: Callable[[Path], Path], names: list[str]) -> None:
        self.root, self.folder = root, make(root)
        self.whole = {name: (self.folder / name).read_bytes() for name in names}
        self.records = {
            name: _original(self.folder / name) for name in names if name.endswith(".jsonl")
        }
        self.last: str | None = None

    def damage(self, draw: random.Random) -> str:
        """Damage one file, mend the one before; which."""
        if self.last is not None:
            (self.folder / self.last).write_bytes(self.whole[self.last])
        name = self.last = draw.choice(list(self.whole))
        _damage(self.folder / name, self.whole[name], self.records.get(name), draw)
        return name


def damaged_then(made: list[Folder], forms: list[list[Any]]) -> Case:
    """Damage a file of one of the folders, then run one of the commands."""

    def case(draw: random.Random) -> Callable[[], Any]:
        draw.choice(made).damage(draw)
        return command(*draw.choice(forms))

    return case


def leaderboard(root: Path) -> Case:
    made = Folder(root, report_runs.gan, ["scores.jsonl", "scores.jsonl", "config.yaml"])
    report_runs.gan(root, "other")
    often = [["--format", form] for form in ("table", "json", "csv", "md")]
    rare = [["--compare", "g", "other"], ["--html", root / "page.html"], ["--by", "best"]]
    rare += [["--metric", "fd", "--no-published"], ["--dataset", "cifar10", "--format", "json"]]
    forms = [["leaderboard", "--root", root, *form] for form in [*often * 5, *rare]]
    return damaged_then([made], forms)


def report(root: Path) -> Case:
    names = ["metrics.jsonl", "config.yaml", "environment.json", "result.json"]
    gan = Folder(root, report_runs.gan, [*names, "scores.jsonl", "gates.jsonl", "dynamics.npz"])
    other = Folder(root, report_runs.classifier, [*names, "accuracy.jsonl"])
    cases = [
        damaged_then([made], [["report", made.folder.name, "--root", root]])
        for made in (gan, other, other)
    ]
    return lambda draw: draw.choice(cases)(draw)


def figures(root: Path) -> Case:
    """What `msngan figures` reads, all but the drawing, which takes a second."""
    made = Folder(
        root,
        lambda folder: _with_dynamics(report_runs.classifier(folder)),
        ["accuracy.jsonl", "result.json", "config.yaml", "dynamics.npz"],
    )
    from msngan.report.figures.arms import find_sources, make_arms
    from msngan.report.figures.run_records import Unavailable, status, with_accuracy, with_dynamics

    def read() -> None:
        sources = find_sources(["c"], root)
        arms = make_arms(sources)
        for each in sources:
            status(each)
        for reader in (with_accuracy, with_dynamics):
            with suppress(Unavailable):
                reader(arms)

    def case(draw: random.Random) -> Callable[[], Any]:
        made.damage(draw)
        return read

    return case


def _with_dynamics(folder: Path) -> Path:
    report_runs.write(folder / "dynamics.npz", report_runs.dynamics(2, ("network.body.0",)))
    return folder


def resumed(root: Path) -> Case:
    """The records that a resume reads, and writes again up to its step."""
    made = Folder(root, report_runs.gan, ["metrics.jsonl", "scores.jsonl", "gates.jsonl"])

    def case(draw: random.Random) -> Callable[[], Any]:
        path = made.folder / made.damage(draw)
        step = draw.choice((0, 100, 250, 10**6))

        def read() -> None:
            before = [line for line in read_lines(path) if not _later(line, step)]
            keep_until(path, step)
            after = read_lines(path)
            assert [*map(repr, after)] == [*map(repr, before)], "a record was lost or changed"

        return read

    return case


def judged(root: Path) -> Case:
    """What the callbacks of a resumed run make of its records."""
    gan = Folder(root, report_runs.gan, ["scores.jsonl"])
    other = Folder(root, report_runs.classifier, ["accuracy.jsonl", "environment.json"])
    health_lines = [{"step": 100 * at, **SOUND} for at in range(1, ROWS + 1)]
    path = root / "health.jsonl"

    def scores() -> None:
        lines = read_lines(gan.folder / "scores.jsonl")
        key, shares = FD, ["precision/x", "recall/x"]
        for count in range(1, len(lines) + 1):
            rules.best_of(rules.points(lines[:count], key), key)
            rules.signs(lines[:count], key, shares)

    def accuracies() -> None:
        accuracy = Accuracy()
        accuracy.attach(Run("c", root), "x", Saving())
        accuracy.on_train_start(NoTrainer(), None)  # type: ignore[arg-type]
        object_or_empty(other.folder / "environment.json").get("threads", 1)

    def case(draw: random.Random) -> Callable[[], Any]:
        kind = draw.randrange(3)
        if kind == 0:
            gan.damage(draw)
            return scores
        if kind == 1:
            other.damage(draw)
            return accuracies
        path.write_bytes(damaged_lines(health_lines, draw))
        return lambda: list(collapse_checks.found(read_lines(path))) and None

    return case


class NoTrainer:
    """What a callback asks of a trainer before the first step."""

    is_global_zero, global_step = True, 20
    callbacks: tuple[()] = ()


def _later(line: dict[str, Any], step: int) -> bool:
    own = line.get("step", 0)
    return isinstance(own, (int, float)) and own > step


def study(root: Path) -> Case:
    """A study's file, its copy and its runs, as `msngan study` and `report` read them."""
    path = root / "mine.yaml"
    whole = report_runs.STUDY.encode()
    copy = Place("mine", root).copy
    copy.parent.mkdir(parents=True)

    def case(draw: random.Random) -> Callable[[], Any]:
        _damage(path, whole, None, draw)
        copy.write_bytes(path.read_bytes())
        change = f"{draw.choice(('epochs', 'model.lr', 'model', ''))}={draw.choice(SCALARS)}"
        changes = [change] if draw.random() < 0.3 else []

        def read() -> None:
            try:
                open_study(str(path), root, None, changes)
            finally:
                started_study(Place("mine", root))

        return read

    return case


def children(root: Path) -> Case:
    """The runs of a study, as `msngan study` and `report` read them."""
    report_runs.study(root)
    names = ["accuracy.jsonl", "config.yaml", "environment.json", "result.json"]
    found = [path for path in sorted((root / "checkpoints").iterdir()) if path.name != "grid"]
    found = [path for path in found if all((path / name).is_file() for name in names)]
    made = [Folder(root, lambda _, path=path: path, names) for path in found]
    forms = [["study", "grid", "--table"], ["study", "grid", "--list"]]
    forms += [["study", "grid", "--table", "--format", "json"], ["report", "grid"]]
    return damaged_then(made, [[*form, "--root", root] for form in forms])
