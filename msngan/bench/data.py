"""`bench data`: a folder of images that it makes: decoding, starts, private memory, fetching."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from msngan.bench.settings import DataSettings
from msngan.bench.timing import Clock, Progress, interleaved, ratio
from msngan.data import ImageData, parallel
from msngan.data.batches import StepLoader
from msngan.data.image_files import load_folder
from msngan.runs.folder import Failure, counted
from msngan.runs.hardware import cores
from msngan.runs.safe_read import read_json

BASELINE = "torchvision ImageFolder"
DESCRIPTION = (
    "torchvision.datasets.ImageFolder with PIL, Resize, CenterCrop and PILToTensor, of the same"
    " files into one uint8 tensor; both on one core, by processor time"
)
KINDS: dict[str, dict[str, Any]] = {
    "jpg": {"quality": 90},
    "png": {"compress_level": 1},
}  # Pillow's options
DECODED = 512  # images of a kind, in one measurement of decoding on one core
PARALLEL = 4096  # images in one measurement of decoding on all cores
FETCHES = 200
FEW = 1000  # images of the run whose memory shows what the number of images adds
FOLDER = 1000  # images in one subfolder
LEFT_OUT = "scores, samples and dynamics are off: they read a part of the images, or keep numbers"


def run(settings: DataSettings, clock: Clock, progress: Progress) -> dict[str, Any]:
    """Measure: see `msngan.bench.timing.record`."""
    with tempfile.TemporaryDirectory(prefix="msngan-bench-") as name:
        where = Path(name)
        make(where / "images", settings.images, settings.size)
        rows = [*_decoding(where, settings, progress), *_starts(where, settings)]
        bytes_of = {k: sum(p.stat().st_size for p in where.glob(f"images/*/*.{k}")) for k in KINDS}
    return {
        "baseline": BASELINE,
        "results": rows,
        "references": {BASELINE: DESCRIPTION},
        "files": bytes_of,
        "left_out": LEFT_OUT,
    }


def make(root: Path, count: int, size: int) -> None:
    """Write images, JPEG and PNG in turns: a few colours, blurred, and noise."""
    from PIL import Image

    def write(chunk: range) -> None:
        for index in chunk:
            draw = np.random.default_rng([0, index])
            few = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8))
            wide = np.asarray(few.resize((size, size), Image.Resampling.BICUBIC)).astype(np.int16)
            pixels = (wide + draw.integers(-6, 7, wide.shape)).clip(0, 255).astype(np.uint8)
            kind = [*KINDS][index % 2]
            path = root / f"{index // FOLDER:04}" / f"{index:07}.{kind}"
            Image.fromarray(pixels).save(path, **KINDS[kind])

    for number in range(-(-count // FOLDER)):
        (root / f"{number:04}").mkdir(parents=True)
    parallel.in_chunks(write, count, lambda: None)


# Decoding


def _decoding(where: Path, settings: DataSettings, progress: Progress) -> Iterator[dict[str, Any]]:
    """Rows: each kind on one core against torchvision, and processes on all cores."""
    few = {kind: _linked(where, kind, DECODED) for kind in KINDS}
    several = _linked(where, "*", PARALLEL)
    measures: dict[str, Callable[[], float]] = {}
    for kind, root in few.items():
        for whose, decode in (("ours", _ours), ("theirs", _theirs)):
            action = partial(decode, root, settings.size)
            on_one_core = partial(_timed, time.process_time, "cores", lambda: 1, action)
            measures[f"{kind}, {whose}"] = on_one_core
    for name, many in (("processes", 1), ("threads", 2**62)):
        action = partial(_ours, several, settings.size)
        measures[name] = partial(_timed, time.perf_counter, "MANY", many, action)
    seconds = interleaved(measures, settings.rounds, progress)
    for kind, root in few.items():
        ours, count = seconds[f"{kind}, ours"], len([*root.rglob("*.*")])
        yield {
            "name": f"decoding {kind}, one core",
            "ratio": ratio(ours, seconds[f"{kind}, theirs"]),
            "goal": "at most 1",
            "seconds_per_image": median(ours) / count,
            "seconds": ours,
        }
    yield {
        "name": f"decoding, {counted(cores(), 'process', 'processes')}, against threads",
        "ratio": ratio(seconds["processes"], seconds["threads"]),
        "seconds_per_image": median(seconds["processes"]) / len([*several.rglob("*.*")]),
        "seconds": seconds["processes"],
    }


def _linked(where: Path, kind: str, count: int) -> Path:
    """A folder of links to the first images of a kind."""
    made = where / f"some-{kind.replace('*', 'all')}" / "images"
    made.mkdir(parents=True)
    for path in sorted((where / "images").glob(f"*/*.{kind}"))[:count]:
        (made / path.name).symlink_to(path)
    return made.parent


def _ours(root: Path, size: int) -> None:
    load_folder(root, size, None)


def _theirs(root: Path, size: int) -> None:
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    steps = [transforms.Resize(size), transforms.CenterCrop(size), transforms.PILToTensor()]
    images = ImageFolder(str(root), transforms.Compose(steps))
    made = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
    for index in range(len(images)):
        made[index] = images[index][0]


def _timed(clock: Callable[[], float], name: str, value: Any, action: Callable[[], None]) -> float:
    """Seconds of an action by a clock, while a name of `msngan.data.parallel` is another value."""
    before = getattr(parallel, name)
    setattr(parallel, name, value)
    try:
        start = clock()
        action()
        return clock() - start
    finally:
        setattr(parallel, name, before)


# Starts of a run, each in a process of its own


def _starts(where: Path, settings: DataSettings) -> Iterator[dict[str, Any]]:
    started = partial(_started, where, settings)
    spent = _children_seconds()
    first = started(steps=0)
    spent = _children_seconds() - spent - first["importing"]
    later = [started(steps=0) for _ in range(settings.rounds - 1)]
    trained = started(steps=settings.steps)
    few = replace(settings, images=min(FEW, settings.images))
    make_few = where / "few"
    (make_few).mkdir()
    for number in range(-(-few.images // FOLDER)):
        shutil.copytree(where / "images" / f"{number:04}", make_few / f"{number:04}")
    small = _started(where, few, steps=settings.steps, root="few")
    seconds = [each["first_batch"] for each in (*later, trained)]
    yield {
        "name": "first start",
        "value": first["first_batch"],
        "unit": "s",
        "images_per_second": settings.images / first["first_batch"],
        "processor_seconds": spent,
    }
    yield {
        "name": "later start",
        "value": median(seconds),
        "unit": "s",
        "goal": "under 3",
        "seconds": seconds,
    }
    at = {"at the first batch": 0, f"after {counted(settings.steps, 'step')}": -1}
    for when, place in at.items():
        own, other = trained["memory"][place], small["memory"][place]
        yield {
            "name": f"private memory {when}",
            "value": own["private"] / 1e9,
            "unit": "GB",
            "goal": "under 1.5",
            "with_few_images": other["private"] / 1e9,
            "few_images": few.images,
            "memory": own,
        }
    step = median(trained["steps"])
    for name, dropped in (("fetching a batch", False), ("fetching, nothing in memory", True)):
        fetched = _fetched(where, settings, dropped)
        if fetched:
            yield {
                "name": name,
                "value": 100 * median(fetched) / step,
                "unit": "% of a step",
                **({} if dropped else {"goal": "under 1"}),
                "step_seconds": step,
                "seconds": fetched,
            }


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _started(
    where: Path, settings: DataSettings, steps: int, root: str = "images"
) -> dict[str, Any]:
    """What a run reports that ends after some steps; 0: at its first batch."""
    options = ["--data.root", str(where / root), "--data.cache", str(where / "cache")]
    options += ["--data.size", str(settings.size), "--data.batch_size", str(settings.batch)]
    options += ["--model.width", str(settings.width), "--threads", str(settings.threads)]
    options += ["--trainer.accelerator", "gpu" if settings.device == "cuda" else "cpu"]
    options += ["--scores.enabled", "false", "--samples.every", "0", "--dynamics.every", "0"]
    options += ["--root", str(where / "runs")]
    code = "import sys; from msngan.bench.data import child; child(int(sys.argv[1]), sys.argv[2:])"
    command = [sys.executable, "-c", code, str(steps), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise Failure(f"a run of bench data failed: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = read_json(lines[-1])
    return found


def child(steps: int, options: list[str]) -> None:
    """In a process of its own: `msngan fit --config folder_msn`; prints what it took."""
    from msngan.runs.configs import parse
    from msngan.training.run import fit

    importing = time.process_time()
    start = time.perf_counter()
    times: list[float] = []
    memory: list[dict[str, int]] = []
    batches = StepLoader.__iter__

    def watched(self: StepLoader) -> Iterator[Any]:
        for batch in batches(self):
            times.append(time.perf_counter() - start)
            memory.append(memory_now())
            if len(times) > steps + 1 or not steps:
                _end(times, memory, importing)
            yield batch

    StepLoader.__iter__ = watched  # type: ignore[method-assign]
    with contextlib.redirect_stdout(sys.stderr):
        fit(parse(["--config", "folder_msn", *options]))


def _end(times: list[float], memory: list[dict[str, int]], importing: float) -> None:
    # Lightning fetches a batch ahead: the first step lies between the second and the third.
    steps = [after - before for before, after in zip(times[1:], times[2:], strict=False)]
    found = {"first_batch": times[0], "steps": steps, "memory": memory, "importing": importing}
    os.write(1, f"{json.dumps(found)}\n".encode())
    os._exit(0)


def memory_now() -> dict[str, int]:
    """Bytes of this process: `private`, that no other process can have and that no file holds.

    Where the system does not say: the most that it has had, files and all.
    """
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return {"private": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    lines = (line.split() for line in text.splitlines()[1:])
    kilobytes = {words[0][:-1]: int(words[1]) for words in lines}
    names = {
        "private": "Pss_Anon",
        "of_files": "Pss_File",
        "resident": "Rss",
        "proportional": "Pss",
    }
    return {name: 1024 * kilobytes[key] for name, key in names.items()}


# Fetching


def _fetched(where: Path, settings: DataSettings, dropped: bool) -> list[float]:
    """Seconds of batches in training's order. dropped: the system has no page of them in memory."""
    with _out_of_memory(where / "cache") if dropped else contextlib.nullcontext(True) as there:
        if not there:
            return []
        data = ImageData(
            "folder", str(where / "images"), size=settings.size, cache=str(where / "cache")
        )
        loader = iter(StepLoader(data.real, settings.batch, 0, lambda: 0))
        found = []
        for _ in range(min(FETCHES, len(data.real) // settings.batch)):
            start = time.perf_counter()
            next(loader)
            found.append(time.perf_counter() - start)
    return found


@contextmanager
def _out_of_memory(folder: Path) -> Iterator[bool]:
    """Ask the system to drop the pages of the files; whether it can be asked."""
    if hasattr(os, "posix_fadvise"):
        for path in folder.glob("*.npy"):
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    yield hasattr(os, "posix_fadvise")
