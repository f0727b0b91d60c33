"""Generators as safetensors files: weights and words, in which nothing can be a program."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from msngan import __version__
from msngan.networks.stored import (
    build_generator,
    check_gan,
    generator_state,
    load_generator,
)
from msngan.runs.atomic import replacing
from msngan.runs.checkpoint_files import (
    MOST_STEPS,
    NEEDED,
    check_data,
    check_tensor,
    read_checkpoint,
)
from msngan.runs.folder import UserError
from msngan.runs.option_values import check_stored, is_word, shown
from msngan.runs.options import group, present_names
from msngan.runs.safe_read import read_json, read_tensors, tensors_to_bytes

FORMAT = "msngan-generator-1"
ENDING = ".safetensors"
WEIGHTS = ("ema", "raw")
FIELDS = ("format", "version", "run", "step", "weights", "options", "data")


def export(checkpoint: Path, out: Path, ema: bool | None = None) -> tuple[str, str]:
    """Write the generator in `checkpoint` to `out`; the weights it has, and the file's sha256.

    ema: the moving average; None: where the run kept one. The same checkpoint gives the same bytes.
    """
    saved = read_checkpoint(checkpoint)
    if saved["msngan"].get("task", "gan") != "gan":
        raise UserError(f"{checkpoint} is of a classifier; only generators are exported")
    options, about = saved["hyper_parameters"], saved["msngan"]
    ema = options["ema_decay"] > 0 if ema is None else ema
    load_generator(checkpoint, ema)  # refuses what is not whole
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "run": about["run"],
        "step": str(about["step"]),
        "weights": "ema" if ema else "raw",
        "options": json.dumps(options, sort_keys=True, allow_nan=False),
        "data": json.dumps(about["data"] | {"root": None}, sort_keys=True, allow_nan=False),
    }
    state = {name: value.contiguous() for name, value in generator_state(saved, ema).items()}
    data = tensors_to_bytes(state, metadata)
    with replacing(out) as temporary:
        temporary.write_bytes(data)
    return metadata["weights"], hashlib.sha256(data).hexdigest()


def read_generator(path: Path, ema: bool | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """A generator, in eval mode, from a checkpoint or an exported file, and what is said of it.

    ema: the moving average or not; None: the moving average where there is one. The second value
    has `msngan` (step, run, data), `hyper_parameters` and `weights` (ema or raw). UserError for a
    file that is neither, or lacks the weights.
    """
    if path.suffix == ENDING:
        return _read_exported(path, ema)
    checkpoint = read_checkpoint(path)
    check_gan(checkpoint, path)
    ema = checkpoint["hyper_parameters"]["ema_decay"] > 0 if ema is None else ema
    generator, _ = load_generator(path, ema)
    return generator, {**checkpoint, "weights": "ema" if ema else "raw"}


def _read_exported(path: Path, ema: bool | None) -> tuple[nn.Module, dict[str, Any]]:
    if not path.exists():
        raise UserError(f"no exported generator {path}")
    try:
        metadata, state = read_tensors(path)
        facts = _facts(metadata)
        for name, value in state.items():
            check_tensor(value, name)
        if not state:
            raise ValueError("it holds no tensors")
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as problem:
        raise UserError(
            f"{path} is no generator that `msngan export` wrote: {str(problem).splitlines()[0]}"
        ) from problem
    wanted = facts["weights"] if ema is None else WEIGHTS[not ema]
    if facts["weights"] != wanted:
        other = (
            "the moving average; leave out --raw" if wanted == "raw" else "raw weights; use --raw"
        )
        raise UserError(f"{path} holds {other}")
    return build_generator(facts["hyper_parameters"], state, path), facts


def _facts(metadata: dict[str, str]) -> dict[str, Any]:
    """What the metadata say, as in a checkpoint."""
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"its format is {shown(metadata.get('format'))}, this msngan reads {FORMAT}"
        )
    if missing := [name for name in FIELDS if name not in metadata]:
        raise ValueError(f"it does not say {', '.join(missing)}")
    step = metadata["step"]
    if not (step.isascii() and step.isdigit() and len(step) < 17 and int(step) <= MOST_STEPS):
        raise ValueError(f"its step is {shown(step)}")
    if metadata["weights"] not in WEIGHTS or not is_word(metadata["run"]):
        raise ValueError(f"its weights are {shown(metadata['weights'])}")
    options, data = (read_json(metadata[name]) for name in ("options", "data"))
    options = present_names(options, "model")
    check_stored(options, group("gan", "model"), NEEDED["gan"], "options")
    check_data(data)
    about = {"step": int(step), "run": metadata["run"], "task": "gan", "data": data}
    return {"msngan": about, "hyper_parameters": options, "weights": metadata["weights"]}
