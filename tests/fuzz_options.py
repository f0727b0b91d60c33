"""Odd configs and command lines, as `msngan fit` and the other commands read them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from classifier_runs import TINY_CLASSIFIER
from conftest import QUIET, TINY
from fuzz_harness import command
from fuzz_inputs import SCALARS, changed, damaged
from fuzz_records import odd_yaml

from msngan.__main__ import COMMANDS
from msngan.runs.configs import known_configs, packaged_folder, parse
from msngan.runs.options import SOURCES as TASKS
from msngan.runs.options import options_of

Case = Callable[[random.Random], Callable[[], Any]]
WORDS = [*COMMANDS, "--help", "-h", "--", "-", "--root", "--format", "json", "--html", "--compare"]
WORDS += ["--count", "--out", "--seed", "--step", "--run", "--all", "--raw", "--grid", "--metric"]
WORDS += [
    "--against",
    "--protocol",
    "--set",
    "--list",
    "--table",
    "--figures",
    "--layers",
    "x.ckpt",
]
# What starts something that takes longer than an input may, and is asked for elsewhere.
SLOW = {"bench", "extractor", "fit", "params", "resume"}


def value(draw: random.Random) -> str:
    return draw.choice(SCALARS)


def config(root: Path) -> Case:
    """A shipped config with odd values, other structure or damaged bytes."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "mine.yaml"
    files = [each.read_bytes() for each in known_configs().values()]
    names = {task: [*options_of(task)] for task in TASKS}

    def bytes_of(draw: random.Random) -> bytes:
        kind = draw.randrange(4)
        whole = draw.choice(files)
        if kind == 0:
            return damaged(whole, draw, draw.choice(files))
        if kind == 1:
            return odd_yaml(yaml.safe_load(whole), draw)
        task = draw.choice(list(TASKS))
        lines = [f"task: {task}"]
        for name in draw.sample(names[task], draw.choice((1, 1, 2, 5))):
            group, _, own = name.rpartition(".")
            lines.append(f"{group}: {{{own}: {value(draw)}}}" if group else f"{own}: {value(draw)}")
        if kind == 2:
            return "\n".join(lines).encode(errors="replace")
        return yaml.safe_dump(changed(yaml.safe_load(whole), draw)).encode(errors="replace")

    def case(draw: random.Random) -> Callable[[], Any]:
        try:
            path.write_bytes(bytes_of(draw))
        except (yaml.YAMLError, UnicodeError):
            path.write_bytes(b"steps: ???")
        return lambda: bool(parse(["--config", str(path)]) and False)

    return case


def command_line(root: Path) -> Case:
    """Options of `fit` with odd values, and words of the other commands in any order."""
    names = {task: [*options_of(task)] for task in TASKS}
    stems = [path.stem for path in packaged_folder().glob("*.yaml")]

    def case(draw: random.Random) -> Callable[[], Any]:
        task = draw.choice(list(TASKS))
        kind = draw.randrange(3)
        if kind < 2:
            words = ["--config", draw.choice(stems)] if draw.random() < 0.5 else ["--task", task]
            for _ in range(draw.choice((1, 1, 2, 4))):
                name = draw.choice(names[task])
                if draw.random() < 0.1:
                    name = name[: draw.randrange(len(name) + 1)] + draw.choice(("", "x", ".", "é"))
                words += [f"--{name}={value(draw)}"] if draw.random() < 0.7 else [f"--{name}"]
                words += [value(draw)] if draw.random() < 0.3 else []
            return lambda: bool(parse(words) and False)
        first = draw.choice([word for word in COMMANDS if word not in SLOW])
        words = [draw.choice([*WORDS, value(draw)]) for _ in range(draw.randrange(5))]
        return command(first, *[word for word in words if "\0" not in word])

    return case


def training(root: Path) -> Case:
    """A whole run of one step, with one option that is odd and all else small."""
    names = {task: [*options_of(task)] for task in TASKS}
    small = {"gan": [*TINY, *QUIET, "--steps", "1"], "classifier": [*TINY_CLASSIFIER]}
    small["classifier"] += ["--steps", "1"]
    left = {"run", "root", "ckpt_path", "threads", "data.root", "task", "detect_anomaly"}
    left |= {"model.compile", "trainer.profiler", "trainer.num_nodes", "trainer.devices"}
    left |= {"steps", "epochs"}  # a run of many is no defect
    numbers = ["0", "1", "-1", "2", "3", "7", "1.5", "1e-30", "1e30", "true", "null", "[]", "[1,2]"]
    numbers += [
        ".nan",
        ".inf",
        "9223372036854775807",
        "9223372036854775808",
        "4000000000",
        "100000",
    ]

    def case(draw: random.Random) -> Callable[[], Any]:
        shutil.rmtree(root / "checkpoints", ignore_errors=True)
        shutil.rmtree(root / "samples", ignore_errors=True)
        task = draw.choice(list(TASKS))
        name = draw.choice([name for name in names[task] if name not in left])
        given = f"--{name}={draw.choice((draw.choice(numbers), value(draw)))}".replace("\0", "")
        call = command("fit", *small[task], "--root", root, given)

        def train() -> int:
            code = call()
            assert code != 2 or not (root / "checkpoints").exists(), "refused, and written"
            return code

        return train

    return case
