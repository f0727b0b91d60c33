"""Reference statistics and floors: right numbers, a cache that cannot mislead, races included."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_extractor import extractor, photographs, protocol_of

from msngan.runs.folder import UserError
from msngan.scores import distances, reference
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.protocol import NEIGHBOURS, ROLES
from msngan.scores.reference import (
    Reference,
    cache_folder,
    pixels_sha256,
    real_data_scores,
    summary,
)

IMAGES = photographs(60)
HELD_OUT = photographs(50, seed=1)


@pytest.fixture
def toy() -> EmbeddedExtractor:
    made = extractor()
    made.batch = 8
    return made


@pytest.fixture
def real(toy: EmbeddedExtractor, tmp_path: Path) -> Reference:
    return Reference.of(IMAGES, toy, tmp_path)


def forget(extractor: EmbeddedExtractor, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, a look at images is an error."""

    def forbidden(*_: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(extractor, "features", forbidden)


def same(one: Reference, other: Reference) -> bool:
    tensors = ("mean", "root", "features", "logits")
    others = ("count", "sha256", "kernel_within")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors) and all(
        getattr(one, name) == getattr(other, name) for name in others
    )


def test_distances_are_those_of_all_images_by_the_plain_functions(toy, real):
    all_real, fake = toy.features(IMAGES), toy.features(HELD_OUT).pool
    assert real.count == 60
    assert real.frechet(fake) == pytest.approx(
        distances.frechet_distance(fake, all_real.pool), rel=1e-8
    )
    # the kept features are float32
    expected = distances.kernel_distance(fake, all_real.pool)
    assert real.kernel(fake) == pytest.approx(expected, abs=1e-7)
    torch.testing.assert_close(real.covariance, distances.moments(all_real.pool).covariance)
    assert float(real.eigenvalues.sum()) == pytest.approx(float(real.covariance.trace()))


def test_kept_features_are_a_mixed_part_in_a_fixed_order(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "KERNEL_IMAGES", 20)
    real = Reference.of(IMAGES, toy, tmp_path)
    everything = toy.features(IMAGES)
    order = reference.in_random_order(60)[:20]
    assert sorted(order.tolist()) != list(range(20))
    torch.testing.assert_close(real.features.double(), everything.pool[order], rtol=0, atol=1e-6)
    torch.testing.assert_close(real.logits.double(), everything.logits[order], rtol=0, atol=1e-6)
    assert real.kernel_within == pytest.approx(distances.kernel_within(real.features.double()))
    assert real.frechet(everything.pool) == pytest.approx(0, abs=1e-8)  # of all 60


def test_second_time_comes_from_the_cache_and_is_the_same(toy, tmp_path, monkeypatch):
    seen: list[tuple[int, int]] = []
    first = Reference.of(IMAGES, toy, tmp_path, lambda done, total: seen.append((done, total)))
    assert seen == [(32, 60), (60, 60)]
    forget(toy, monkeypatch)
    assert same(first, Reference.of(IMAGES, toy, tmp_path))


def test_other_pixels_order_weights_resize_and_version_have_other_files(toy, tmp_path, monkeypatch):
    changed = IMAGES.clone()
    changed[0, 0, 0, 0] += 1
    for images in (IMAGES, changed, IMAGES.flip(0), IMAGES[:-1]):
        Reference.of(images, toy, tmp_path)
    changes = ((toy, "weights_sha256", "cd" * 32), (toy, "resize", "bilinear"))
    for count, change in enumerate((*changes, (reference, "VERSION", 0)), start=5):
        monkeypatch.setattr(*change)
        Reference.of(IMAGES, toy, tmp_path)
        assert len(list(tmp_path.iterdir())) == count


def test_hash_knows_the_shape_and_wants_uint8():
    assert pixels_sha256(IMAGES) != pixels_sha256(IMAGES.view(60, 3, 16, 64))
    turned = IMAGES.contiguous(memory_format=torch.channels_last)
    assert pixels_sha256(turned) == pixels_sha256(IMAGES)
    with pytest.raises(TypeError, match="must be uint8, not torch.float32"):
        pixels_sha256(IMAGES.float())


def rewritten(file: Path, **changed: object) -> None:
    with np.load(file) as old:
        arrays = {**old, **changed}
    np.savez(file, **{name: value for name, value in arrays.items() if value is not None})


DAMAGE = {
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-200]),
    "flipped in the middle": lambda file: file.write_bytes(
        file.read_bytes()[:900] + b"\xff\xff\xff\xff" + file.read_bytes()[904:]
    ),
    "a pickle": lambda file: rewritten(file, mean=np.array([{}], dtype=object)),
    "without its root": lambda file: rewritten(file, root=None),
    "of other features": lambda file: rewritten(file, mean=np.zeros(3)),
    "of NaN": lambda file: rewritten(file, mean=np.full(8, np.nan)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_file_is_computed_again(damage, toy, tmp_path, monkeypatch):
    first = Reference.of(IMAGES, toy, tmp_path)
    DAMAGE[damage](next(tmp_path.iterdir()))
    assert same(first, Reference.of(IMAGES, toy, tmp_path))
    forget(toy, monkeypatch)  # and it is whole again
    assert same(first, Reference.of(IMAGES, toy, tmp_path))


def test_a_cache_that_cannot_be_written_only_warns(toy, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="set MSNGAN_CACHE to a writable folder"):
        real = Reference.of(IMAGES, toy, tmp_path / "file" / "references")
    assert real.count == 60
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        real_data_scores(real, toy, protocol_of(toy, real), HELD_OUT)


def test_nothing_is_cached_from_a_failure(toy, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="at least 2 images, not 1"):
        Reference.of(IMAGES[:1], toy, tmp_path)
    toy.network.head.bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        Reference.of(IMAGES, toy, tmp_path)
    assert not list(tmp_path.iterdir())


def test_cache_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("MSNGAN_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "references"
    monkeypatch.delenv("MSNGAN_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if os.name == "posix":
        assert cache_folder() == tmp_path / "home" / ".cache" / "msngan" / "references"


def test_summary_has_the_sd_of_n_minus_one_and_none_for_one_run():
    assert summary([1.0, 3.0]) == {"mean": 2.0, "sd": pytest.approx(2**0.5), "values": [1.0, 3.0]}
    assert summary([4.0]) == {"mean": 4.0, "sd": None, "values": [4.0]}


def test_floors_are_disjoint_parts_of_held_out_images(toy, real):
    found = real_data_scores(real, toy, protocol_of(toy, real), HELD_OUT)
    order = reference.in_random_order(50)
    pools = [toy.features(HELD_OUT[order[i : i + 15]]).pool for i in (0, 15, 30)]
    assert set(found) == {toy.keys[role] for role in ROLES}
    distances = {"frechet": real.frechet, "kernel": real.kernel}
    for role in NEIGHBOURS:
        distances[role] = lambda pool, role=role: real.neighbours(pool, (3, 5))[role]
    for kind, distance in distances.items():
        floor = found[toy.keys[kind]]
        assert floor["kind"] == "real-vs-real"
        assert floor["values"] == pytest.approx([distance(pool) for pool in pools], rel=1e-9)
        assert floor["mean"] == pytest.approx(np.mean(floor["values"]))
        assert floor["sd"] == pytest.approx(np.std(floor["values"], ddof=1))


def test_floors_come_from_the_cache_also_in_another_process(toy, tmp_path, monkeypatch, real):
    protocol = protocol_of(toy, real)
    found = real_data_scores(real, toy, protocol, HELD_OUT)
    others = real_data_scores(real, toy, protocol, HELD_OUT.flip(1))
    assert others[toy.keys["frechet"]] != found[toy.keys["frechet"]]
    again = Reference.of(IMAGES, toy, tmp_path)
    with monkeypatch.context() as patch:
        forget(toy, patch)
        assert real_data_scores(real, toy, protocol, HELD_OUT) == found
        assert real_data_scores(again, toy, protocol, HELD_OUT) == found


@pytest.mark.parametrize("held_out", [None, HELD_OUT[:14]])
def test_floors_without_enough_held_out_images_are_estimates(held_out, toy, real):
    found = real_data_scores(real, toy, protocol_of(toy, real), held_out)
    frechet, kernel = found[toy.keys["frechet"]], found[toy.keys["kernel"]]
    assert frechet["mean"] == pytest.approx(distances.frechet_bias(real.eigenvalues, 15, 60))
    assert kernel["mean"] == 0
    assert frechet["kind"] == kernel["kind"] == "estimated"
    assert not any(toy.keys[role] in found for role in NEIGHBOURS)


def test_neighbours_are_of_equally_many_images_on_both_sides(toy, real):
    for count in (20, 60, 80):
        pool = toy.features(photographs(count, seed=2)).pool
        kept = real.features[:count].double()
        expected = distances.neighbours(
            kept, pool[: len(kept)], precision_neighbours=2, coverage_neighbours=4
        )
        assert real.neighbours(pool, (2, 4)) == pytest.approx(expected)


def test_radii_come_from_the_cache_unless_it_is_damaged(toy, tmp_path, monkeypatch):
    pool = toy.features(HELD_OUT).pool
    expected = Reference.of(IMAGES, toy, tmp_path).neighbours(pool, (3, 5))
    files = sorted(tmp_path.glob("*-radii-50-?.npy"))
    assert len(files) == 2
    computed, radii = [], distances.radii
    with monkeypatch.context() as patch:
        patch.setattr(distances, "radii", lambda rows, k: computed.append(k) or radii(rows, k))
        assert Reference.of(IMAGES, toy, tmp_path).neighbours(pool, (3, 5)) == expected
    assert computed == [3]  # of the fakes alone
    for damage in (b"", files[0].read_bytes()[:-8], np.full(50, np.nan), np.ones(49)):
        if isinstance(damage, bytes):
            files[0].write_bytes(damage)
        else:
            np.save(files[0], damage)
        assert Reference.of(IMAGES, toy, tmp_path).neighbours(pool, (3, 5)) == expected


def test_score_floor_is_the_reference_images_own_score(toy, real):
    protocol, key = protocol_of(toy, real, samples=20, splits=2), toy.keys["score"]
    floor = real_data_scores(real, toy, protocol)[key]
    parts = real.logits.double().split(20)
    assert floor["values"] == pytest.approx([distances.inception_score(part, 2) for part in parts])
    assert floor["kind"] == "real data"
    large = replace(protocol_of(toy, real), samples=100, runs=1)
    whole = real_data_scores(real, toy, large)[key]
    assert whole["values"] == pytest.approx([distances.inception_score(real.logits)])
