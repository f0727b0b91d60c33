"""msngan fit: train a GAN or a classifier."""

from __future__ import annotations

from itertools import pairwise

from msngan.runs.configs import find_config, refuse_study


def main(argv: list[str]) -> int:
    # A config that does not exist, or a study, is answered before torch is imported.
    for option, value in pairwise([*argv, ""]):
        if option in ("-c", "--config"):
            refuse_study(find_config(value))
        elif option.startswith("--config="):
            refuse_study(find_config(option.removeprefix("--config=")))
    from msngan.training import fit
    from msngan.training.options import parse

    return fit(parse(argv))
