"""msngan export: write a run's generator as a safetensors file, which contains no code."""

from __future__ import annotations

from pathlib import Path

from msngan.commands.parser import Parser, add_root, add_weights
from msngan.runs.folder import UserError, find_checkpoint

ENDING = ".safetensors"


def main(argv: list[str]) -> int:
    parser = Parser(
        prog="msngan export",
        description="Write a generator and its options as a safetensors file, which contains no"
        " code; `msngan sample` and `msngan evaluate` read it.",
    )
    parser.add_argument("target", help="a run's name or folder, or a checkpoint file")
    add_root(parser)
    parser.add_argument("--format", choices=("safetensors",), default="safetensors")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"default: ./NAME-STEP{ENDING}")
    add_weights(parser, "write")
    options = parser.parse_args(argv)
    if options.out and options.out.suffix != ENDING:
        raise UserError(f"--out {options.out} must end in {ENDING}, by which commands know it")
    path, run = find_checkpoint(options.target, options.root)
    from msngan.networks.generator_files import export
    from msngan.runs.checkpoint_files import read_checkpoint

    step = read_checkpoint(path)["msngan"]["step"]
    name = run.name if run else path.stem
    out = options.out or Path(f"{name}-{step:08d}{ENDING}")
    if out.exists():
        raise UserError(f"{out} exists; choose another --out, or remove it")
    try:
        kind, sha256 = export(path, out, options.ema)
    except OSError as problem:
        raise UserError(f"cannot write {out}: {problem.strerror}") from problem
    average = "moving average" if kind == "ema" else "raw weights"
    print(f"{out}\n  {average} at step {step}, {out.stat().st_size:,} bytes\n  sha256 {sha256}")
    return 0
