"""The options' defaults, read from the source of the classes that have them: importing them costs
seconds, for they need torch.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msngan
from msngan.runs.safe_read import clean

PACKAGE = Path(msngan.__file__).parent
NONE = "–"  # of an option that a config, or the defaults, do not have
ALWAYS = {
    "checkpoint": "Checkpoints",
    "records": "Records",
    "dynamics": "Dynamics",
    "health": "Health",
}
CLASSES = {
    "gan": {
        "model": "GAN",
        "data": "ImageData",
        "scores": "Scores",
        "samples": "Samples",
        **ALWAYS,
    },
    "classifier": {
        "model": "Classifier",
        "data": "LabelledData",
        "accuracy": "Accuracy",
        **ALWAYS,
    },
}
TOP: dict[str, dict[str, Any]] = {
    "gan": {"task": "gan", "steps": 100_000, "seed": 0, "threads": 0},
    "classifier": {"task": "classifier", "epochs": 10, "seed": 0, "threads": 0},
}
TRAINER = {"accelerator": "auto", "devices": "auto", "num_nodes": 1, "precision": "32-true"}
TRAINER |= {"detect_anomaly": False}
# A null is no option that anybody set, and these say only where a run lies.
UNTOLD = {"run", "root", "config", "ckpt_path", "detect_anomaly"}


def differences(config: Mapping[str, Any], task: str) -> list[tuple[str, str, str]]:
    """Option, value and default of each option that is not at its default, as JSON texts."""
    defaults = dict(flat(of_task(task)))
    made = []
    for name, value in flat(config):
        default = defaults.get(name, "null")
        if name not in UNTOLD and value != default:
            made.append((name, value, default if name in defaults else NONE))
    return made


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:  # noqa: ANN401  any YAML value
    """Options by their dotted names, each value as JSON."""
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            yield from flat(each, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield clean(prefix), clean(json.dumps(value, ensure_ascii=False, default=str))


@cache
def of_task(task: str) -> dict[str, Any]:
    """Every default that the source states as a plain value, by section."""
    sections: dict[str, Any] = {**TOP[task], "trainer": TRAINER}
    for name, class_name in CLASSES[task].items():
        sections[name] = _parameters(class_name)
    return sections


def _parameters(class_name: str) -> dict[str, Any]:
    texts = (path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    text = next(text for text in texts if re.search(rf"class {class_name}\(\w+\):", text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    return dict(_literals(each.args))
    raise LookupError(f"there is no class {class_name} with an __init__")


def _literals(arguments: ast.arguments) -> Iterator[tuple[str, Any]]:
    """The parameters whose default is a literal."""
    plain = arguments.args[len(arguments.args) - len(arguments.defaults) :]
    pairs = [*zip(plain, arguments.defaults, strict=True)]
    pairs += [
        (argument, default)
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
        if default is not None
    ]
    for argument, default in pairs:
        try:
            yield argument.arg, ast.literal_eval(default)
        except ValueError:
            continue
