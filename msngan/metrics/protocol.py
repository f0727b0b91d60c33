"""A protocol: everything that moves a score besides the generator itself.

Two scores may be compared only if their protocols agree, so a protocol has an id, the hash of its
fields, which the leaderboard groups by. No torch here: the leaderboard reads protocols without it.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from msngan.runs import UserError

VERSION = 1  # of the meaning of the numbers: raise it when a computation changes them
KERNEL_IMAGES = 10_000  # the reference images that the kernel distance sees, at the most


@dataclass(frozen=True)
class Preset:
    """The sizes of a protocol, before data set and extractor are known.

    reference: "train" is the split that the GAN is trained on, "test" the data set's test split.
    """

    runs: int
    samples: int
    splits: int
    reference: str


PRESETS: dict[str, Preset] = {
    # Subramanian & Chong 2019, section IV: five runs of 2000. The bias of 2000 samples is large
    # (a perfect generator has an FID near 15), so these numbers stay among themselves.
    "paper": Preset(runs=5, samples=2000, splits=1, reference="train"),
    # Miyato et al. 2018, appendix B.1: score over 10 x 5000 samples, FID of 5000 against the
    # 10,000 test images. As ten runs of 5000 the first run's FID is theirs, and sd says what
    # another 5000 samples would have given.
    "sngan": Preset(runs=10, samples=5000, splits=1, reference="test"),
    # What most papers since print: 50,000 samples once, the score over ten parts of 5000.
    "50k": Preset(runs=1, samples=50_000, splits=10, reference="train"),
}


@dataclass(frozen=True)
class Protocol:
    """The fields of a score line's protocol.

    runs: how often `samples` images are drawn; run k has the seed `seed` + k. splits: parts of a
    run for the inception score. reference_sha256: of the reference images' pixels, in order.
    size, channels: of the scored images. resize: how they come to the extractor's size.
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

    def __post_init__(self) -> None:
        for name in ("runs", "samples", "splits"):
            if getattr(self, name) < 1:
                raise UserError(f"protocol: {name} must be at least 1, not {getattr(self, name)}")
        if self.samples < max(2, self.splits):
            raise UserError(
                f"protocol: {self.samples} samples a run are too few for {self.splits} split(s);"
                f" use at least {max(2, self.splits)}"
            )

    def as_dict(self) -> dict[str, str | int | bool]:
        return asdict(self)

    @property
    def id(self) -> str:
        """12 hex digits over all fields but the name, which moves no number."""
        record = self.as_dict()
        del record["name"]
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
