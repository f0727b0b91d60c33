"""The reader of checkpoints, files that may come from anyone. Three checks, in this order:

1. the archive: a zip file as torch.save writes it, of plain values. torch.load(weights_only=True)
   runs no code, but it unpacks whatever a file claims; a file that passes takes no more memory
   than a small multiple of its own size;
2. the format: a newer one is refused;
3. the schema: known keys, plain values of known kinds, and tensors that hold what they claim, so
   that neither sampling nor Lightning's own loading meets anything that it does not expect.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from msngan.runs.folder import UserError
from msngan.runs.option_values import UnknownName, check_stored, is_number, is_whole, is_word, shown
from msngan.runs.options import SOURCES, group, present_names
from msngan.runs.safe_read import is_regular

CHECKPOINT_FORMAT = 1
# What torch raises for a damaged file, and what a foreign one may cause in this module.
DAMAGED: tuple[type[Exception], ...] = (
    *(RuntimeError, pickle.UnpicklingError, EOFError, zipfile.BadZipFile, ValueError),
    *(TypeError, KeyError, IndexError, AttributeError, AssertionError, OverflowError),
    *(MemoryError, RecursionError, NotImplementedError),
)
FOREIGN = "it is cut, or another program wrote it"


def read_checkpoint(path: Path, *, mapped: bool = True, whole: bool = True) -> dict[str, Any]:
    """A msngan checkpoint as plain data; nothing in it is executed.

    mapped: leave the tensors in the file, which must not change, until they are used. whole: refuse
    what a plain Trainer writes with less, or with more, than training needs. Raises
    UserError for a file that is missing, cut, not a checkpoint, or not written by msngan.
    """
    if not path.exists():
        raise UserError(f"no checkpoint {path}")
    try:
        size = check_archive(path)
        # Mapped, a tensor that claims more than is there has nothing to grow into.
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror or problem}") from problem
    except DAMAGED as problem:
        others = sorted(each.name for each in path.parent.glob("*.ckpt") if each != path)
        more = f"; beside it is {others[0]}" if others else ""
        said = f"{path} is not a readable checkpoint: {_reason(problem)}{more}"
        raise UserError(said) from problem
    about = checkpoint.get("msngan") if isinstance(checkpoint, dict) else None
    found = about.get("format") if isinstance(about, dict) else None
    if type(found) is not int or not 0 < found < 10**6:
        raise UserError(f"{path} is not a msngan checkpoint: it does not state a format")
    if found > CHECKPOINT_FORMAT:
        newest = f"this msngan reads up to {CHECKPOINT_FORMAT}; upgrade msngan"
        raise UserError(f"{path} is of format {found}, {newest}")
    try:
        checkpoint["hyper_parameters"] = present_names(checkpoint["hyper_parameters"], "model")
        check_schema(checkpoint, size, whole)
    except UnknownName as problem:
        raise UserError(f"{path}: {problem}") from problem
    except DAMAGED as problem:
        raise UserError(f"{path} is not a valid checkpoint: {_reason(problem)}") from problem
    return checkpoint if mapped else _owned(checkpoint)


def load_plain(path: Path, map_location: Any = None) -> Any:  # noqa: ANN401  as torch has it
    """What torch.save wrote, of a file that has been checked before; nothing in it is executed."""
    return torch.load(path, map_location=map_location, weights_only=True)


def _reason(problem: BaseException) -> str:
    """The text of our own errors; torch's are about its internals."""
    return str(problem) if type(problem) is ValueError else FOREIGN


def _owned(value: Any) -> Any:  # noqa: ANN401  any plain value
    """A copy in memory of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return type(value)((key, _owned(each)) for key, each in value.items())
    if isinstance(value, list | tuple):
        return type(value)(map(_owned, value))
    return value


# The archive

MOST_MEMBERS = 20_000
MOST_PICKLE = 2**22  # bytes of everything but tensors; a large network's has 2**19
NAME = re.compile(r"data\.pkl|byteorder|version|\.(format_version|storage_alignment)|data/\d{1,9}")
EXTRA = ".data/serialization_id"
# What a checkpoint's pickle is made of: values, containers, tensors.
OPCODES = {
    *("PROTO", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BINPERSID", "REDUCE", "BUILD"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "GLOBAL"),
    *("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("SETITEM", "SETITEMS", "APPEND", "APPENDS", "BINPUT", "LONG_BINPUT", "BINGET"),
    "LONG_BINGET",
}
KINDS = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
GLOBALS = {"collections OrderedDict", "torch._utils _rebuild_tensor_v2"}
GLOBALS.update(map("torch {}Storage".format, KINDS))

END = struct.Struct("<4s4H2LH")  # of a zip file, its last bytes
END_64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")


def check_archive(path: Path) -> int:
    """The size of the file in bytes; ValueError, in words, for what torch.save does not write."""
    if not is_regular(path):
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":
            raise ValueError(FOREIGN)
        _check_index(file)
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            size = file.seek(0, 2)
            pickle = _check_members(members, size)
            if pickle.file_size > MOST_PICKLE:
                raise ValueError(f"its data.pkl has {pickle.file_size:,} bytes")
            _check_pickle(archive.read(pickle))
    return size


def _check_index(file: BinaryIO) -> None:
    """Check the number of members before any is listed, and that there is only one index."""
    size = file.seek(0, 2)
    file.seek(max(0, size - END.size - LOCATOR.size))
    tail = file.read()
    if len(tail) < END.size + LOCATOR.size:
        raise ValueError(FOREIGN)
    mark, _, _, _, count, length, _, comment = END.unpack(tail[LOCATOR.size :])
    if mark != b"PK\5\6" or comment:
        raise ValueError(FOREIGN)
    locator, _, place, _ = LOCATOR.unpack(tail[: LOCATOR.size])
    if locator == b"PK\6\7":
        file.seek(min(place, size))
        found = file.read(END_64.size)
        if len(found) < END_64.size or not found.startswith(b"PK\6\6"):
            raise ValueError("its index is damaged")
        count, length = max(count, END_64.unpack(found)[7]), max(length, END_64.unpack(found)[8])
    if count > MOST_MEMBERS or (length > 512 * MOST_MEMBERS and length != 2**32 - 1):
        raise ValueError(f"its index lists {count:,} members in {length:,} bytes")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> zipfile.ZipInfo:
    """The member that is the pickle; ValueError if any is not as torch writes it."""
    prefix = members[0].filename.partition("/")[0] if members else ""
    by_name = {}
    for member in members:
        start, _, name = member.filename.partition("/")
        if start != prefix or not (NAME.fullmatch(name) or name == EXTRA):
            raise ValueError(f"it holds {member.filename[:80]!r}, which no checkpoint holds")
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise ValueError(f"{name} in it is compressed, which no checkpoint is")
        if member.flag_bits & 0x1:
            raise ValueError(f"{name} in it is encrypted")
        by_name[name] = member
    if len(by_name) < len(members):
        raise ValueError("a member is there twice")
    if "data.pkl" not in by_name:
        raise ValueError(FOREIGN)
    end = 0
    for member in sorted(members, key=lambda each: each.header_offset):
        if member.header_offset < end:
            raise ValueError("members of it overlap")
        end = member.header_offset + 30 + len(member.filename.encode()) + member.file_size
    if end > size:
        raise ValueError(FOREIGN)
    return by_name["data.pkl"]


def _check_pickle(data: bytes) -> None:
    for code, value, _ in pickletools.genops(data):
        if code.name not in OPCODES:
            raise ValueError(f"its pickle uses {code.name}, which no checkpoint does")
        if code.name == "GLOBAL" and value not in GLOBALS:
            name = str(value).replace(" ", ".")[:80]
            raise ValueError(f"it names {name!r}: it is a program, or another one wrote it")


# The schema

MOST_STEPS = 2**53
SHA256 = re.compile(r"[0-9a-f]{64}")
LARGER = "its tensors are larger than the file"
PLAIN_TRAINER = "lightning"  # the run of a file that a Trainer other than `fit`'s has written
LEVELS = 8  # of plain values in each other
KEYS = {
    *("epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "callbacks"),
    *("optimizer_states", "lr_schedulers", "hparams_name", "hyper_parameters", "msngan"),
}
# What every file has stated from the first version on; other options had a default when they came.
NEEDED = {
    "gan": ("generator", "latent_dim", "width", "channels", "size", "ema_decay", "channels_last"),
    "classifier": ("network", "norm", "channels", "size", "classes"),
}
DTYPES = {
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.uint8, torch.bool),
}
# What each optimizer keeps of a parameter. A run goes on with another that keeps the same.
MOMENTS = {
    "adam": {"step", "exp_avg", "exp_avg_sq"},
    "adamw": {"step", "exp_avg", "exp_avg_sq"},
    "rmsprop": {"step", "square_avg"},
    "sgd": {"momentum_buffer"},
}

_COUNTS = dict.fromkeys(("total", "current"), ("ready", "completed"))
_STARTED = dict.fromkeys(_COUNTS, ("ready", "completed", "started"))
_PROCESSED = dict.fromkeys(_COUNTS, ("ready", "completed", "started", "processed"))
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


def check_schema(checkpoint: dict[str, Any], size: int, whole: bool = True) -> None:
    """ValueError, in words, for anything but a checkpoint of this version.

    size: of the file, in bytes; its tensors together are not larger. whole: see `read_checkpoint`.
    """
    about = checkpoint["msngan"]
    if not whole and about.get("run") == PLAIN_TRAINER and checkpoint.keys() != KEYS:
        _check_part(checkpoint, size)
        return
    for key in checkpoint.keys() - KEYS:
        raise ValueError(f"it holds {str(key)[:80]!r}, which this version does not know")
    for key in KEYS - checkpoint.keys():
        raise ValueError(f"it holds no {key}")
    _check_about(checkpoint["msngan"])
    task = checkpoint["msngan"].get("task", "gan")
    check_stored(checkpoint["hyper_parameters"], group(task, "model"), NEEDED[task], "options")
    _check_tensors(checkpoint, size)
    _check_counts(checkpoint["loops"], LOOPS, "loops")
    for key in ("loops", "callbacks", "lr_schedulers", "epoch", "global_step"):
        _check_plain(checkpoint[key], key)
    if not isinstance(checkpoint["callbacks"], dict) or checkpoint["lr_schedulers"] != []:
        raise ValueError("its callbacks or lr_schedulers are not as training writes them")
    version = checkpoint["pytorch-lightning_version"]
    if not is_word(version) or checkpoint["hparams_name"] != "kwargs":
        raise ValueError("it does not state Lightning's version, or how its options are passed")
    step = checkpoint["msngan"]["step"]
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]
    others = checkpoint["global_step"], progress["total"]["completed"]
    if any(other != step for other in others):
        raise ValueError(f"it says step {step} and {' and '.join(map(shown, others))}")


def _check_part(checkpoint: dict[str, Any], size: int) -> None:
    """What sampling needs: ModelCheckpoint(save_weights_only=True) leaves out the rest, and a data
    module or a callback of the user's adds plain values."""
    _check_about(checkpoint["msngan"])
    task = checkpoint["msngan"].get("task", "gan")
    check_stored(checkpoint["hyper_parameters"], group(task, "model"), NEEDED[task], "options")
    _check_state(checkpoint["state_dict"], size)
    for key in checkpoint.keys() - {"msngan", "hyper_parameters", "state_dict", "optimizer_states"}:
        _check_plain(checkpoint[key], str(key))


def _check_about(about: Any) -> None:  # noqa: ANN401  any plain value, as below
    _check_plain(about, "msngan")
    for name in ("version", "run", "task"):
        if not is_word(about.get(name, "gan" if name == "task" else None)):
            raise ValueError(f"{name} in it is {shown(about.get(name))}")
    if about.get("task", "gan") not in SOURCES:
        raise ValueError(f"its task is {about['task']!r}, which this version does not know")
    step = about.get("step")
    if not is_whole(step) or not 0 <= step <= MOST_STEPS:
        raise ValueError(f"step in it is {shown(step)}, not a number of steps")
    images = about.get("images_sha256")
    if images is not None and not (is_word(images) and SHA256.fullmatch(images)):
        raise ValueError(f"images_sha256 in it is {shown(images)}")
    check_data(about.get("data"))


def check_data(data: Any) -> None:
    """ValueError for a description of images that training did not write."""
    known = group("gan", "data") | group("classifier", "data")  # the latter takes more sizes
    check_stored(data, known, ("dataset", "root", "split", "size", "channels"), "data")


def _check_tensors(checkpoint: dict[str, Any], size: int) -> None:
    optimizers = checkpoint["optimizer_states"]
    room = _check_state(checkpoint["state_dict"], size)
    expected = 2 if checkpoint["msngan"].get("task", "gan") == "gan" else 1
    if not isinstance(optimizers, list) or len(optimizers) != expected:
        raise ValueError(f"it does not hold {expected} optimizer_states")
    kept = MOMENTS[checkpoint["hyper_parameters"].get("optimizer", "adam")]
    for optimizer in optimizers:
        room -= _check_optimizer(optimizer, kept)
    if room < 0:
        raise ValueError(LARGER)


def _check_state(state: Any, size: int) -> int:  # noqa: ANN401
    """The bytes of the file that a state_dict leaves to other tensors."""
    if not isinstance(state, dict) or not state:
        raise ValueError("its state_dict is not a mapping of tensors")
    for name, value in state.items():
        if not is_word(name):
            raise ValueError(f"its state_dict has the key {shown(name)}")
        size -= check_tensor(value, name)
    if size < 0:
        raise ValueError(LARGER)
    return size


def check_tensor(value: Any, name: str) -> int:  # noqa: ANN401
    """The bytes of a plain tensor; ValueError for any other, and for one of more than it has."""
    if type(value) is not Tensor or value.layout != torch.strided or value.device.type != "cpu":
        tensor = isinstance(value, Tensor)
        kind = f"a {value.layout} tensor on {value.device}" if tensor else shown(value)
        raise ValueError(f"{name[:80]} in it is {kind}, not a plain tensor")
    if value.is_quantized or value.dtype not in DTYPES:
        raise ValueError(f"{name[:80]} in it is a tensor of {value.dtype}")
    held = value.numel() * value.itemsize
    dense = torch.ops.aten.is_non_overlapping_and_dense.default(value)
    if held > value.untyped_storage().nbytes() or not dense:
        shape = "x".join(map(str, value.shape[:8]))
        raise ValueError(f"{name[:80]} in it claims the shape {shape} over fewer values")
    return held


def _check_optimizer(optimizer: Any, kept: set[str]) -> int:  # noqa: ANN401
    """The bytes of one optimizer's tensors. kept: the names of those of a parameter."""
    if not isinstance(optimizer, dict) or set(optimizer) != {"state", "param_groups"}:
        raise ValueError("an optimizer in it does not have state and param_groups")
    state, groups = optimizer["state"], optimizer["param_groups"]
    if not isinstance(state, dict) or not isinstance(groups, list):
        raise ValueError("an optimizer in it has no state, or no groups")
    _check_plain(groups, "param_groups")
    held = 0
    for index, moments in state.items():
        if not is_whole(index) or not isinstance(moments, dict) or set(moments) != kept:
            raise ValueError(
                f"parameter {shown(index)} of an optimizer in it does not have"
                f" {', '.join(sorted(kept))}"
            )
        for name, value in moments.items():
            held += check_tensor(value, f"{name} of an optimizer")
        steps = moments.get("step", torch.zeros(()))
        if steps.shape != () or not 0 <= float(steps) <= MOST_STEPS:
            raise ValueError("the steps of an optimizer in it are not a number of steps")
    return held


def _check_counts(found: Any, expected: Any, place: str) -> None:  # noqa: ANN401
    """`found` holds all that `expected` names, nested alike; the names in a tuple are of counts."""
    if expected is None:
        return
    if not isinstance(found, dict):
        raise ValueError(f"{place} in it is {shown(found)}")
    for name in expected:
        if name not in found:
            raise ValueError(f"{place} in it has no {name}")
        if isinstance(expected, dict):
            _check_counts(found[name], expected[name], name)
        elif not is_whole(found[name]) or not 0 <= found[name] <= MOST_STEPS:
            raise ValueError(f"{name} of {place} in it is {shown(found[name])}")


def _check_plain(value: Any, name: str, level: int = 0) -> None:  # noqa: ANN401
    if level > LEVELS:
        raise ValueError(f"{name[:80]} in it nests too deep")
    if isinstance(value, dict):
        for key, each in value.items():
            if not (is_word(key) or is_whole(key)):
                raise ValueError(f"{name[:80]} in it has the key {shown(key)}")
            _check_plain(each, str(key), level + 1)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_plain(each, name, level + 1)
    elif isinstance(value, Tensor):  # in the state of a callback of Lightning's
        check_tensor(value, name)
    elif not (value is None or type(value) is bool or type(value) is str or is_number(value)):
        infinite = type(value) is float and not math.isfinite(value)
        raise ValueError(f"{name[:80]} in it is {value if infinite else shown(value)}")
