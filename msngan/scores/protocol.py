"""A protocol: everything that moves a score besides the generator itself.

Two scores may be compared only if their protocols agree, so a protocol has an id, the hash of its
fields, which the leaderboard groups by. No torch here: the leaderboard reads protocols without it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Literal

from msngan.runs.folder import UserError

VERSION = 1  # of the meaning of the numbers: raise it when a computation changes them
KERNEL_IMAGES = 10_000  # the reference images that the kernel distance sees, at the most

MOST_RUNS = 1000
MOST_SAMPLES = 1_000_000  # of a run; their features are held in memory

# what `--metrics` takes -> the roles of numbers that an extractor names, see Extractor.keys
METRICS: dict[str, tuple[str, ...]] = {
    "fid": ("frechet",),
    "is": ("score",),
    "kid": ("kernel",),
    "prc": ("precision", "recall", "density", "coverage"),
}

# Into the id only where they are not the default: the numbers from before they were fields are the
# same numbers, and stay in the same block.
ADDED = ("precision_neighbours", "coverage_neighbours")


def check_sizes(runs: int, samples: int, splits: int) -> None:
    """UserError for sizes that nothing can be computed from."""
    for name, value in (("runs", runs), ("samples", samples), ("splits", splits)):
        if value < 1:
            raise UserError(f"protocol: {name} must be at least 1, not {value}")
    for name, value, most in (("runs", runs, MOST_RUNS), ("samples", samples, MOST_SAMPLES)):
        if value > most:
            raise UserError(f"protocol: {name} must be at most {most:,}, not {value:,}")
    if samples < max(2, splits):
        raise UserError(
            f"protocol: {samples} samples a run are too few for {splits} split(s);"
            f" use at least {max(2, splits)}"
        )


@dataclass(frozen=True)
class Preset:
    """The sizes of a protocol, before data set and extractor are known.

    reference: "train" is the split that the GAN is trained on, "test" the data set's test split.
    quantisation: how floats in [-1, 1] become bytes; "truncate-clamp" is what older code does.
    """

    runs: int
    samples: int
    splits: int = 1
    reference: Literal["train", "test"] = "train"
    quantisation: Literal["round-clamp", "truncate-clamp"] = "round-clamp"

    def __post_init__(self) -> None:
        check_sizes(self.runs, self.samples, self.splits)


PRESETS: dict[str, Preset] = {
    # Subramanian & Chong 2019, section IV: five runs of 2000. The bias of 2000 samples is large
    # (a perfect generator has an FID near 15), so these numbers stay among themselves.
    "paper": Preset(runs=5, samples=2000),
    # Miyato et al. 2018, appendix B.1: score over 10 x 5000 samples, FID of 5000 against the
    # 10,000 test images. As ten runs of 5000 the first run's FID is theirs, and sd says what
    # another 5000 samples would have given. Their code truncates (sngan_projection/evaluation.py).
    "sngan": Preset(runs=10, samples=5000, reference="test", quantisation="truncate-clamp"),
    # What most papers since print: 50,000 samples once, the score over ten parts of 5000.
    "50k": Preset(runs=1, samples=50_000, splits=10),
}


@dataclass(frozen=True)
class Protocol:
    """The fields of a score line's protocol.

    runs: how often `samples` images are drawn; run k draws by `seed_of(k)`. splits: parts of a
    run for the inception score. reference_sha256: of the reference images' pixels, in order.
    size, channels: of the scored images. resize: how they come to the extractor's size.
    quantisation: how they became bytes; "as-given" where they were bytes when we got them.
    kernel_images: the most reference images that the kernel distance sees; of them as many as a run
    has samples are compared by precision and recall, k = precision_neighbours, and density and
    coverage, k = coverage_neighbours.
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

    def __post_init__(self) -> None:
        check_sizes(self.runs, self.samples, self.splits)

    def seed_of(self, run: int) -> int:
        """What run number `run` draws by: of two seeds of a protocol, no run is the same."""
        return self.seed * 2**20 + run

    def as_dict(self) -> dict[str, str | int | bool]:
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
        """One line for people, with the warning that an embedded extractor needs."""
        parts = "" if self.splits == 1 else f" in {self.splits} splits"
        text = (
            f"{self.name}: {self.runs} x {self.samples:,} samples{parts} against"
            f" {self.reference_images:,} images of {self.dataset} {self.split},"
            f" {self.channels} x {self.size} x {self.size}, {self.extractor}"
        )
        if self.official_inception:
            return text
        return f"{text} (embedded extractor: not comparable with published FID or IS)"


def bias_note(samples: int, dimensions: int) -> str | None:
    """What is wrong with fewer samples than features, or None where there are enough."""
    if samples >= dimensions:
        return None
    return (
        f"{samples:,} samples a run are fewer than the {dimensions:,} features: the covariance is"
        " rank-deficient and the Fréchet distance strongly biased upwards; read it beside the"
        " floor, and trust the kernel distance, which has no bias"
    )
