"""What a checkpoint of ours holds, to the last key: a file that may come from anyone is held to it.

What passes is plain values of known kinds and tensors that hold what they claim, so that neither
sampling nor Lightning's own loading meets anything that it does not expect.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from msngan.runs.stored_options import (
    DATA,
    NEEDED,
    OPTIONS,
    check_kinds,
    number,
    shown,
    whole,
    word,
)

MOST_STEPS = 2**53
LEVELS = 8  # of plain values in each other
KEYS = (
    *("epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks"),
    *("optimizer_states", "lr_schedulers", "hparams_name", "hyper_parameters", "msngan"),
)
DTYPES = {
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
}
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # Adam's, of each parameter

_COUNTS = {"total": ("ready", "completed"), "current": ("ready", "completed")}
_STARTED = {name: (*keys, "started") for name, keys in _COUNTS.items()}
_PROCESSED = {name: (*keys, "processed") for name, keys in _STARTED.items()}
_BATCHES = {**_PROCESSED, "is_last_batch": None}
# Lightning reads these without looking whether they are there. None: any plain value.
LOOPS: dict[str, Any] = {
    "fit_loop": {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": None},
        "epoch_loop.batch_progress": _BATCHES,
        "epoch_loop.scheduler_progress": _COUNTS,
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {"step": _COUNTS, "zero_grad": _STARTED}
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": _COUNTS,
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": _BATCHES,
        "epoch_progress": _PROCESSED,
    },
    "validate_loop": {"state_dict": {}, "batch_progress": _BATCHES},
    "test_loop": {"state_dict": {}, "batch_progress": _BATCHES},
    "predict_loop": {"state_dict": {}, "batch_progress": _PROCESSED},
}


def check_schema(checkpoint: dict[str, Any], size: int) -> None:
    """ValueError, in words, for what is no checkpoint of this version.

    size: of the file, in bytes; its tensors together are not larger.
    """
    for key in checkpoint:
        if key not in KEYS:
            raise ValueError(f"it holds {str(key)[:80]!r}, which this version does not know")
    for key in KEYS:
        if key not in checkpoint:
            raise ValueError(f"it holds no {key}")
    _check_about(checkpoint["msngan"])
    task = checkpoint["msngan"].get("task", "gan")
    check_kinds(checkpoint["hyper_parameters"], OPTIONS[task], NEEDED[task], "options")
    _check_tensors(checkpoint, size)
    if not isinstance(checkpoint["loops"], dict):
        raise ValueError("its loops are no mapping")
    _check_counts(checkpoint["loops"], LOOPS, "loops")
    for key in ("loops", "callbacks", "lr_schedulers", "epoch", "global_step"):
        _check_plain(checkpoint[key], key)
    if not isinstance(checkpoint["callbacks"], dict) or checkpoint["lr_schedulers"] != []:
        raise ValueError("its callbacks or lr_schedulers are not as training writes them")
    if not word(checkpoint["pytorch-lightning_version"]) or checkpoint["hparams_name"] != "kwargs":
        raise ValueError("it does not say Lightning's version, or how its options are passed")
    _check_step(checkpoint)


def _check_about(about: Any) -> None:  # noqa: ANN401  any plain value, as below
    _check_plain(about, "msngan")
    for name in ("version", "run", "task"):
        if not word(about.get(name, "gan" if name == "task" else None)):
            raise ValueError(f"{name} in it is {shown(about.get(name))}")
    if about.get("task", "gan") not in OPTIONS:
        raise ValueError(f"it is of a task {about['task']!r}, which this version does not know")
    step = about.get("step")
    if not whole(step) or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"step in it is {shown(step)}, no number of steps")
    check_kinds(about.get("data"), DATA, NEEDED["data"], "data")


def _check_step(checkpoint: dict[str, Any]) -> None:
    """One number of steps, in the three places where it is read."""
    step, progress = checkpoint["msngan"]["step"], checkpoint["loops"]["fit_loop"]
    progress = progress["epoch_loop.manual_optimization.optim_step_progress"]
    others = checkpoint["global_step"], progress["total"]["completed"]
    if any(other != step for other in others):
        raise ValueError(f"it says step {step} and {' and '.join(map(shown, others))}")


def _check_tensors(checkpoint: dict[str, Any], size: int) -> None:
    state, optimizers = checkpoint["state_dict"], checkpoint["optimizer_states"]
    if not isinstance(state, dict) or not state:
        raise ValueError("its state_dict is no mapping of tensors")
    room = size
    for name, value in state.items():
        if not word(name):
            raise ValueError(f"its state_dict has the key {shown(name)}")
        room -= check_tensor(value, name)
    expected = 2 if checkpoint["msngan"].get("task", "gan") == "gan" else 1
    if not isinstance(optimizers, list) or len(optimizers) != expected:
        raise ValueError(f"its optimizer_states are not {expected}")
    for optimizer in optimizers:
        room -= _check_optimizer(optimizer)
    if room < 0:
        raise ValueError("its tensors are larger than the file")


def check_tensor(value: Any, name: str) -> int:  # noqa: ANN401
    """The bytes of a plain tensor; ValueError for any other, and for one of more than it has."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        raise ValueError(f"{name[:80]} in it is {_kind(value)}, no plain tensor")
    if value.is_quantized or value.dtype not in DTYPES:
        raise ValueError(f"{name[:80]} in it is a tensor of {value.dtype}")
    held = value.numel() * value.itemsize
    dense = torch.ops.aten.is_non_overlapping_and_dense.default(value)
    if held > value.untyped_storage().nbytes() or not dense:
        raise ValueError(f"{name[:80]} in it claims the shape {_shape(value)} over fewer values")
    return held


def _kind(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, Tensor):
        return f"a {value.layout} tensor on {value.device}"
    return shown(value)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape[:8]))


def _check_optimizer(optimizer: Any) -> int:  # noqa: ANN401
    """The bytes of one optimizer's tensors."""
    if not isinstance(optimizer, dict) or set(optimizer) != {"state", "param_groups"}:
        raise ValueError("an optimizer in it has not state and param_groups")
    state, groups = optimizer["state"], optimizer["param_groups"]
    if not isinstance(state, dict) or not isinstance(groups, list):
        raise ValueError("an optimizer in it has no state, or no groups")
    _check_plain(groups, "param_groups")
    held = 0
    for index, moments in state.items():
        if not whole(index) or not isinstance(moments, dict) or set(moments) != set(MOMENTS):
            raise ValueError(f"parameter {shown(index)} of an optimizer in it is not as Adam's")
        for name, value in moments.items():
            held += check_tensor(value, f"{name} of an optimizer")
        steps = moments["step"]
        if steps.shape != () or not 0 <= float(steps) <= MOST_STEPS:
            raise ValueError("the steps of an optimizer in it are no number of steps")
    return held


def _check_counts(found: Any, expected: Any, place: str) -> None:  # noqa: ANN401
    """found: holds all that `expected` names, nested alike; the words of a tuple are counts."""
    if expected is None:
        return
    if not isinstance(found, dict):
        raise ValueError(f"{place} in it is {shown(found)}")
    for name in expected:
        if name not in found:
            raise ValueError(f"{place} in it has no {name}")
        if isinstance(expected, dict):
            _check_counts(found[name], expected[name], name)
        elif not whole(found[name]) or not 0 <= found[name] <= MOST_STEPS:
            raise ValueError(f"{name} of {place} in it is {shown(found[name])}")


def _check_plain(value: Any, name: str, level: int = 0) -> None:  # noqa: ANN401
    if level > LEVELS:
        raise ValueError(f"{name[:80]} in it nests too deep")
    if isinstance(value, dict):
        for key, each in value.items():
            if not (word(key) or whole(key)):
                raise ValueError(f"{name[:80]} in it has the key {shown(key)}")
            _check_plain(each, str(key), level + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_plain(each, name, level + 1)
    elif not (value is None or type(value) is bool or type(value) is str or number(value)):
        infinite = type(value) is float and not math.isfinite(value)
        raise ValueError(f"{name[:80]} in it is {value if infinite else shown(value)}")
