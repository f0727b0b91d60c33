"""The official Inception path, end to end, beside torch-fidelity's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset
from toy_extractor import photographs, protocol_of

from msngan.runs import hardware as machine
from msngan.runs.folder import UserError
from msngan.scores import distances, extractors
from msngan.scores.evaluation import evaluate_sampler
from msngan.scores.extractors import InceptionExtractor, file_sha256
from msngan.scores.reference import Reference
from msngan.scores.scorer import choose

ALIVE = 1  # features of each branch of the last block that are not always zero: 6 in all


def random_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the official format, of random weights, with 6 of 2048 features alive.

    With more images than live features both covariances have full rank where they are not exactly
    zero. Else torch-fidelity's distance would be off by some 1e-5, the square roots of eigenvalues
    that are zero but for rounding.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    kind = fidelity.FeatureExtractorInceptionV3
    with monkeypatch.context() as patch:
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(kind, "load_state_dict", lambda *_: None)
        net = kind("random", ["2048"])
    draw = torch.Generator().manual_seed(0)
    for weight in net.parameters():
        if weight.ndim > 1:  # He's spread, or nothing would arrive at the end
            weight.data.normal_(0, (2 / weight[0].numel()) ** 0.5, generator=draw)
    ends = ["1x1", "3x3_2a", "3x3_2b", "3x3dbl_3a", "3x3dbl_3b", "_pool"]
    for branch in (getattr(net.Mixed_7c, f"branch{end}") for end in ends):
        branch.bn.weight.data[ALIVE:] = 0
        branch.bn.weight.data[:ALIVE] = 30  # as large as real features, all in all
    net.fc.weight.data *= 30  # classes that differ
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        path = random_weights(tmp_path_factory.mktemp("weights") / "random.pth", monkeypatch)
        yield path
    path.unlink()  # pytest keeps the folders of its last runs, and this is 96 MB


@pytest.fixture
def allowed(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random weights, whose hash is the official one as long as the test lasts."""
    sha256 = file_sha256(weights)
    monkeypatch.setattr(extractors, "INCEPTION_SHA256", sha256)
    return weights


class One(TensorDataset):
    """Images one by one."""

    def __getitem__(self, index: int) -> Tensor:
        return self.tensors[0][index]


@pytest.mark.slow
def test_scores_of_random_weights_are_what_torch_fidelity_makes_of_the_images(allowed, tmp_path):
    extractor, line = choose("inception", "toy", 3, "cpu", allowed)
    assert extractor.name in line
    reals, fakes = photographs(8, channels=1), 255 - photographs(8, seed=1) // 3
    real = Reference.of(reals, extractor, tmp_path)

    def sampler(count: int, seed: int) -> Iterator[Tensor]:
        yield from fakes.split(10)

    protocol = protocol_of(extractor, real, runs=1, samples=8)
    found = evaluate_sampler(sampler, protocol, extractor, real)
    theirs = torch_fidelity.calculate_metrics(
        input1=One(fakes),
        input2=One(reals.expand(-1, 3, -1, -1)),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(allowed),
        cuda=False,
        batch_size=8,
        isc=True,
        isc_splits=1,
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=8,
        prc=True,
        cache=False,
        verbose=False,
    )
    names = {
        "fid": torch_fidelity.KEY_METRIC_FID,
        "is": torch_fidelity.KEY_METRIC_ISC_MEAN,
        "kid": torch_fidelity.KEY_METRIC_KID_MEAN,
        "precision": torch_fidelity.KEY_METRIC_PRECISION,
        "recall": torch_fidelity.KEY_METRIC_RECALL,
    }
    for key, name in names.items():
        assert found.scores[key]["mean"] == pytest.approx(theirs[name], rel=1e-4), key
    assert found.scores["is"]["mean"] > 1.02
    assert all(0 < found.scores[key]["mean"] < 1 for key in ("precision", "recall"))


def test_official_keys_are_the_usual_ones_and_the_batch_fits_into_memory(allowed, monkeypatch):
    monkeypatch.setattr(machine, "free_memory", lambda device: 300_000_000)
    before = torch.get_rng_state()
    extractor = InceptionExtractor(allowed)
    assert torch.equal(torch.get_rng_state(), before)
    assert extractor.weights_sha256 == file_sha256(allowed)
    assert extractor.name == f"inception-{file_sha256(allowed)[:8]}"
    named = {"frechet": "fid", "score": "is", "kernel": "kid"}
    named |= {role: role for role in ("precision", "recall", "density", "coverage", "agreement")}
    named |= {"intra": "intra-fid"}
    assert extractor.keys == named
    assert extractor.batch == 6  # at 24 MB each
    weight = extractor.network.Conv2d_2a_3x3.conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.slow
def test_clean_resizing_feeds_the_network_floats_and_is_not_called_fid(allowed, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    def clean_fid(x: Tensor, **_: object) -> Tensor:
        size, way = (299, 299), Image.Resampling.BICUBIC
        each = [Image.fromarray(channel.numpy()).resize(size, way) for channel in x.flatten(0, 1)]
        return torch.from_numpy(np.stack(each)).clamp(0, 255).view(*x.shape[:2], *size)

    extractor, line = choose("inception", "toy", 3, "cpu", allowed, clean=True)
    assert extractor.name == f"inception-clean-{file_sha256(allowed)[:8]}"
    assert extractor.keys["frechet"] == f"fd/{extractor.name}"
    assert not extractor.official_inception
    assert extractor.resize == "clean-bicubic-299"
    assert "its scores are not FID or IS" in line
    images = photographs(2)
    found = extractor.features(images)
    monkeypatch.setattr(fidelity, "interpolate_bilinear_2d_like_tensorflow1x", clean_fid)
    pool, logits = InceptionExtractor(allowed).network(images)
    torch.testing.assert_close(found.pool.float(), pool, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.logits.float(), logits, rtol=1e-3, atol=1e-3)
    assert pool.abs().max() > 0.1


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Torch hub's place for the weights, empty; $MSNGAN_INCEPTION is not set."""
    monkeypatch.delenv(extractors.INCEPTION_VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    path = extractors.hub_file()
    yield path
    path.unlink(missing_ok=True)


@pytest.mark.parametrize("way", ["argument", "variable", "hub", "download"])
@pytest.mark.parametrize("official", [True, False])
def test_weights_come_from_four_places_and_need_the_official_hash(
    official, way, tmp_path, nowhere, monkeypatch
):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    def opened(*_: object) -> None:
        raise RuntimeError("it was opened")

    path = tmp_path / "weights.pth"
    path.write_bytes(b"weights")
    monkeypatch.setattr(fidelity, "FeatureExtractorInceptionV3", opened)
    if official:
        monkeypatch.setattr(extractors, "INCEPTION_SHA256", file_sha256(path))
    if way == "variable":
        monkeypatch.setenv(extractors.INCEPTION_VARIABLE, str(path))
    elif way == "hub":
        nowhere.parent.mkdir(parents=True)
        nowhere.symlink_to(path)
    elif way == "download":
        monkeypatch.setattr(fidelity, "URL_INCEPTION_V3", path.as_uri())
    given = path if way == "argument" else None
    if official:
        with pytest.raises(RuntimeError, match="it was opened"):
            InceptionExtractor.load(given)
        assert nowhere.exists() == (way in ("hub", "download"))
        return
    with pytest.raises(UserError, match="not the official Inception weights|invalid hash value"):
        InceptionExtractor.load(given)
    assert way == "hub" or not list(nowhere.parent.glob("*"))  # a download leaves nothing behind


def test_a_download_that_is_cut_short_leaves_nothing_behind(tmp_path, nowhere, monkeypatch):
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    (tmp_path / "short").write_bytes(b"PK")
    for name in ("short", "absent"):
        monkeypatch.setattr(fidelity, "URL_INCEPTION_V3", (tmp_path / name).as_uri())
        with pytest.raises(
            UserError, match=f"cannot be downloaded.*{extractors.INCEPTION_VARIABLE}"
        ):
            extractors.download_weights()
        assert not list(nowhere.parent.iterdir())


def test_weights_that_cannot_be_read_are_one_line(tmp_path, monkeypatch):
    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(extractors, "file_sha256", refuse)
    with pytest.raises(UserError, match=r"weights.pth cannot be read \(Permission denied\)"):
        InceptionExtractor(tmp_path / "weights.pth")


@pytest.mark.weights
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(
    not os.environ.get(extractors.INCEPTION_VARIABLE), reason="needs MSNGAN_INCEPTION"
)
@pytest.mark.skipif("MSNGAN_DATA" not in os.environ, reason="needs MSNGAN_DATA")
def test_cifar10_has_its_published_train_test_fid_and_score(tmp_path):
    """FID of train against test 3.15 and score of train 11.24 in ten splits: the anchors that
    pytorch-image-generation-metrics prints. An hour or more without a GPU."""
    from msngan.data import load

    extractor = InceptionExtractor.load(device="cuda" if torch.cuda.is_available() else "cpu")
    train, test = (load("cifar10", split=part, download=False).images for part in ("train", "test"))
    found = [extractor.features(part) for part in train.split(1000)]
    pool, logits = (
        torch.cat([getattr(each, kind) for each in found]) for kind in ("pool", "logits")
    )
    distance = Reference.of(test, extractor, tmp_path).frechet(pool)
    assert distance == pytest.approx(3.15, abs=0.02)
    assert distances.inception_score(logits, splits=10) == pytest.approx(11.24, abs=0.05)
