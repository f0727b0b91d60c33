"""Generators read from checkpoints and from exported files, and the writing of the latter.

A safetensors file holds weights and text only, so it cannot hold a program. The other formats are
in `generator_programs`.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msngan import __version__
from msngan.networks.build import build_generator
from msngan.networks.generator_programs import (
    PROGRAMS,
    check_images,
    images_apart,
    write_program,
)
from msngan.networks.standing import with_standing_statistics
from msngan.runs import rng
from msngan.runs.atomic import replacing
from msngan.runs.checkpoint_files import (
    MOST_STEPS,
    NEEDED,
    check_data,
    check_tensor,
    read_checkpoint,
)
from msngan.runs.folder import UserError, find_checkpoint
from msngan.runs.option_values import UnknownName, check_stored, is_word, shown
from msngan.runs.options import MODULE, group, named, present_names
from msngan.runs.safe_read import read_json, read_tensors, tensors_to_bytes

FORMAT = "msngan-generator-1"
ENDING = ".safetensors"
WEIGHTS = ("ema", "raw")
OF_PROGRAMS = ("latent_dim", "channels", "size")  # options; the others may need a plug-in
LABELS = ("conditional", "classes")  # likewise, where a file has them
FIELDS = ("format", "version", "run", "step", "weights", "options", "data")


def export(
    target: str | Path,
    out: str | Path,
    *,
    ema: bool | None = None,
    root: str | Path = ".",
    generator: nn.Module | None = None,
    half: bool = False,
) -> None:
    """Write the generator of a run, a checkpoint or a safetensors file as a file of its own.

    out: its ending is the format: .safetensors, .onnx, or .pt for TorchScript. half: round the
    weights to float16, in safetensors; `load_generator` gives float32 again. The others are those
    of `load_generator`. UserError also for a generator that the format cannot hold.
    """
    path, _ = find_checkpoint(str(target), Path(root))
    write_generator(*read_generator(path, ema, generator), Path(out), half=half)


def write_generator(
    generator: nn.Module, saved: Mapping[str, Any], out: Path, *, half: bool = False
) -> tuple[str, float]:
    """Write a generator and the facts about it, as `read_generator` gives them.

    Returns the file's sha256, and by how much its images differ from the generator's at most. The
    same checkpoint gives the same bytes, but for the names of classes in TorchScript.
    """
    options, about = saved["hyper_parameters"], saved["msngan"]
    if "generator" not in options:
        raise UserError(
            "an ONNX or TorchScript file cannot be exported again; export the run that it is of"
        )
    if out.suffix not in (ENDING, *PROGRAMS):
        raise UserError(f"{out} must end in {ENDING}, {' or '.join(PROGRAMS)}")
    if half and out.suffix != ENDING:
        raise UserError(f"half is for {ENDING} files, and {out} is none; leave it out")
    metadata = {
        "format": FORMAT,
        "version": __version__,
        "run": about["run"],
        "step": str(about["step"]),
        "weights": saved["weights"],
        "options": json.dumps(options, sort_keys=True, allow_nan=False),
        "data": json.dumps(about["data"] | {"root": None}, sort_keys=True, allow_nan=False),
    }
    difference = 0.0
    with replacing(out) as temporary:
        if out.suffix in PROGRAMS:
            difference = write_program(PROGRAMS[out.suffix], generator, metadata, temporary)
        else:
            state = {name: value.contiguous() for name, value in generator.state_dict().items()}
            if half:
                state = {name: _in_half(value, name) for name, value in state.items()}
                rounded = copy.deepcopy(generator)
                rounded.load_state_dict(state)
                difference = images_apart(generator, rounded)
            temporary.write_bytes(tensors_to_bytes(state, metadata))
        return hashlib.sha256(temporary.read_bytes()).hexdigest(), difference


def read_generator(
    path: Path, ema: bool | None = None, generator: nn.Module | None = None
) -> tuple[nn.Module, dict[str, Any]]:
    """A generator, in eval mode, from a checkpoint or an exported file, and the facts about it.

    ema: the moving average or not; None: the moving average if there is one. The facts have
    `msngan` (step, run, data), `hyper_parameters` and `weights` ("ema" or "raw"). UserError for a
    file that is neither, or lacks the weights.
    """
    if path.suffix == ENDING or path.suffix in PROGRAMS:
        return _read_exported(path, ema, generator)
    checkpoint = read_checkpoint(path, whole=False)
    task = checkpoint["msngan"].get("task", "gan")
    if task != "gan":
        raise UserError(
            f"{path} is of a {task}, which has no samples and no FID; `msngan report` shows its"
            " accuracy"
        )
    ema = checkpoint["hyper_parameters"]["ema_decay"] > 0 if ema is None else ema
    prefix = "ema." if ema else "generator."
    state = checkpoint["state_dict"].items()
    weights = {key.removeprefix(prefix): x for key, x in state if key.startswith(prefix)}
    if not weights:
        raise UserError(f"{path} holds no moving average (its ema_decay was 0); use --raw")
    generator = _build(checkpoint["hyper_parameters"], weights, path, generator)
    return generator, {**checkpoint, "weights": "ema" if ema else "raw"}


def load_generator(
    target: str | Path,
    *,
    ema: bool | None = None,
    root: str | Path = ".",
    generator: nn.Module | None = None,
    standing: int = 0,
    truncation: float | None = None,
) -> nn.Module:
    """The generator of a run, a checkpoint or an exported file, in eval mode, on the CPU.

    One from an ONNX file is computed by onnxruntime and has no gradients. One from a TorchScript
    file is a program, which runs with your rights: load only files that you trust.

    It maps z (N, latent_dim) ~ N(0, 1) to images (N, C, H, W) in [-1, 1]; `generator.latent_dim`
    says how long z is. A conditional one is called with labels too, generator(z, labels), int64
    (N,) from 0 to `generator.classes` - 1.

    target: a run's name or folder, or a file. ema: the moving average or not; None: the moving
    average if there is one. root: folder that holds checkpoints/. generator: a module to load the
    weights into, for a GAN that was given a module. standing: compute its batch-norm statistics
    anew from this many batches, of latents with this truncation, see `with_standing_statistics`;
    0: those of training. UserError if there is no such run or file, or if it does not have the
    weights.
    """
    path, _ = find_checkpoint(str(target), Path(root))
    found = read_generator(path, ema, generator)[0]
    if not standing:
        return found
    with named(f"load_generator(standing={standing})"):
        return with_standing_statistics(found, standing, truncation=truncation)


def _in_half(value: Tensor, name: str) -> Tensor:
    """A weight as float16. Vectors, such as running statistics, are float32: they are small."""
    if not value.is_floating_point():
        return value
    rounded = value.half() if value.ndim > 1 else value.float()
    if not rounded.isfinite().all():
        raise UserError(f"{name} of the generator has values that float16 cannot hold")
    return rounded


def _read_exported(
    path: Path, ema: bool | None, generator: nn.Module | None
) -> tuple[nn.Module, dict[str, Any]]:
    if not path.exists():
        raise UserError(f"no exported generator {path}")
    content: nn.Module | dict[str, Tensor]
    try:
        if path.suffix in PROGRAMS:
            metadata, load = PROGRAMS[path.suffix].read(path)
            facts = _facts(metadata, OF_PROGRAMS)
            content = load()
            options = facts["hyper_parameters"]
            classes = options["classes"] if options.get("conditional") else 0
            check_images(content, options["latent_dim"], classes)
        else:
            metadata, content = read_tensors(path)
            facts = _facts(metadata)
            for name, value in content.items():
                check_tensor(value, name)
                if value.dtype == torch.float16:
                    content[name] = value.float()
            if not content:
                raise ValueError("it holds no tensors")
    except UserError:
        raise
    except UnknownName as problem:
        raise UserError(f"{path}: {problem}") from problem
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as problem:
        raise UserError(
            f"{path} is damaged, or was not written by `msngan export`:"
            f" {str(problem).splitlines()[0]}"
        ) from problem
    wanted = facts["weights"] if ema is None else WEIGHTS[not ema]
    if facts["weights"] != wanted:
        other = (
            "the moving average; leave out --raw" if wanted == "raw" else "raw weights; use --raw"
        )
        raise UserError(f"{path} holds {other}")
    if isinstance(content, nn.Module):
        return content, facts
    return _build(facts["hyper_parameters"], content, path, generator), facts


def _facts(metadata: dict[str, str], only: tuple[str, ...] = ()) -> dict[str, Any]:
    """The facts in the metadata, in the form of a checkpoint. only: options, if not all."""
    if missing := [name for name in FIELDS if name not in metadata]:
        raise ValueError(f"it does not say {', '.join(missing)}")
    if metadata["format"] != FORMAT:
        raise ValueError(f"its format is {shown(metadata['format'])}, this msngan reads {FORMAT}")
    step = metadata["step"]
    if not (step.isascii() and step.isdigit() and len(step) < 17 and int(step) <= MOST_STEPS):
        raise ValueError(f"its step is {shown(step)}")
    if metadata["weights"] not in WEIGHTS or not is_word(metadata["run"]):
        raise ValueError(f"its weights are {shown(metadata['weights'])}")
    options, data = (read_json(metadata[name]) for name in ("options", "data"))
    options = present_names(options, "model")
    if only and isinstance(options, dict):
        options = {name: options[name] for name in (*only, *LABELS) if name in options}
    check_stored(options, group("gan", "model"), only or NEEDED["gan"], "options")
    check_data(data)
    about = {"step": int(step), "run": metadata["run"], "task": "gan", "data": data}
    return {"msngan": about, "hyper_parameters": options, "weights": metadata["weights"]}


def _build(
    options: dict[str, Any],
    weights: dict[str, Tensor],
    path: Path,
    generator: nn.Module | None = None,
) -> nn.Module:
    """The generator of these options with these weights, in eval mode.

    UserError if they do not fit. The check builds nothing: options may claim a network that is
    larger than the memory.
    """
    if generator is not None:
        options = options | {"generator": generator}
    elif options["generator"] == MODULE:
        raise UserError(
            f"{path} is of a GAN that was given its generator as a module; give it again:"
            " load_generator(path, generator=module)"
        )
    with rng.untouched(), named(str(path)):
        if generator is None:
            _check_shapes(lambda: build_generator(options), weights, path)
        generator = build_generator(options)
        _check_shapes(lambda: generator, weights, path)
    generator.to(next(iter(weights.values())).dtype)
    generator.load_state_dict(weights)
    if options.get("channels_last"):  # as in training: faster, and the same bits
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return generator.eval()


def _check_shapes(make: Callable[[], nn.Module], weights: dict[str, Tensor], path: Path) -> None:
    """UserError if the generator that `make` builds does not have the tensors in `weights`."""
    try:
        with torch.device("meta"):
            claimed = make().state_dict()
    except (ValueError, RuntimeError, TypeError, OverflowError) as problem:
        raise UserError(f"{path}: its options make no generator") from problem
    for name in [*claimed, *weights]:
        if name not in weights or name not in claimed:
            where = "options" if name in claimed else "file"
            raise UserError(f"{path}: {name[:80]} of the generator is in its {where} only")
        if claimed[name].shape != weights[name].shape:
            has, says = (tuple(x[name].shape) for x in (weights, claimed))
            raise UserError(f"{path}: {name} of the generator is {has}, its options say {says}")
        if claimed[name].is_floating_point() != weights[name].is_floating_point():
            raise UserError(f"{path}: {name} of the generator is of {weights[name].dtype}")
