"""msngan evaluate: score runs or checkpoints under a named protocol."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msngan import checks
from msngan.commands.parser import Parser
from msngan.metrics.protocol import PRESETS
from msngan.runs import UserError, append_line, find_checkpoint, score_line

if TYPE_CHECKING:
    import argparse


def main(argv: list[str]) -> int:
    options = _parse(argv)
    found = [find_checkpoint(target, Path(options.root)) for target in options.targets]
    rows = [_evaluate(options, path, run) for path, run in found]
    if options.format == "json":
        print(json.dumps(rows, indent=2))
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="msngan evaluate", description="Score runs or checkpoints.")
    parser.add_argument("targets", nargs="+", help="names or folders of runs, or checkpoint files")
    parser.add_argument("--protocol", choices=list(PRESETS), default="paper")
    parser.add_argument("--extractor", default="auto", help="auto, embedded, inception or a file")
    parser.add_argument("--inception-weights", help="file of the official weights")
    parser.add_argument("--runs", type=int, help="instead of the protocol's")
    parser.add_argument("--samples", type=int, help="of a run, instead of the protocol's")
    parser.add_argument("--seed", type=int, default=0, help="of the first run's samples")
    parser.add_argument("--data-root", help="folder of the real images, if it has moved")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all")
    parser.add_argument("--root", default=".", help="folder that holds checkpoints/ and samples/")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    weights = parser.add_mutually_exclusive_group()
    weights.add_argument("--ema", dest="ema", action="store_true", default=None)
    weights.add_argument("--raw", dest="ema", action="store_false", help="not the moving average")
    options = parser.parse_args(argv)
    for name, least in (("runs", 1), ("samples", 2), ("seed", 0), ("threads", 0)):
        checks.at_least(f"--{name}", getattr(options, name), least)
    return options


def _evaluate(options: argparse.Namespace, path: Path, run: Any) -> dict[str, Any]:
    import torch

    from msngan.data import ImageData
    from msngan.models import load_generator, read_checkpoint
    from msngan.scoring import Scorer

    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        device = torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as problem:
        raise UserError(f"--device {options.device} is not to be had here; use cpu") from problem
    saved = read_checkpoint(path)
    ema = saved["hyper_parameters"]["ema_decay"] > 0 if options.ema is None else options.ema
    generator, checkpoint = load_generator(path, ema)
    described = dict(checkpoint["msngan"]["data"])
    if options.data_root:
        described["root"] = options.data_root
    described |= {"channels": saved["hyper_parameters"]["channels"]}
    described |= {"size": saved["hyper_parameters"]["size"]}
    scorer = Scorer(
        ImageData(**described),
        extractor=options.extractor,
        protocol=options.protocol,
        device=device,
        inception_weights=options.inception_weights,
        runs=options.runs,
        samples=options.samples,
        seed=options.seed,
    )
    print(scorer.announcement, file=sys.stderr)
    with _bar(path.name) as progress:
        scored = scorer.score(generator.to(device), progress)
    step = int(checkpoint["msngan"]["step"])
    name = run.name if run else path.stem
    line = score_line(name, step, "ema" if ema else "raw", "evaluate", scored.line)
    if run:
        append_line(run.scores, line)
    if options.format == "table":
        print(f"{name} step {step}: {scored.text}")
        for key, floor in scored.line["floors"].items():
            print(f"  {key} of real data: {floor['mean']:.4g} ({floor['kind']})")
    return line


@contextmanager
def _bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar of images done, on a terminal's stderr; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
