"""The options of `msngan bench scores`."""

from __future__ import annotations

import argparse

from msngan.bench.score_settings import LEAST, MEANINGS, ScoreSettings
from msngan.runs import bounds as checks
from msngan.runs.folder import UserError


def add_sizes(made: argparse.ArgumentParser) -> None:
    for name, meaning in MEANINGS.items():
        default = getattr(ScoreSettings, name)
        made.add_argument(
            _option(name), type=int, default=default, help=f"{meaning}; default: {default}"
        )


def score_settings(options: argparse.Namespace, only: tuple[str, ...]) -> ScoreSettings:
    """What the options ask for; UserError where that cannot be."""
    sizes = {name: getattr(options, name) for name in MEANINGS}
    for name, size in sizes.items():
        checks.at_least(_option(name), size, LEAST.get(name, 2))
    most = min(options.samples, options.kept)
    if "kernel" in only and options.subset_size > most:
        raise UserError(
            f"--subset-size {options.subset_size} is more than the {most} images of --samples"
            " and --kept; make it smaller"
        )
    return ScoreSettings(only, options.rounds, options.threads, **sizes)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
