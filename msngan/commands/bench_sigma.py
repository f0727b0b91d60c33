"""The options and the table of `msngan bench sigma`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msngan.report.tables.bench import Record, spread
from msngan.report.tables.table import Table
from msngan.runs import bounds as checks
from msngan.runs.configs import find_config, refuse_study
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.safe_read import read_json, read_up_to

if TYPE_CHECKING:
    from msngan.bench.settings import SigmaSettings

LARGEST_RECORD = 2**24  # bytes
PASSES = ("separate", "joint")
DEFAULT_CONFIG = "digits_msn"
NOTES = [
    "step N: the largest singular value of W', in float64, over what the norm promises, of all"
    " layers, after the critic's N-th update; for scaled and bidirectional norms, spectral_clip and"
    " lipschitz_projection of what each bounds. largest: of all updates, and its step.",
    "one vector, one iteration: as in the paper and in torch.nn.utils.spectral_norm, by the same"
    " code, from a settled start.",
    "cost: time of an update of all layers over a forward and backward pass of the critic, measured"
    " in turns at steps over the whole run; median and its 95% interval.",
]


def add_sigma(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--config",
        metavar="A,B,...",
        help=f"recipes to train; default: {DEFAULT_CONFIG} in separate and in joint passes",
    )
    made.add_argument("--norms", metavar="A,B,...", help="in place of the configs' norms")
    made.add_argument("--passes", metavar="A,B", help="separate, joint; default: the configs'")
    made.add_argument("--width", type=int, default=16, help="of the networks; default: 16")
    made.add_argument("--steps", type=int, default=2000, help="default: 2000")
    made.add_argument("--minutes", type=float, help="of each of the trainings, at most")
    made.add_argument("--seed", type=int, default=0, help="of the training runs; default: 0")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    made.add_argument(
        "--add", type=Path, nargs="+", default=[], metavar="FILE.json", help="earlier records"
    )
    made.add_argument("--plot", type=Path, metavar="FILE.png", help="draw sigma against the step")


def check_sigma(options: argparse.Namespace) -> None:
    """UserError for what cannot be, before torch is imported."""
    checks.at_least("--steps", options.steps, 2)
    checks.at_least("--seed", options.seed, 0)
    for config in _words(options.config) or (DEFAULT_CONFIG,):
        refuse_study(find_config(config))
    for passes in _words(options.passes):
        if passes not in PASSES:
            near = did_you_mean(passes, list(PASSES))
            raise UserError(f"--passes: unknown {passes!r}{near}; choose of {', '.join(PASSES)}")
    options.others = [_read(path) for path in options.add]


def sigma_settings(options: argparse.Namespace) -> SigmaSettings:
    import torch

    from msngan.bench.settings import SigmaSettings

    if options.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda is not to be had here; use cpu")
    configs, passes = _words(options.config), _words(options.passes)
    return SigmaSettings(
        configs or (DEFAULT_CONFIG,),
        _words(options.norms),
        passes or (() if configs else PASSES),
        steps=options.steps,
        minutes=options.minutes,
        rounds=options.rounds,
        width=options.width,
        threads=options.threads,
        seed=options.seed,
        device=options.device,
    )


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in (text or "").split(",") if word.strip()))


def _read(path: Path) -> Record:
    try:
        found = read_json(read_up_to(path, LARGEST_RECORD))
    except (OSError, ValueError) as problem:
        raise UserError(f"--add {path} cannot be read: {problem}") from problem
    if not isinstance(found, dict) or found.get("benchmark") != "sigma":
        raise UserError(f"--add {path} is no record of `msngan bench sigma`")
    return found


def with_others(record: Record, others: list[Record]) -> Record:
    """The record with the recipes of earlier ones, whose commands are kept beside its own."""
    names = {row["name"] for row in record["results"]}
    for other in others:
        more = [row for row in other["results"] if row["name"] not in names]
        record["results"] += more
        names |= {row["name"] for row in more}
        about = {key: other[key] for key in ("command", "time", "hardware", "versions", "settings")}
        record["added"] = [*record.get("added", []), about, *other.get("added", [])]
    return record


def sigma_tables(record: Record) -> Iterator[Table]:
    hardware, settings = record["hardware"], record["settings"]
    device = hardware["gpu"] if settings["device"] == "cuda" else hardware["processor"]
    lines = [
        f"{device}, {hardware['cores']} cores; torch {record['versions']['torch']};"
        f" msngan {record['versions']['msngan']}",
        f"width {settings['width']}, seed {settings['seed']}; threads {record['threads']};"
        f" clock: {record['clock']}",
    ]
    steps = list(dict.fromkeys(step for row in record["results"] for step in row["at"]))
    steps.sort(key=int)
    columns = ["recipe", "estimator", *(f"step {step}" for step in steps)]
    more = ["largest", "at step", f"above {record['allowed']}", "cost", "95%"]
    yield Table(
        "Largest singular value of W', 1 where sigma is exact",
        [*columns, *more],
        [_row(row, steps) for row in record["results"]],
        lines,
        NOTES,
        right=frozenset({*columns[2:], *more}),
        extra=len(more),
        keys=2,
    )


def _row(row: dict[str, Any], steps: list[str]) -> list[str]:
    at = [f"{row['at'][step]:.3f}" if step in row["at"] else "" for step in steps]
    above = f"{row['above_allowed']} of {row['measured_updates']}"
    largest = [f"{row['largest']:.3f}", str(row["largest_step"])]
    return [row["recipe"], row["estimator"], *at, *largest, above, *spread(row["cost"])[:2]]
