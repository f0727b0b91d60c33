"""A protocol: everything that moves a score besides the generator itself.

Two scores may be compared only if their protocols agree. So a protocol has an id, the hash of its
fields, by which the leaderboard groups. No torch here: the leaderboard reads protocols without it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from msngan.runs.folder import UserError, counted, did_you_mean
from msngan.runs.rng import LEAST_TRUNCATION
from msngan.runs.safe_read import read_config
from msngan.runs.score_records import how_drawn

VERSION = 1  # of the meaning of the numbers: raise it when a computation changes them
KERNEL_IMAGES = 10_000  # at most so many reference images enter the kernel distance

RESIZE = ("own", "clean")  # how images are resized for an extractor, see Preset

MOST_RUNS = 1000
MOST_SAMPLES = 1_000_000  # of a run; their features are held in memory

# role of a number -> its name for the official Inception, and the start of its name for any other
KEYS = {
    "frechet": ("fid", "fd"),
    "score": ("is", "cs"),
    "kernel": ("kid", "kd"),
    "precision": ("precision", "precision"),
    "recall": ("recall", "recall"),
    "density": ("density", "density"),
    "coverage": ("coverage", "coverage"),
    "agreement": ("agreement", "agreement"),
    "intra": ("intra-fid", "intra-fd"),
}
# names for `--metrics` -> roles, see KEYS
METRICS: dict[str, tuple[str, ...]] = {
    "fid": ("frechet",),
    "is": ("score",),
    "kid": ("kernel",),
    "prc": ("precision", "recall", "density", "coverage"),
    "agreement": ("agreement",),
    "intra": ("intra",),
}
USUAL = tuple(name for name in METRICS if name != "intra")  # unless asked for: it embeds twice
NEIGHBOURS = METRICS["prc"]
BY_CLASS = ("agreement", "intra")  # of conditional generators only
ROLES = tuple(role for role in KEYS if role not in BY_CLASS)  # of any generator

# Part of the id only if they are not the default: scores from before these fields existed are the
# same numbers and stay in the same block.
ADDED = ("precision_neighbours", "coverage_neighbours", "labels", "truncation", "standing")


def roles_of(metrics: Collection[str]) -> tuple[str, ...]:
    """The roles of names in METRICS, in the order of KEYS."""
    wanted = {role for name in metrics for role in METRICS[name]}
    return tuple(role for role in KEYS if role in wanted)


def metric_names(option: str, request: list[str] | str | None) -> tuple[str, ...]:
    """Names in METRICS, in its order: of a list, or of a text with commas; None: those of USUAL.

    UserError, which names the option, for unknown names and for none.
    """
    if request is None:
        return USUAL
    words = request.split(",") if isinstance(request, str) else request
    names, known = [word.strip() for word in words if word.strip()], list(METRICS)
    if not names:
        raise UserError(f"{option} is empty; choose from {', '.join(known)}")
    for name in names:
        if name not in known:
            near = did_you_mean(name, known)
            raise UserError(f"{option}: unknown {name!r}{near}; choose from {', '.join(known)}")
    return tuple(name for name in known if name in names)


def check_sizes(runs: int, samples: int, splits: int) -> None:
    """UserError for sizes from which nothing can be computed."""
    bounds = {"runs": (runs, MOST_RUNS), "samples": (samples, MOST_SAMPLES)}
    for name, (value, most) in {**bounds, "splits": (splits, MOST_SAMPLES)}.items():
        if not 1 <= value <= most:
            raise UserError(f"protocol: {name} must be from 1 to {most:,}, not {value:,}")
    if samples < max(2, splits):
        raise UserError(
            f"protocol: {samples} samples a run are too few for {counted(splits, 'split')};"
            f" use at least {max(2, splits)}"
        )


@dataclass(frozen=True)
class Preset:
    """The sizes of a protocol, before data set and extractor are known.

    reference: "train" is the split that the GAN is trained on, "test" the data set's test split.
    quantisation: how floats in [-1, 1] become bytes; "truncate-clamp" is what older code does.
    resize: how images are resized for the extractor; "own" is its own way, "clean" clean-fid's.
    """

    runs: int
    samples: int
    splits: int = 1
    reference: Literal["train", "test"] = "train"
    quantisation: Literal["round-clamp", "truncate-clamp"] = "round-clamp"
    resize: Literal["own", "clean"] = "own"

    def __post_init__(self) -> None:
        check_sizes(self.runs, self.samples, self.splits)


PRESETS: dict[str, Preset] = {
    # Subramanian & Chong 2019, section IV: five runs of 2000. The bias of 2000 samples is large
    # (a perfect generator has an FID near 15), so compare these numbers only with each other.
    "paper": Preset(runs=5, samples=2000),
    # Miyato et al. 2018, appendix B.1: score over 10 x 5000 samples, FID of 5000 against the
    # 10,000 test images. As ten runs of 5000, the first run's FID is theirs, and sd shows how much
    # it varies with the samples. Their code truncates (sngan_projection/evaluation.py).
    "sngan": Preset(runs=10, samples=5000, reference="test", quantisation="truncate-clamp"),
    # What most papers since then print: 50,000 samples once, the score over ten parts of 5000.
    "50k": Preset(runs=1, samples=50_000, splits=10),
}


def preset(request: str) -> tuple[str, Preset]:
    """A protocol's name and sizes: of PRESETS, or of the YAML file at this path.

    A file holds `runs` and `samples`, and any of Preset's other fields; its name is the protocol's.
    UserError for anything else, and for a file with a known protocol's name and other sizes.
    """
    if request in PRESETS:
        return request, PRESETS[request]
    if not request.endswith((".yaml", ".yml")):
        raise UserError(
            f"unknown protocol {request!r}{did_you_mean(request, list(PRESETS))}; choose one of"
            f" {', '.join(PRESETS)}, or give a .yaml file"
        )
    path = Path(os.path.expanduser(request))
    try:
        content = read_config(path)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UserError(
            f"protocol {path}: {reason}; it must hold lines such as `runs: 5`, `samples: 2000`"
        ) from problem
    found = _preset_of(content, path)
    if PRESETS.get(path.stem, found) != found:
        raise UserError(
            f"protocol {path}: {path.stem!r} is a known protocol of other sizes; rename the file"
        )
    return path.stem, found


def _preset_of(content: dict[str, Any], path: Path) -> Preset:
    hints = get_type_hints(Preset)
    for name, value in content.items():
        if name not in hints:
            word = str(name)[:80]
            raise UserError(
                f"protocol {path}: unknown field {word!r}{did_you_mean(word, list(hints))}; choose"
                f" from {', '.join(hints)}"
            )
        choices = get_args(hints[name])
        if choices and value not in choices:
            raise UserError(f"protocol {path}: {name} must be one of {', '.join(choices)}")
        if not choices and type(value) is not int:
            raise UserError(f"protocol {path}: {name} must be a whole number")
    for name in ("runs", "samples"):
        if name not in content:
            raise UserError(f"protocol {path} does not say {name}")
    try:
        return Preset(**content)
    except UserError as problem:
        raise UserError(f"protocol {path}: {problem}") from problem


@dataclass(frozen=True)
class Protocol:
    """The fields of a score line's protocol.

    runs: how often `samples` images are drawn; run k draws with the seed `seed_of(k)`. splits:
    parts of a run for the inception score. reference_sha256: of the reference images' pixels, in
    order. size, channels: of the scored images. resize: how they are resized for the extractor.
    quantisation: how floats became bytes; "as-given" if the images were bytes already.
    kernel_images: at most so many reference images enter the kernel distance; precision and recall
    (k = precision_neighbours), density and coverage (k = coverage_neighbours) use as many of them
    as a run has samples. labels: whether a conditional generator's labels are drawn from those of
    the reference, which makes its samples comparable with those of any other, or uniformly.
    truncation: bound of the latents, if any. standing: number of batches from which the generator's
    batch-norm statistics were computed anew; 0: they are those of training.
    """

    name: str
    runs: int
    samples: int
    splits: int
    dataset: str
    split: str
    reference_images: int
    reference_sha256: str
    size: int
    channels: int
    extractor: str
    official_inception: bool
    resize: str
    quantisation: str = "round-clamp"
    kernel_images: int = KERNEL_IMAGES
    seed: int = 0
    version: int = VERSION
    precision_neighbours: int = 3  # Kynkäänniemi et al. 2019, arXiv:1904.06991
    coverage_neighbours: int = 5  # Naeem et al. 2020, arXiv:2002.09797
    labels: Literal["reference", "uniform"] = "reference"
    truncation: float | None = None
    standing: int = 0

    def __post_init__(self) -> None:
        check_sizes(self.runs, self.samples, self.splits)
        if self.truncation is not None and not self.truncation >= LEAST_TRUNCATION:
            raise UserError(
                f"protocol: truncation must be at least {LEAST_TRUNCATION}, not {self.truncation}"
            )
        if self.standing < 0:
            raise UserError(f"protocol: standing must be at least 0, not {self.standing}")

    def seed_of(self, run: int) -> int:
        """The seed of run number `run`; two seeds of a protocol share no run."""
        return self.seed * 2**20 + run

    def as_dict(self) -> dict[str, str | int | float | bool | None]:
        return asdict(self)

    @property
    def id(self) -> str:
        """12 hex digits over all fields but the name, which moves no number."""
        record = self.as_dict()
        del record["name"]
        for field in fields(self):
            if field.name in ADDED and record[field.name] == field.default:
                del record[field.name]
        text = json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def label(self) -> str:
        """One line for people, with the warning that any but the official extractor needs."""
        parts = "" if self.splits == 1 else f" in {self.splits} splits"
        warning = " (not comparable with published FID or IS)"
        return (
            f"{self.name}: {self.runs} x {self.samples:,} samples{parts} against"
            f" {counted(self.reference_images, 'image')} of {self.dataset} {self.split},"
            f" {self.channels} x {self.size} x {self.size}, {self.extractor}"
            f"{''.join(f', {words}' for words in how_drawn(self.as_dict()))}"
            f"{'' if self.official_inception else warning}"
        )
