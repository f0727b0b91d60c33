"""The command line that a study's run is."""

from __future__ import annotations

import json
import shlex

from msngan.study.plan import Child


def fit_arguments(child: Child) -> list[str]:
    """Those of `msngan fit` for this run."""
    written = [f"--{name}={_word(value)}" for name, value in child.options.items()]
    return ["--config", child.config, *written, "--run", child.name]


def _word(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def command(child: Child) -> str:
    """What would train the run outside the study."""
    return shlex.join(["msngan", "fit", *fit_arguments(child)])
