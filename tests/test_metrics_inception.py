"""The official Inception path, end to end, beside torch-fidelity's own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset
from toy_extractor import photographs, protocol_of

from msngan.metrics import core, inception
from msngan.metrics.evaluation import evaluate
from msngan.metrics.extractors import InceptionExtractor, choose
from msngan.metrics.interface import file_sha256
from msngan.metrics.reference import Reference
from msngan.runs import UserError


class Batch(Dataset[Tensor]):
    """uint8 images one by one, as torch-fidelity wants them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def random_weights(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the official format, of random weights."""
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
    net.fc.weight.data *= 30  # classes that differ
    torch.save(net.state_dict(), path)
    return path


@pytest.mark.slow
def test_fid_is_and_kid_of_random_weights_equal_torch_fidelitys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch_fidelity import calculate_metrics

    path = random_weights(tmp_path / "random.pth", monkeypatch)
    with pytest.raises(UserError, match="not the official Inception weights"):
        InceptionExtractor.load(path)
    monkeypatch.setattr(inception, "HASH", file_sha256(path)[:8])
    extractor, line = choose("inception", "toy", 3, "cpu", path)
    assert isinstance(extractor, InceptionExtractor)
    assert extractor.name in line
    images, fakes = photographs(16), photographs(16, seed=1) // 2
    real = Reference.of(images, extractor, tmp_path)

    def sampler(count: int, seed: int) -> Iterator[Tensor]:
        yield from fakes.split(10)

    scores = evaluate(
        sampler, protocol_of(extractor, real, runs=1, samples=16), extractor, real
    ).scores
    theirs = calculate_metrics(
        input1=Batch(fakes),
        input2=Batch(images),
        isc=True,
        fid=True,
        kid=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
        isc_splits=1,
        kid_subsets=1,
        kid_subset_size=16,
        feature_extractor_weights_path=str(path),
    )
    assert list(scores) == ["fid", "is", "kid"]
    assert scores["is"]["mean"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
    # with 16 images the product of covariances has 2033 eigenvalues that are zero but for rounding
    expected = theirs["frechet_inception_distance"]
    assert scores["fid"]["mean"] == pytest.approx(expected, rel=1e-5)
    expected = theirs["kernel_inception_distance_mean"]  # of float32 kernels near 1
    assert scores["kid"]["mean"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.weights
@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get(inception.VARIABLE), reason="needs MSNGAN_INCEPTION")
def test_cifar10_has_its_published_train_test_fid_and_score(tmp_path: Path) -> None:
    """FID of train against test 3.15 and score of train 11.24 in ten splits: the anchors that
    pytorch-image-generation-metrics prints. An hour or more without a GPU."""
    from msngan.data import load

    extractor = InceptionExtractor.load(device="cuda" if torch.cuda.is_available() else "cpu")
    train = load("cifar10", split="train", download=False).images
    test = load("cifar10", split="test", download=False).images
    pools, logits = [], []
    for part in train.split(1000):
        features = extractor.features(part)
        pools.append(features.pool)
        logits.append(features.logits)
    real = Reference.of(test, extractor, tmp_path)
    assert real.frechet(torch.cat(pools)) == pytest.approx(3.15, abs=0.02)
    assert core.inception_score(torch.cat(logits), splits=10) == pytest.approx(11.24, abs=0.05)
