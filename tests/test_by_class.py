"""Scores by class: agreement with the label, and the distance within classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUIET, TINY
from torch import Tensor, nn
from toy_extractor import extractor, photographs

from msngan import ImageData
from msngan.runs.folder import UserError
from msngan.scores import distances, evaluate
from msngan.scores.by_class import ByClass, agreement
from msngan.scores.embedded import EmbeddedExtractor, shipped
from msngan.scores.reference import Reference
from msngan.scores.scorer import Real, Scorer

CONDITIONAL = ["--model.conditional", "true"]
CLASSES = torch.arange(60) % 3


class Known(nn.Module):
    """Real digits of the class asked for; with `wrong`, of the class after an even one."""

    latent_dim, classes = 4, 10

    def __init__(self, wrong: bool = False) -> None:
        super().__init__()
        self.weight, self.wrong = nn.Parameter(torch.zeros(1)), wrong
        found = ImageData("digits").images("all")
        self.images, self.labels = found.images.float() / 127.5 - 1, found.labels
        self.asked: list[Tensor] = []

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        self.asked.append(labels)
        if self.wrong:
            labels = labels + (labels % 2 == 0)
        place = (z[:, 0].abs() * 1000).long()
        pools = [(self.labels == label).nonzero().flatten() for label in range(10)]
        at = [
            pools[label][p % len(pools[label])]
            for label, p in zip(labels.tolist(), place, strict=True)
        ]
        return self.images[torch.stack(at)]


def key(scored: Any, role: str) -> str:
    return next(name for name in scored.scores if name.split("/")[0] == role)


@pytest.mark.quick
def test_agreement_is_the_share_of_images_recognised_as_their_label():
    digits, sizes = ImageData("digits"), {"runs": 2, "samples": 300, "metrics": ["agreement"]}
    found = evaluate(right := Known(), digits, **sizes)
    name = key(found, "agreement")
    net = EmbeddedExtractor.load(shipped()["digits"])
    real = digits.images("all")
    expected = float((net.features(real.images).logits.argmax(1) == real.labels).double().mean())
    assert found.result.real_data[name] == {
        "mean": pytest.approx(expected),
        "sd": None,
        "values": [pytest.approx(expected)],
        "kind": "real data",
    }
    assert found.scores[name]["mean"] == pytest.approx(expected, abs=0.02)
    assert expected > 0.98
    wrong = evaluate(Known(wrong=True), digits, **sizes).scores[name]["values"]
    asked = torch.cat(right.asked).split(300)
    for value, labels in zip(wrong, asked, strict=True):  # odd labels alone are right
        assert value == pytest.approx(float((labels % 2).double().mean()), abs=0.02)
    logits = torch.tensor([[1.0, 2, 0], [3, 2, 1], [0, 0, 5]])
    assert agreement(logits, torch.tensor([1, 1, 2])) == pytest.approx(2 / 3)


def test_the_distance_within_classes_is_the_mean_of_each_class_alone(tmp_path):
    toy, images = extractor(), photographs(60)
    references = tuple(Reference.of(images[k == CLASSES], toy, tmp_path) for k in range(3))
    given = ByClass(None, references)
    fakes, labels = toy.features(photographs(45, seed=3) // 2), torch.arange(45) % 5 % 3
    expected = [
        distances.frechet_distance(fakes.pool[labels == k], toy.features(images[k == CLASSES]).pool)
        for k in range(3)
    ]
    found = given.measure(fakes, labels, ["intra"])
    assert found == {"intra": pytest.approx(sum(expected) / 3, rel=1e-6)}
    own = toy.features(images)
    biases = [
        distances.frechet_bias(
            torch.linalg.eigvalsh(own.pool[k == CLASSES].T.cov()).clamp(min=0), 10, 20
        )
        for k in range(3)
    ]
    floor = given.real_data(30, ["intra"])["intra"]
    assert floor["kind"] == "estimated"
    assert floor["mean"] == pytest.approx(sum(biases) / 3, rel=1e-6)
    few = torch.cat([torch.zeros(44), torch.ones(1)]).long()
    assert given.measure(fakes, few, ["intra"]) == {}


def scorer(labels: Tensor | None, classes: int = 3, **options: Any) -> Scorer:
    real = Real(photographs(60), None, "cifar10", "train", "train", labels)
    sizes = {"runs": 1, "samples": 12, "metrics": ["fid", "agreement", "intra"]}
    return Scorer(real, extractor="embedded", classes=classes, **sizes | options)


def test_a_score_by_class_that_means_nothing_is_left_out_with_its_reason(tmp_path):
    made = scorer(CLASSES)
    name = made.extractor.name
    assert made.left_out == [
        f"agreement is left out: {name} was trained on 10 classes of cifar10, not on 3 of cifar10"
    ]
    assert made.by_class.roles == ("intra",)
    made = scorer(torch.arange(60) % 10, classes=10)
    assert made.left_out[0].startswith(
        f"agreement is left out: {name} recognises the classes of only "
    )
    for labels, classes, why in (
        (None, 3, "the real images do not have labels of its classes"),
        (CLASSES, 2, "the real images do not have labels of its classes"),
    ):
        made = scorer(labels, classes)
        assert made.left_out == [f"{role} is left out: {why}" for role in ("agreement", "intra")]
    single = torch.cat([torch.arange(3), torch.zeros(57)]).long()
    assert scorer(single).left_out[1] == "intra is left out: class 1 has 1 real image"
    # of a generator that is not conditional only what was asked for is spoken of
    made = scorer(CLASSES, 0)
    assert made.left_out == ["intra is left out: the generator is not conditional"]
    assert scorer(CLASSES, 0, metrics=["fid", "agreement"]).left_out == []
    with pytest.raises(UserError, match="nothing to score: intra is left out: the generator is"):
        scorer(CLASSES, 0, metrics=["intra"])
    with pytest.raises(UserError, match="nothing to score: agreement is of conditional"):
        scorer(CLASSES, 0, metrics=["agreement"])


def test_a_class_with_too_few_samples_in_one_run_fails_the_distance_within_classes():
    labels = torch.cat([torch.zeros(50), torch.arange(1, 3).repeat(5)]).long()
    made = scorer(labels, runs=3, samples=12)

    class Grey(nn.Module):
        latent_dim, classes = 2, 3

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, z: Tensor, labels: Tensor) -> Tensor:
            return z[:, :1, None, None].expand(-1, 3, 32, 32).tanh()

    scored = made.score(Grey())
    assert scored.scores[key(scored, "intra-fd")] == {
        "mean": None,
        "reason": "a class has fewer than 2 of the 12 samples of a run; take more",
    }
    assert scored.scores[key(scored, "fd")]["mean"] is not None


def test_a_conditional_run_has_both_in_training_evaluation_and_leaderboard(run, capfd):
    sizes = ["--scores.runs", "1", "--scores.samples", "200", "--scores.every", "6"]
    fit = ["fit", *TINY, *QUIET[2:], *CONDITIONAL, "--data.limit", "400", "--run", "mine"]
    assert run(*fit, *sizes) == 0
    capfd.readouterr()
    assert run("evaluate", "mine", "--images", "12", "--metrics", "fid,agreement,intra") == 2
    (few,) = capfd.readouterr().err.splitlines()
    assert "--images 12: a class has fewer than 2 of them, too few for intra; give more, or" in few
    assert "leave intra out: --metrics fid" in few
    options = ["--runs", "2", "--images", "200", "--metrics", "fid,agreement,intra"]
    capfd.readouterr()
    assert run("evaluate", "mine", *options) == 0
    assert "each with its share of a run's samples" in " ".join(capfd.readouterr().out.split())
    text = Path("checkpoints/mine/scores.jsonl").read_text()
    first, last = map(json.loads, text.splitlines())
    extractor = first["protocol"]["extractor"]
    assert [name.split("/")[0] for name in first["scores"]][-2:] == ["coverage", "agreement"]
    assert list(last["scores"]) == [
        f"{kind}/{extractor}" for kind in ("fd", "agreement", "intra-fd")
    ]
    for name, score in last["scores"].items():
        assert score["mean"] is not None
        assert name in last["floors"]
    assert last["floors"][f"agreement/{extractor}"]["mean"] > 0.9
    assert last["floors"][f"intra-fd/{extractor}"]["kind"] == "estimated"
    assert (
        last["scores"][f"intra-fd/{extractor}"]["mean"] > last["scores"][f"fd/{extractor}"]["mean"]
    )
    capfd.readouterr()
    assert run("leaderboard", "--metric", "intra-fd", "--no-published", "--format", "csv") == 0
    assert f"last intra-fd/{extractor} mean" in capfd.readouterr().out
    assert run("leaderboard", "--no-published") == 0
    assert "each with its share of a run's samples" in " ".join(capfd.readouterr().out.split())
