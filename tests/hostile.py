"""Malicious files, made on the spot: each is small on disk and large, or a program, when opened.

What would be executed makes a folder at `canary`. A case is a name, a file, and whether it shows
when the file is read or only when it is trained from.
"""

from __future__ import annotations

import copy
import gzip
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import torch

FIXTURE = Path(__file__).parent / "data" / "format-1.ckpt.gz"
Checkpoint = dict[str, Any]


def sound() -> bytes:
    return gzip.decompress(FIXTURE.read_bytes())


def payload(canary: Path) -> object:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(canary),)

    return Payload()


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {each.filename: archive.read(each) for each in archive.infolist()}


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def pickled(change: Callable[[bytes], bytes], **more: bytes) -> bytes:
    """The sound checkpoint with another pickle, and more members."""
    files = members(sound())
    prefix = next(iter(files)).partition("/")[0]
    files[f"{prefix}/data.pkl"] = change(files[f"{prefix}/data.pkl"])
    return zipped(files | {f"{prefix}/{name}": data for name, data in more.items()})


def saved(change: Callable[[Checkpoint], Any]) -> bytes:
    """The sound checkpoint, changed and saved as training does."""
    checkpoint = torch.load(io.BytesIO(sound()), weights_only=True)
    made = change(checkpoint)
    out = io.BytesIO()
    torch.save(checkpoint if made is None else made, out)
    return out.getvalue()


def put(value: Any, *keys: Any) -> Callable[[Checkpoint], None]:
    def change(checkpoint: Checkpoint) -> None:
        reduce(getitem, keys[:-1], checkpoint)[keys[-1]] = value

    return change


def without(*keys: Any) -> Callable[[Checkpoint], None]:
    def change(checkpoint: Checkpoint) -> None:
        del reduce(getitem, keys[:-1], checkpoint)[keys[-1]]

    return change


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def programs(canary: Path) -> dict[str, bytes]:
    """Pickles that call a function, in every wrapping that torch.load has known."""
    evil = payload(canary)
    bare = pickle.dumps({"msngan": {"format": 1}, "x": evil})
    torch_zip, legacy, inside = io.BytesIO(), io.BytesIO(), saved(put(evil, "msngan", "x"))
    torch.save({"msngan": {"format": 1}, "x": evil}, torch_zip)
    torch.save({"x": evil}, legacy, _use_new_zipfile_serialization=False)
    with_array = pickled(lambda data: data[:2] + b"cposix\nsystem\nU\x02id\x85R0" + data[2:])
    stacked = pickled(lambda data: data[:2] + b"\x8c\x05posix\x8c\x06system\x93" + data[2:])
    return {
        "bare pickle": bare,
        "pickle of protocol 0": pickle.dumps({"x": evil}, protocol=0),
        "torch zip": torch_zip.getvalue(),
        "torch legacy": legacy.getvalue(),
        "payload in a sound checkpoint": inside,
        "call before a sound pickle": with_array,
        "stack global": stacked,
        "torchscript archive": pickled(lambda data: data, **{"constants.pkl": bare}),
        "code beside the pickle": pickled(lambda data: data, **{"code/x.py": b"import os"}),
        "joblib of zlib": gzip.compress(bare),
    }


def bombs() -> dict[str, bytes]:
    """Small files that claim to be large."""
    files, zeros = members(sound()), bytes(300_000_000)
    prefix = next(iter(files)).partition("/")[0]
    deep = b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b"."
    many = {f"{prefix}/data/{index}": b"" for index in range(1000, 31_000)}
    mint = b"\x80\x02c__builtin__\nbytearray\n\x8a\x05\x00\x00\x00\x00\x10\x85R."
    counter = b"\x80\x02ccollections\nCounter\n)R."
    storage = b"\x80\x02ctorch\nFloatStorage\n\x8a\x05\x00\x00\x00\x00\x10\x85R."
    lying = bytearray(zipped(files))
    at = lying.rfind(b"PK\5\6")
    struct.pack_into("<H", lying, at + 10, 65535)
    overlapping = bytearray(zipped(files))
    first = overlapping.find(b"PK\1\2")
    second = overlapping.find(b"PK\1\2", first + 4)
    overlapping[second + 42 : second + 46] = overlapping[first + 42 : first + 46]
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as archive:
        for name, data in [*files.items(), (f"{prefix}/data/0", files[f"{prefix}/data/0"])]:
            archive.writestr(name, data)
    return {
        "deflated pickle": zipped(files | {f"{prefix}/data.pkl": zeros}, zipfile.ZIP_DEFLATED),
        "deflated storage": zipped(files | {f"{prefix}/data/0": zeros}, zipfile.ZIP_DEFLATED),
        "lzma storage": zipped(files | {f"{prefix}/data/0": zeros}, zipfile.ZIP_LZMA),
        "long pickle": pickled(lambda data: b"\x80\x02" + b"}" * 5_000_000 + b"."),
        "million empty lists": pickled(lambda data: b"\x80\x02(" + b"]" * 2_000_000 + b"l."),
        "deep pickle": pickled(lambda data: deep),
        "deep lists": saved(put(nested(400), "callbacks", "x")),
        "many members": zipped(files | many),
        "index that lies of its length": bytes(lying),
        "overlapping members": bytes(overlapping),
        "a member twice": twice.getvalue(),
        "bytearray of 64 GB": pickled(lambda data: mint),
        "storage of 256 GB": pickled(lambda data: storage),
        "counter": pickled(lambda data: counter),
        "no pickle": zipped({n: d for n, d in files.items() if not n.endswith("data.pkl")}),
        "empty zip": zipped({}),
        "empty": b"",
        "cut": sound()[: len(sound()) // 2],
        "garbage behind": sound() + b"x" * 100,
        "garbage before": b"x" * 100 + sound(),
        "other zip": zipped({"a.txt": b"x"}),
    }


def tensors() -> dict[str, bytes]:
    """Tensors that are not what they claim, or of a kind that no run has."""
    key = "ema.stem.weight"
    one = torch.zeros(1)
    huge = saved(put(one.expand(2**20, 2**20), "state_dict", key))
    sparse = torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), one, (2**30, 2**30))
    quantised = torch.quantize_per_tensor(torch.zeros(8, 2), 0.1, 0, torch.qint8)
    # the rebuilt size (8, 2) of the first tensor becomes (-8, 2); its stride, beyond its storage
    minus = pickled(lambda data: data.replace(b"K\x08K\x02\x86", b"J\xf8\xff\xff\xffK\x02\x86", 1))
    far = pickled(lambda data: data.replace(b"K\x08K\x02\x86", b"J\x00\x00\x00\x7fK\x02\x86", 1))
    return {
        "stride trick": huge,
        "negative shape": minus,
        "shape beyond its storage": far,
        "sparse": saved(put(sparse, "state_dict", key)),
        "quantised": saved(put(quantised, "state_dict", key)),
        "complex": saved(put(torch.zeros(8, 2, dtype=torch.complex64), "state_dict", key)),
        "meta": saved(put(torch.zeros(8, 2, device="meta"), "state_dict", key)),
        "parameter": saved(put(torch.nn.Parameter(torch.zeros(8, 2)), "state_dict", key)),
        "whole numbers": saved(put(torch.zeros(8, 2, dtype=torch.long), "state_dict", key)),
        "another shape": saved(put(torch.zeros(2, 8), "state_dict", key)),
        "a number for a tensor": saved(put(3, "state_dict", key)),
        "a tensor too many": saved(put(one, "state_dict", "ema.x")),
        "a tensor too few": saved(without("state_dict", key)),
        "a key of numbers": saved(put(one, "state_dict", 7)),
        "one storage 100 times": saved(
            lambda c: c["state_dict"].update(
                dict.fromkeys((f"ema.{i}" for i in range(100)), torch.zeros(100_000))
            )
        ),
    }


def claims() -> dict[str, bytes]:
    """Options, steps and records that no run writes."""
    options, nan = "hyper_parameters", float("nan")
    adam = ("optimizer_states", 0, "state", 0)
    ready = ("loops", "fit_loop", "epoch_loop.batch_progress", "current", "ready")
    wrong: dict[tuple[Any, ...], list[Any]] = {
        (options, "_instantiator"): ["os.system"],
        (options, "_class_path"): ["os.system"],
        (options, "class_path"): ["os.system"],
        (options, "nrom"): [1],
        (options, "width"): [10**9, 10**6, "8", nan, -1],
        (options, "size"): [8 * 10**5],
        (options, "latent_dim"): [10**6],
        (options, "generator"): ["os"],
        (options, 3): [1],
        (options,): [[]],
        ("msngan", "step"): ["ten", 10**30, -1, nan, True, 5],
        ("msngan", "run"): [[1]],
        ("msngan", "task"): ["os.system"],
        ("msngan", "format"): ["1", True, 3, 0],
        ("msngan", "data"): ["cifar10"],
        ("msngan", "data", "class_path"): ["os.system"],
        ("msngan", "data", "root"): ["/x\0y"],
        ("msngan",): [[1]],
        ("evil",): [1],
        ("state_dict",): [[], {}],
        ("loops",): ["x"],
        ("loops", "fit_loop", "epoch_progress", "total"): ["x"],
        ready: [-5],
        ("callbacks",): [[1], {"x": torch.zeros(1).to_sparse()}],
        ("lr_schedulers",): [[{"x": 1}]],
        ("optimizer_states",): [{}],
        ("optimizer_states", 1): ["x"],
        (*adam, "step"): [torch.tensor(nan)],
        (*adam, "exp_avg"): ["x"],
        ("hparams_name",): ["__class__"],
    }
    cases: dict[str, Callable[[Checkpoint], Any]] = {
        f"{' '.join(map(str, keys))} {number}": put(value, *keys)
        for keys, values in wrong.items()
        for number, value in enumerate(values)
    }
    gone = [("state_dict",), ("loops",), ("optimizer_states",), (options,), ("msngan", "step")]
    gone += [("loops", "fit_loop", "epoch_progress"), ("optimizer_states", 1)]
    gone += [("optimizer_states", 0, "param_groups")]
    cases |= {f"no {' '.join(map(str, keys))}": without(*keys) for keys in gone}
    cases |= {"a list": lambda c: [c], "ordered": lambda c: OrderedDict(x=1)}
    return {name: saved(change) for name, change in cases.items()}


def for_training() -> dict[str, bytes]:
    """What sampling does not look at."""
    moment = ("optimizer_states", 0, "state", 0, "exp_avg")
    cases: dict[str, Callable[[Checkpoint], Any]] = {
        "moment of another shape": put(torch.zeros(3), *moment),
        "parameter that is not there": lambda c: c["optimizer_states"][0]["state"].update(
            {99: copy.deepcopy(c["optimizer_states"][0]["state"][0])}
        ),
        "critic of another shape": put(torch.zeros(5, 5), "state_dict", "critic.head.weight"),
        "critic too few": without("state_dict", "critic.head.weight"),
        "sigma of another shape": put(torch.zeros(9), "state_dict", "critic.head.weight_norm.u"),
        "class_path": put({"class_path": "os.system"}, "hyper_parameters", "norm_options"),
        "unknown norm": put("os", "hyper_parameters", "norm"),
        "unknown penalty": put("os", "hyper_parameters", "penalty"),
    }
    return {name: saved(change) for name, change in cases.items()}
