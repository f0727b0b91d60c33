"""Damaged checkpoints, data sets and arrays."""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import report_runs
import torch
from conftest import QUIET, TINY
from fuzz_harness import command, outcome
from fuzz_inputs import VALUES, changed, damaged, damaged_zip, json_text
from PIL import Image

from msngan.data.image_arrays import load_images
from msngan.data.image_files import load_folder
from msngan.networks import load_generator
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.training import dynamics

Case = Callable[[random.Random], Callable[[], Any]]


def checkpoint_bytes(root: Path) -> tuple[dict[str, Any], bytes]:
    """A tiny GAN's checkpoint, as training writes it."""
    path = root / "checkpoints" / "base" / "last.ckpt"
    if not path.is_file():
        options = [*TINY, *QUIET, "--steps", "1", "--dynamics.every", "0", "--root", root]
        assert outcome(command("fit", *options, "--run", "base")) == "ok"
    return torch.load(path, weights_only=True), path.read_bytes()


def checkpoint(root: Path) -> Case:
    """Its bytes, its zip index, its pickle, and plain values of it that are others."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "mine.ckpt"
    content, whole = checkpoint_bytes(root)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        pickled = next(each for each in archive.namelist() if each.endswith("data.pkl"))
        program = archive.read(pickled)

    def bytes_of(draw: random.Random) -> bytes:
        kind = draw.randrange(5)
        if kind == 0:
            return damaged(whole, draw, whole)
        if kind == 1:
            return damaged_zip(whole, draw, lambda held: damaged(held, draw, program))
        if kind == 2:
            return repacked(whole, pickled, damaged(program, draw, program))
        if kind == 3:
            return damaged(whole[-2000:], draw, whole)
        made = io.BytesIO()
        torch.save(_changed(content, draw), made)
        return made.getvalue()

    def read() -> None:
        read_checkpoint(path)
        generator, _ = load_generator(path)
        with torch.no_grad():
            generator(torch.zeros(2, generator.latent_dim))

    def case(draw: random.Random) -> Callable[[], Any]:
        path.write_bytes(bytes_of(draw))
        return read

    return case


def repacked(whole: bytes, name: str, held: bytes) -> bytes:
    """A zip file with other content in one member, its sums right."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(made, "w") as to:
        for each in source.infolist():
            content = held if each.filename == name else source.read(each)
            to.writestr(zipfile.ZipInfo(each.filename), content)
    return made.getvalue()


def _changed(content: dict[str, Any], draw: random.Random) -> Any:
    odd = [*VALUES, torch.zeros(0), torch.zeros(3), torch.tensor(float("nan")), torch.float16]
    odd += [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(1, dtype=torch.complex64)]
    key = draw.choice(list(content) + ["state_dict", "hyper_parameters", "msngan"] * 3)
    value = content[key]
    if key == "state_dict":
        names = [name for name in value if name.startswith("ema.")]
        name = draw.choice(names)
        return content | {key: dict(value) | {name: draw.choice(odd)}}
    return content | {key: changed(value, draw, odd)}


def picture_bytes(draw: random.Random, size: int = 8) -> bytes:
    made = io.BytesIO()
    pixels = np.frombuffer(draw.randbytes(size * size), np.uint8).reshape(size, size)
    Image.fromarray(pixels).save(made, "PNG")
    return made.getvalue()


def zip_of_pictures(root: Path) -> Case:
    """A zip file of PNGs with labels."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "pictures.zip"
    draw = random.Random(0)
    names = [f"{kind}/{number}.png" for kind in "ab" for number in range(2)]
    labels = {"labels": [[name, index % 2] for index, name in enumerate(names)]}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, picture_bytes(draw))
        archive.writestr("dataset.json", json_text(labels))
    whole = made.getvalue()

    def case(draw: random.Random) -> Callable[[], Any]:
        def members(held: bytes) -> bytes:
            if held.startswith(b"{") and draw.random() < 0.8:
                return json_text(changed(labels, draw)).encode()
            return damaged(held, draw, whole)

        path.write_bytes(damaged_zip(whole, draw, members))
        size, channels = draw.choice(((None, None), (8, 1), (4, 3)))
        if draw.random() < 0.5:
            return lambda: load_folder(path, size, channels)
        return lambda: load_images(path, size, channels)

    return case


def arrays(root: Path) -> Case:
    """.npy and .npz files of images, whose header or archive is wrong."""
    root.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    one, several = io.BytesIO(), io.BytesIO()
    np.save(one, images)
    np.savez(several, arr_0=images, labels=np.arange(4))
    header = one.getvalue()[10:128]
    shapes = ["(4, 8, 8, 3)", "(2, 8, 8, 1)", "(-1, 8, 8, 3)", "(4,)", "()", "(10**9, 8, 8, 3)"]
    shapes += [
        "(99999999999999, 8, 8, 3)",
        "(4, 8, 8, 3.0)",
        "4",
        "(0, 8, 8, 3)",
        "(True, 8, 8, 3)",
    ]
    kinds = ["|u1", "<f8", "<f4", "|O", "|b1", "<i8", "<U99999999", "V8", "<c16", "<M8[ns]", "x"]

    def head(draw: random.Random) -> bytes:
        kind, shape = draw.choice(kinds), draw.choice(shapes)
        order = draw.choice(("True", "False", "1"))
        text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"
        return text.encode().ljust(len(header) - 1)[: len(header) - 1] + b"\n"

    def member(held: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return held[:10] + head(draw) + held[128:]
        return damaged(held[:160], draw, held) + held[160:]

    def case(draw: random.Random) -> Callable[[], Any]:
        path = root / draw.choice(("a.npy", "a.npz"))
        if path.suffix == ".npy":
            path.write_bytes(member(one.getvalue(), draw))
        else:
            made = damaged_zip(several.getvalue(), draw, lambda held: member(held, draw))
            path.write_bytes(made)
        size, channels = draw.choice(((None, None), (8, 1), (4, 3)))
        return lambda: load_images(path, size, channels)

    return case


def measurements(root: Path) -> Case:
    """A dynamics.npz."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / "dynamics.npz"
    report_runs.write(path, report_runs.dynamics(2, ("network.body.0",)))
    whole = path.read_bytes()

    def read() -> None:
        with suppress(ValueError):  # its callers say it, or raise it as the user's
            dynamics.read(path)

    def case(draw: random.Random) -> Callable[[], Any]:
        path.write_bytes(damaged_zip(whole, draw, lambda held: damaged(held, draw, whole)))
        return read

    return case


def sampled(root: Path) -> Case:
    """`msngan sample` of a damaged checkpoint."""
    root.mkdir(parents=True, exist_ok=True)
    inner = checkpoint(root)
    out = root / "out.png"

    def case(draw: random.Random) -> Callable[[], Any]:
        inner(draw)
        out.unlink(missing_ok=True)
        call = command("sample", root / "mine.ckpt", "--grid", "2", "--out", out)

        def run() -> int:
            code = call()
            assert code == 0 or not out.exists()
            return code

        return run

    return case
