"""msngan export: write a run's generator as a safetensors, ONNX or TorchScript file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msngan.commands.parser import Parser, add_out, add_root, add_weights, option
from msngan.runs.atomic import replacing, write_json
from msngan.runs.folder import UserError, find_checkpoint

ENDINGS = {"safetensors": ".safetensors", "onnx": ".onnx", "torchscript": ".pt"}
DESCRIPTION = """\
Write a generator as a file of its own, with the run, step and options that it comes from. A
safetensors file holds weights and no code. An ONNX file runs under onnxruntime, and a TorchScript
file under torch.jit.load, without msngan: both map z (N, latent_dim) to images (N, C, H, W) in
[-1, 1] for any N. `msngan sample` and `msngan evaluate` read all three."""


def main(argv: list[str]) -> int:
    parser = Parser(prog="msngan export", description=DESCRIPTION)
    option(parser, "target", "a run's name or folder, a checkpoint, or a safetensors file")
    add_root(parser)
    text = "format of the file; default: that of --out, else safetensors"
    option(parser, "--format", text, choices=tuple(ENDINGS))
    endings = ", ".join(ENDINGS.values())
    text = f"it ends in {endings}; default: ./NAME-STEP and the format's ending"
    add_out(parser, "--out FILE", text)
    text = "write a card beside the file: what it was trained on, its scores, its limits (of a run)"
    parser.add_argument("--card", action="store_true", help=text)
    text = "round the weights to 16 bits: half as large a file (safetensors)"
    parser.add_argument("--half", action="store_true", help=text)
    add_weights(parser, "write")
    options = parser.parse_args(argv)
    ending = ENDINGS[options.format or "safetensors"]
    if options.out:
        if options.format is None and options.out.suffix in ENDINGS.values():
            ending = options.out.suffix
        if options.out.suffix != ending:
            allowed = endings if options.format is None else ending
            raise UserError(f"--out {options.out} must end in {allowed}, by which commands know it")
    path, run = find_checkpoint(options.target, options.root)
    from msngan.networks.generator_files import read_generator, write_generator

    generator, saved = read_generator(path, options.ema)
    step = saved["msngan"]["step"]
    name = run.name if run else path.stem
    out = options.out or Path(f"{name}-{step:08d}{ending}")
    cards = [out.with_suffix(ending) for ending in (".md", ".json")] if options.card else []
    if options.card and run is None:
        raise UserError(f"--card: {path} belongs to no run here; name a run for a card")
    for each in (out, *cards):
        if each.exists():
            raise UserError(f"{each} exists; choose another --out, or remove it")
    facts = None
    if run is not None and cards:  # before anything is written, as it can fail
        from msngan.report.generator_card import facts_of

        facts = facts_of(run, saved, sum(p.numel() for p in generator.parameters()))
    try:
        sha256, difference = write_generator(generator, saved, out, half=options.half)
        if facts is not None:
            facts |= {"half": difference} if options.half else {}
            _write_card(facts, out, sha256)
    except OSError as problem:
        raise UserError(f"cannot write {out}: {problem.strerror}") from problem
    average = "moving average" if saved["weights"] == "ema" else "raw weights"
    print(f"{out}\n  {average} at step {step}, {out.stat().st_size:,} bytes\n  sha256 {sha256}")
    if options.half or ending != ENDINGS["safetensors"]:
        print(f"  checked: its images are within {difference:.1g} of the generator's, in [-1, 1]")
    for each in cards:
        print(each)
    return 0


def _write_card(facts: dict[str, Any], out: Path, sha256: str) -> None:
    from msngan.report.generator_card import card

    facts = {"file": out.name, "sha256": sha256, "bytes": out.stat().st_size, **facts}
    write_json(out.with_suffix(".json"), facts)
    with replacing(out.with_suffix(".md")) as temporary:
        temporary.write_text(card(facts), encoding="utf-8")
