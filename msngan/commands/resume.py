"""msngan resume: continue a run exactly where it stopped."""

from __future__ import annotations

import sys
from pathlib import Path

from msngan.commands.parser import Parser, add_root
from msngan.runs import plugins
from msngan.runs.folder import Run, UserError, all_runs, did_you_mean
from msngan.runs.safe_read import object_or_empty


def main(argv: list[str]) -> int:
    text = "Continue a run exactly where it stopped."
    more = "Any option of `msngan fit` may follow, --steps 20000 for instance."
    parser = Parser(prog="msngan resume", description=text, epilog=more, others=True)
    parser.add_argument("run", help="name of the run, or its folder")
    add_root(parser)
    known, overrides = parser.parse_known_args(argv)
    root, run = known.root, Run(known.run, known.root)
    folder = Path(known.run)
    if (folder / "config.yaml").is_file() and not run.config.is_file():
        run = Run(folder.resolve().name, folder.resolve().parent.parent)
    if not run.config.is_file():
        if (run.folder / "study.yaml").is_file():
            raise UserError(
                f"{known.run!r} is a study of many runs; go on with `msngan study {known.run}`"
            )
        names = [each.name for each in all_runs(root)]
        raise UserError(
            f"no run {known.run!r} in {root / 'checkpoints'}{did_you_mean(run.name, names)}"
        )
    for line in plugins.check_recorded(object_or_empty(run.environment), f"run {run.name}"):
        sys.stderr.write(f"{line}\n")
    from msngan.runs.configs import idle, parse, refuse_none_among

    config = parse(["--config", str(run.config), *overrides, "--root", str(run.root)])
    if "model.penalty" in config.asked:
        refuse_none_among(config)
    if problem := idle(config):
        raise UserError(problem)
    from msngan.training.run import resume

    return resume(config, run)
