"""torch-fidelity's numbers are ours; its traps (float32, caches, options, streams) are closed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from torch import Tensor
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY
from toy_extractor import METADATA, network, photographs

from msngan.scores import distances, torch_fidelity_check
from msngan.scores.distances import neighbours
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.extractors import Features
from msngan.scores.reference import in_random_order
from msngan.scores.torch_fidelity_check import ROLES, calculate, scores


class Toy(EmbeddedExtractor):
    """The toy, which counts the images that it sees; `offset` is added to every pool feature."""

    seen = 0
    offset = 0.0

    def features(self, images: Tensor) -> Features:
        self.seen += len(images)
        return super().features(images)

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pool, logits = super()._embed(images)
        return pool + self.offset, logits


@pytest.fixture
def toy() -> Toy:
    return Toy(network(), METADATA, "ab" * 32)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the system's temporary folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def fakes(count: int, channels: int = 3) -> Tensor:
    """Near enough to photographs() for precision and recall between 0 and 1."""
    images = photographs(count, channels, seed=7)
    return images // 2 + 10 if channels == 3 else images // 4 * 3 + 20


def ours(toy: Toy, generated: Tensor, real: Tensor, splits: int, kept: int) -> dict[str, float]:
    fake, whole = toy.features(generated), toy.features(real).pool
    n = min(len(generated), len(real), kept)
    some = toy.features(real[in_random_order(len(real))[:n]]).pool
    near = neighbours(some, fake.pool[:n])
    return {
        "frechet": distances.frechet_distance(fake.pool, whole),
        "score": distances.inception_score(fake.logits, splits),
        "kernel": distances.kernel_distance(fake.pool[:n], some),
        "precision": near["precision"],
        "recall": near["recall"],
    }


@pytest.mark.parametrize(
    ("channels", "generated", "real", "kept", "splits", "offset"),
    [(3, 40, 60, 10_000, 1, 0), (1, 40, 60, 25, 3, 0), (3, 70, 50, 10_000, 2, 0)]
    + [(3, 40, 60, 10_000, 1, 300)],
    ids=["fewer than real", "more than is kept", "more than real", "large means"],
)
def test_every_number_is_ours_to_a_millionth(
    channels, generated, real, kept, splits, offset, toy, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch_fidelity_check, "KERNEL_IMAGES", kept)
    toy.offset = float(offset)
    images, reals = fakes(generated, channels), photographs(real, channels)
    expected = ours(toy, images, reals, splits, kept)
    assert all(0 < expected[role] < 1 for role in ("precision", "recall"))
    for _ in range(2):  # once to fill the cache, once from it
        found = scores(toy, images, reals, "key", splits=splits, folder=tmp_path / "cache")
        assert found == pytest.approx(expected, rel=1e-6)
    assert list(found) == list(ROLES)


def test_only_what_is_asked_for_is_there(toy, tmp_path):
    images, reals = fakes(20), photographs(30)
    whole = scores(toy, images, reals, "key", folder=tmp_path)
    for role, value in whole.items():
        found = scores(toy, images, reals, "key", roles=[role, "density"], folder=tmp_path)
        assert found == pytest.approx({role: value}, rel=1e-12)
    assert scores(toy, images, reals, "key", roles=["coverage"], folder=tmp_path) == {}


def test_precision_and_recall_need_more_images_than_neighbours(toy, tmp_path):
    for count, there in ((3, False), (4, True)):
        found = scores(toy, fakes(count), photographs(30), "key", folder=tmp_path)
        assert ("precision" in found, "recall" in found) == (there, there)
        assert {"frechet", "score", "kernel"} <= set(found)
    found = scores(toy, fakes(4), photographs(30), "key", neighbours=4, folder=tmp_path)
    assert "recall" not in found


def test_images_are_embedded_once_and_the_reference_once_for_all_runs(toy, tmp_path, monkeypatch):
    images, reals = fakes(20), photographs(50)
    scores(toy, images, reals, "key", folder=tmp_path)
    assert toy.seen == 20 + 20 + 50  # generated, as many kept ones, the reference
    scores(toy, images, reals, "key", folder=tmp_path)
    assert toy.seen == 90 + 20 + 20
    monkeypatch.setattr(torch_fidelity_check, "KERNEL_IMAGES", 10)
    scores(toy, images, reals, "key", folder=tmp_path)
    assert toy.seen == 130 + (10 + 10) + 20 + 20  # more than are kept: pairs, score, distance


def test_nothing_but_the_references_moments_is_left_behind(toy, tmp_path, temporary):
    registered = set(FEATURE_EXTRACTORS_REGISTRY)
    scores(toy, fakes(20), photographs(50), "ab12", folder=tmp_path / "cache")
    name = f"ab12-{torch_fidelity.__version__}.npy"
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [name]
    pool = toy.features(photographs(50)).pool.numpy()
    stored = np.load(tmp_path / "cache" / name, allow_pickle=False)
    np.testing.assert_allclose(stored[0], pool.mean(0), rtol=1e-12)
    np.testing.assert_allclose(stored[1:], np.cov(pool, rowvar=False), rtol=1e-10, atol=1e-15)
    assert not list(temporary.iterdir())
    assert set(FEATURE_EXTRACTORS_REGISTRY) == registered


def test_a_failure_leaves_nothing_behind(toy, tmp_path, temporary):
    registered = set(FEATURE_EXTRACTORS_REGISTRY)
    toy.offset = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        scores(toy, fakes(20), photographs(50), "key", roles=["frechet"], folder=tmp_path / "cache")
    with pytest.raises(TypeError, match="takes uint8 images, not torch.float32"):
        scores(toy, torch.rand(20, 3, 32, 32), photographs(50), "key", folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    assert not list(temporary.iterdir())
    assert set(FEATURE_EXTRACTORS_REGISTRY) == registered


DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-8],
    "another shape": lambda data: data.replace(b"(9, 8)", b"(8, 9)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_computed_anew_and_mended(damage, toy, tmp_path):
    arguments = (toy, fakes(20), photographs(50), "key")
    expected = scores(*arguments, folder=tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    data = path.read_bytes()
    path.write_bytes(DAMAGES[damage](data))
    assert path.read_bytes() != data
    assert scores(*arguments, folder=tmp_path / "cache") == expected
    assert path.read_bytes() == data
    # A cache that cannot be written is done without.
    assert scores(*arguments, folder=path / "cache") == expected


def test_an_option_that_torch_fidelity_would_overlook_is_refused():
    with pytest.raises(TypeError, match="torch-fidelity has no option isc_split"):
        calculate(isc=True, isc_split=1)
