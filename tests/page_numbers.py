"""Records, and how pages write numbers: for the expressions of tests/data/numbers.txt."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import yaml

from msngan.leaderboard.seeds import student, summary

ROOT = Path(__file__).parent.parent
SN_AND_MSN = ("spectral", "mean_spectral")


def num(value: float, digits: int = 1, sign: str = "") -> str:
    """With a minus sign, not a hyphen; zero has no sign."""
    text = f"{value:{sign},.{digits}f}"
    return text.strip("+-") if not text.strip("+-0.") else text.replace("-", "−")


def spread(score: dict[str, Any], digits: int = 1, factor: float = 1) -> str:
    """mean ± sd, or the mean of a single value."""
    mean = num(factor * score["mean"], digits)
    return mean if score["sd"] is None else f"{mean} ± {num(factor * score['sd'], digits)}"


def interval(found: dict[str, float], digits: int = 1, factor: float = 100) -> str:
    low, high = sorted(factor * found[key] for key in ("low", "high"))
    return f"({num(low, digits)} to {num(high, digits)})"


def both_ends(values: Iterable[float], digits: int = 0) -> str:
    found = list(values)
    return f"{num(min(found), digits)} to {num(max(found), digits)}"


def seeds_to_tell(differences: Sequence[float], most: int = 1000) -> int:
    """With how many seeds differences of this mean and spread would have an interval without 0."""
    found, count = summary(differences), 3
    while count <= most and student(count - 1) * found.sd / count**0.5 > abs(found.mean):
        count += 1
    return count


def paired(differences: Sequence[float], digits: int = 2, factor: float = 1) -> str:
    """Their mean, its 95 % interval, and where this contains 0, how many seeds it would take."""
    found = summary([factor * each for each in differences])
    ends = f"{num(found.low, digits)} to {num(found.high, digits)}"
    if found.low <= 0 <= found.high:
        count = seeds_to_tell(differences)
        ends += f"; {count} seeds" if count <= 1000 else "; over 1,000 seeds"
    return f"{num(found.mean, digits, '+')} ({ends})"


@cache
def load(name: str) -> Any:
    return json.loads((ROOT / f"samples/gallery/{name}.json").read_text())


def rows(name: str) -> dict[str, Any]:
    return {row["name"]: row for row in load(name)["results"]}


def default(of: Any, option: str) -> Any:
    return signature(of).parameters[option].default


@cache
def config(name: str) -> Any:
    return yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())


def published(name: str) -> str:
    """The paper's accuracy in %, from the first line of the config."""
    (found,) = re.findall(r"published ([\d.]+) %", (ROOT / f"configs/{name}.yaml").read_text())
    return found
