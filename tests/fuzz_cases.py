"""Kinds of odd input: options, checkpoints, data, and the records of runs.

Each function takes an empty folder, makes there what is whole, and returns a case. A case takes a
random.Random, writes one odd input, and returns the call that reads it.
"""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import report_runs
import torch
import yaml
from conftest import QUIET, TINY, TINY_CLASSIFIER
from fuzz_inputs import (
    SCALARS,
    VALUES,
    changed,
    damage_file,
    damaged,
    damaged_lines,
    damaged_zip,
    json_text,
    odd_yaml,
    zip_of,
)
from PIL import Image
from score_lines import FD

from msngan.__main__ import commands, main
from msngan.data.image_arrays import load_images
from msngan.data.image_files import load_folder
from msngan.networks import read_generator
from msngan.report.figures.arms import find_sources, make_arms
from msngan.report.figures.run_records import Unavailable, status, with_accuracy, with_dynamics
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.configs import known_configs, parse
from msngan.runs.folder import Run
from msngan.runs.jsonl import keep_until, read_lines
from msngan.runs.options import SOURCES as TASKS
from msngan.runs.options import options_of
from msngan.runs.safe_read import object_or_empty
from msngan.study.study_files import Place, open_study, started_study
from msngan.training import dynamics
from msngan.training.callbacks import collapse_checks
from msngan.training.callbacks import scores as rules
from msngan.training.callbacks.accuracy import Accuracy
from msngan.training.callbacks.run_callback import Saving

Case = Callable[[random.Random], Callable[[], Any]]
OPTIONS = {task: [*options_of(task)] for task in TASKS}


def command(*arguments: Any) -> Callable[[], int]:
    """A command line, in this process."""
    return lambda: main([str(each) for each in arguments])


# Options

COMMANDS = [*commands()]
WORDS = [*COMMANDS, "-h", "--", "-", "json", "x.ckpt"]
WORDS += ["--help", "--root", "--format", "--html", "--compare", "--count", "--out", "--seed"]
WORDS += ["--step", "--run", "--all", "--raw", "--grid", "--metric", "--against", "--protocol"]
WORDS += ["--set", "--list", "--table", "--figures", "--layers"]
# What starts something that takes longer than an input may, and is asked for elsewhere.
SLOW = {"bench", "extractor", "fit", "params", "resume"}


def config(root: Path) -> Case:
    """A shipped config with odd values, other structure or damaged bytes."""
    path = root / "mine.yaml"
    files = [each.read_bytes() for each in known_configs().values()]

    def bytes_of(draw: random.Random) -> bytes:
        kind = draw.randrange(4)
        whole = draw.choice(files)
        if kind == 0:
            return damaged(whole, draw, draw.choice(files))
        if kind == 1:
            return odd_yaml(yaml.safe_load(whole), draw)
        if kind == 2:
            return yaml.safe_dump(changed(yaml.safe_load(whole), draw)).encode(errors="replace")
        task = draw.choice(list(TASKS))
        lines = [f"task: {task}"]
        for name in draw.sample(OPTIONS[task], draw.choice((1, 1, 2, 5))):
            group, _, own = name.rpartition(".")
            value = draw.choice(SCALARS)
            lines.append(f"{group}: {{{own}: {value}}}" if group else f"{own}: {value}")
        return "\n".join(lines).encode(errors="replace")

    def case(draw: random.Random) -> Callable[[], Any]:
        try:
            path.write_bytes(bytes_of(draw))
        except (yaml.YAMLError, UnicodeError):
            path.write_bytes(b"steps: ???")
        return lambda: bool(parse(["--config", str(path)]) and False)

    return case


def command_line(root: Path) -> Case:
    """Options of `fit` with odd values, and words of the other commands in any order."""
    stems = sorted(known_configs())

    def case(draw: random.Random) -> Callable[[], Any]:
        task = draw.choice(list(TASKS))
        if draw.randrange(3) == 2:
            first = draw.choice([word for word in COMMANDS if word not in SLOW])
            words = [draw.choice([*WORDS, draw.choice(SCALARS)]) for _ in range(draw.randrange(5))]
            return command(first, *[word for word in words if "\0" not in word])
        words = ["--config", draw.choice(stems)] if draw.random() < 0.5 else ["--task", task]
        for _ in range(draw.choice((1, 1, 2, 4))):
            name = draw.choice(OPTIONS[task])
            if draw.random() < 0.1:
                name = name[: draw.randrange(len(name) + 1)] + draw.choice(("", "x", ".", "é"))
            words.append(f"--{name}" + draw.choice((f"={draw.choice(SCALARS)}", "")))
            words += [draw.choice(SCALARS)] if draw.random() < 0.3 else []
        return lambda: bool(parse(words) and False)

    return case


def training(root: Path) -> Case:
    """A whole run of one step, with one option that is odd and all else small."""
    small = {"gan": [*TINY, *QUIET, "--steps", "1"]}
    small["classifier"] = [*TINY_CLASSIFIER, "--steps", "1"]
    left = {"run", "root", "ckpt_path", "threads", "data.root", "task", "detect_anomaly"}
    left |= {"model.compile", "trainer.profiler", "trainer.num_nodes", "trainer.devices"}
    left |= {"steps", "epochs"}  # a run of many is no defect
    numbers = ["0", "1", "-1", "2", "3", "7", "1.5", "1e-30", "1e30", "true", "null", "[]", "[1,2]"]
    numbers += [".nan", ".inf", "4000000000", "100000"]
    numbers += ["9223372036854775807", "9223372036854775808"]

    def case(draw: random.Random) -> Callable[[], Any]:
        for folder in ("checkpoints", "samples"):
            shutil.rmtree(root / folder, ignore_errors=True)
        task = draw.choice(list(TASKS))
        name = draw.choice([name for name in OPTIONS[task] if name not in left])
        value = draw.choice((draw.choice(numbers), draw.choice(SCALARS)))
        call = command("fit", *small[task], "--root", root, f"--{name}={value}".replace("\0", ""))

        def train() -> int:
            code = call()
            assert code != 2 or not (root / "checkpoints").exists(), "refused, and written"
            return code

        return train

    return case


# Checkpoints and data


def checkpoint(root: Path) -> Case:
    """Its bytes, its zip index, its pickle, and plain values of it that are others."""
    path = root / "mine.ckpt"
    assert command("fit", *TINY, *QUIET, "--steps", "1", "--root", root, "--run", "base")() == 0
    written = root / "checkpoints/base/last.ckpt"
    content, whole = torch.load(written, weights_only=True), written.read_bytes()
    with zipfile.ZipFile(written) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    program = next(held for name, held in members if name.endswith("data.pkl"))

    def bytes_of(draw: random.Random) -> bytes:
        kind = draw.randrange(5)
        if kind == 0:
            return damaged(whole, draw, whole)
        if kind == 1:
            return damaged_zip(whole, draw, lambda held: damaged(held, draw, program))
        if kind == 2:  # with right sums
            odd = damaged(program, draw, program)
            return zip_of([(name, odd if held is program else held) for name, held in members])
        if kind == 3:
            return damaged(whole[-2000:], draw, whole)
        made = io.BytesIO()
        torch.save(changed_checkpoint(content, draw), made)
        return made.getvalue()

    def read() -> None:
        read_checkpoint(path)
        generator, _ = read_generator(path, ema=True)
        with torch.no_grad():
            generator(torch.zeros(2, generator.latent_dim))

    def case(draw: random.Random) -> Callable[[], Any]:
        path.write_bytes(bytes_of(draw))
        return read

    return case


def changed_checkpoint(content: dict[str, Any], draw: random.Random) -> Any:
    odd = [*VALUES, torch.zeros(0), torch.zeros(3), torch.tensor(float("nan")), torch.float16]
    odd += [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.complex64)]
    key = draw.choice(list(content) + ["state_dict", "hyper_parameters", "msngan"] * 3)
    if key != "state_dict":
        return content | {key: changed(content[key], draw, odd)}
    name = draw.choice([name for name in content[key] if name.startswith("ema.")])
    return content | {key: dict(content[key]) | {name: draw.choice(odd)}}


def sampled(root: Path) -> Case:
    """`msngan sample` of a damaged checkpoint."""
    damage = checkpoint(root)
    out = root / "out.png"

    def run() -> int:
        out.unlink(missing_ok=True)
        code = command("sample", root / "mine.ckpt", "--grid", "2", "--out", out)()
        assert code == 0 or not out.exists()
        return code

    return lambda draw: damage(draw) and run


def picture_bytes(draw: random.Random, size: int = 8) -> bytes:
    made = io.BytesIO()
    pixels = np.frombuffer(draw.randbytes(size * size), np.uint8).reshape(size, size)
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def images_of(path: Path, draw: random.Random, *readers: Callable[..., Any]) -> Callable[[], Any]:
    size, channels = draw.choice(((None, None), (8, 1), (4, 3)))
    read = draw.choice(readers)
    return lambda: read(path, size, channels)


def zip_of_pictures(root: Path) -> Case:
    """A zip file of PNGs with labels."""
    path = root / "pictures.zip"
    names = [f"{kind}/{number}.png" for kind in "ab" for number in range(2)]
    labels = {"labels": [[name, index % 2] for index, name in enumerate(names)]}
    content = [(name, picture_bytes(random.Random(0))) for name in names]
    whole = zip_of([*content, ("dataset.json", json_text(labels).encode())])

    def case(draw: random.Random) -> Callable[[], Any]:
        def members(held: bytes) -> bytes:
            if held.startswith(b"{") and draw.random() < 0.8:
                return json_text(changed(labels, draw)).encode()
            return damaged(held, draw, whole)

        path.write_bytes(damaged_zip(whole, draw, members))
        return images_of(path, draw, load_folder, load_images)

    return case


def arrays(root: Path) -> Case:
    """.npy and .npz files of images, whose header or archive is wrong."""
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    one, several = io.BytesIO(), io.BytesIO()
    np.save(one, images)
    np.savez(several, arr_0=images, labels=np.arange(4))
    firsts = ("4", "-1", "0", "True", "10**9", "99999999999999")
    shapes = [*(f"({first}, 8, 8, 3)" for first in firsts), "(4, 8, 8, 3.0)", "(4,)", "()", "4"]
    kinds = ["|u1", "<f8", "<f4", "|O", "|b1", "<i8", "<U99999999", "V8", "<c16", "<M8[ns]", "x"]

    def member(held: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return damaged(held[:160], draw, held) + held[160:]
        kind, shape = draw.choice(kinds), draw.choice(shapes)
        order = draw.choice(("True", "False", "1"))
        text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"
        return held[:10] + text.encode().ljust(117)[:117] + b"\n" + held[128:]

    def case(draw: random.Random) -> Callable[[], Any]:
        path = root / draw.choice(("a.npy", "a.npz"))
        if path.suffix == ".npy":
            path.write_bytes(member(one.getvalue(), draw))
        else:
            path.write_bytes(damaged_zip(several.getvalue(), draw, lambda held: member(held, draw)))
        return images_of(path, draw, load_images)

    return case


def measurements(root: Path) -> Case:
    """A dynamics.npz."""
    path = with_dynamics_file(root) / "dynamics.npz"
    whole = path.read_bytes()

    def read() -> None:
        with suppress(ValueError):  # its callers say it, or raise it as the user's
            dynamics.read(path)

    def case(draw: random.Random) -> Callable[[], Any]:
        path.write_bytes(damaged_zip(whole, draw, lambda held: damaged(held, draw, whole)))
        return read

    return case


def with_dynamics_file(folder: Path) -> Path:
    report_runs.write(folder / "dynamics.npz", report_runs.dynamics(2, ("network.body.0",)))
    return folder


# Records of runs, as leaderboard, report, figures, study and a resume read them

SOUND = {"critic_loss": 1.2, "fixed_loss": 2.0, "blank_loss": 2.0, "real_logit": 0.1}
SOUND |= {"logit_spread": 0.0, "sample_distance": 0.01, "growth": 200.0, "generator_gradient": 0}
ROWS = 4  # of a file that is damaged


class Folder:
    """A run whose files are damaged one at a time; the others are whole."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.last = folder, names[0]
        self.whole = {name: (folder / name).read_bytes() for name in names}
        self.records = {
            name: [json.loads(line) for line in self.whole[name].splitlines()[:ROWS]]
            for name in names
            if name.endswith(".jsonl")
        }

    def damage(self, draw: random.Random) -> Path:
        """Damage one file, mend the one before; which."""
        (self.folder / self.last).write_bytes(self.whole[self.last])
        name = self.last = draw.choice(list(self.whole))
        damage_file(self.folder / name, self.whole[name], self.records.get(name), draw)
        return self.folder / name


def damaged_then(made: Folder | list[Folder], *calls: list[Any] | Callable[[], Any]) -> Case:
    """Damage a file of one of the folders, then run one of the commands, or call."""

    def case(draw: random.Random) -> Callable[[], Any]:
        draw.choice(made if isinstance(made, list) else [made]).damage(draw)
        call = draw.choice(calls)
        return command(*call) if isinstance(call, list) else call

    return case


def leaderboard(root: Path) -> Case:
    made = Folder(report_runs.gan(root), "scores.jsonl", "config.yaml")
    report_runs.gan(root, "other")
    often = [["--format", form] for form in ("table", "json", "csv", "md")]
    rare = [["--compare", "g", "other"], ["--html", root / "page.html"], ["--by", "best"]]
    rare += [["--metric", "fd", "--no-published"], ["--dataset", "cifar10", "--format", "json"]]
    forms = [["leaderboard", "--root", root, *form] for form in [*often * 5, *rare]]
    return damaged_then(made, *forms)


def report(root: Path) -> Case:
    names = ["metrics.jsonl", "config.yaml", "environment.json", "result.json"]
    gan = Folder(report_runs.gan(root), *names, "scores.jsonl", "gates.jsonl", "dynamics.npz")
    other = Folder(report_runs.classifier(root), *names, "accuracy.jsonl")
    runs = (gan, other, other)
    cases = [damaged_then(made, ["report", made.folder.name, "--root", root]) for made in runs]
    return lambda draw: draw.choice(cases)(draw)


def figures(root: Path) -> Case:
    """What `msngan figures` reads, all but the drawing, which takes a second."""
    names = ("accuracy.jsonl", "result.json", "config.yaml", "dynamics.npz")
    made = Folder(with_dynamics_file(report_runs.classifier(root)), *names)

    def read() -> None:
        sources = find_sources(["c"], root)
        arms = make_arms(sources)
        for each in sources:
            status(each)
        for reader in (with_accuracy, with_dynamics):
            with suppress(Unavailable):
                reader(arms)

    return damaged_then(made, read)


def resumed(root: Path) -> Case:
    """The records that a resume reads, and writes again up to its step."""
    made = Folder(report_runs.gan(root), "metrics.jsonl", "scores.jsonl", "gates.jsonl")

    def later(line: dict[str, Any], step: int) -> bool:
        own = line.get("step", 0)
        return isinstance(own, (int, float)) and own > step

    def case(draw: random.Random) -> Callable[[], Any]:
        path = made.damage(draw)
        step = draw.choice((0, 100, 250, 10**6))

        def read() -> None:
            before = [line for line in read_lines(path) if not later(line, step)]
            keep_until(path, step)
            after = read_lines(path)
            assert [*map(repr, after)] == [*map(repr, before)], "a record was lost or changed"

        return read

    return case


class NoTrainer:
    """What a callback asks of a trainer before the first step."""

    is_global_zero, global_step = True, 20
    callbacks: tuple[()] = ()


def judged(root: Path) -> Case:
    """What the callbacks of a resumed run make of its records."""
    gan = Folder(report_runs.gan(root), "scores.jsonl")
    other = Folder(report_runs.classifier(root), "accuracy.jsonl", "environment.json")
    health_lines = [{"step": 100 * at, **SOUND} for at in range(1, ROWS + 1)]
    path = root / "health.jsonl"

    def scores() -> None:
        lines = read_lines(gan.folder / "scores.jsonl")
        for count in range(1, len(lines) + 1):
            rules.best_of(rules.points(lines[:count], FD), FD)
            rules.signs(lines[:count], FD, ["precision/x", "recall/x"])

    def accuracies() -> None:
        accuracy = Accuracy()
        accuracy.attach(Run("c", root), "x", Saving())
        accuracy.on_train_start(NoTrainer(), None)  # type: ignore[arg-type]
        object_or_empty(other.folder / "environment.json").get("threads", 1)

    def health(draw: random.Random) -> Callable[[], Any]:
        path.write_bytes(damaged_lines(health_lines, draw))
        return lambda: list(collapse_checks.found(read_lines(path))) and None

    cases = [damaged_then(gan, scores), damaged_then(other, accuracies), health]
    return lambda draw: draw.choice(cases)(draw)


def study(root: Path) -> Case:
    """A study's file and its copy, as `msngan study` and `report` read them."""
    path = root / "mine.yaml"
    copy = Place("mine", root).copy
    copy.parent.mkdir(parents=True)

    def case(draw: random.Random) -> Callable[[], Any]:
        damage_file(path, report_runs.STUDY.encode(), None, draw)
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
    found = sorted((root / "checkpoints").glob("grid-*/accuracy.jsonl"))
    made = [Folder(path.parent, *names) for path in found if path.with_name(names[-1]).is_file()]
    lines = ("study grid --table", "study grid --list", "study grid --table --format json")
    forms = [[*line.split(), "--root", root] for line in (*lines, "report grid")]
    return damaged_then(made, *forms)
