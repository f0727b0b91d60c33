"""evaluate(): the same numbers as the plain functions, once sampled, labelled, and never a lie."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_extractor import METADATA, network, photographs, protocol_of

from msngan import images as convert
from msngan.metrics import core, evaluation
from msngan.metrics.evaluation import Result, Sampler, evaluate
from msngan.metrics.interface import Features
from msngan.metrics.protocol import Protocol
from msngan.metrics.reference import Reference
from msngan.metrics.shipped import EmbeddedExtractor
from msngan.runs import Diverged, UserError

HELD_OUT = photographs(60, seed=1)


@pytest.fixture
def toy() -> EmbeddedExtractor:
    return EmbeddedExtractor(network(), METADATA, "ab" * 32)


@pytest.fixture
def real(toy: EmbeddedExtractor, tmp_path: Path) -> Reference:
    return Reference.of(photographs(60), toy, tmp_path)


@pytest.fixture
def protocol(toy: EmbeddedExtractor, real: Reference) -> Protocol:
    return protocol_of(toy, real, samples=20, splits=2, seed=40)


def sampler(count: int, seed: int) -> Iterator[Tensor]:
    """Half-bright noise, in uneven batches."""
    yield from (photographs(count, seed=seed) // 2).split(7)


@pytest.mark.parametrize("backend", ["own", "torchmetrics"])
def test_scores_are_those_of_the_plain_functions_on_each_runs_images(
    backend: evaluation.Backend, toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    result = evaluate(sampler, protocol, toy, real, backend=backend)
    runs = [toy.features(photographs(20, seed=seed) // 2) for seed in (40, 41, 42)]
    pool = toy.features(photographs(60)).pool
    expected = {
        "frechet": [core.frechet_distance(run.pool, pool) for run in runs],
        "score": [core.inception_score(run.logits, 2) for run in runs],
        "kernel": [core.kernel_distance(run.pool, pool) for run in runs],
    }
    assert list(result.scores) == [toy.keys[kind] for kind in expected]
    for kind, values in expected.items():
        score = result.scores[toy.keys[kind]]
        assert score["values"] == pytest.approx(values, rel=1e-6, abs=1e-7)
        assert score["mean"] == pytest.approx(np.mean(values), rel=1e-6, abs=1e-7)
        assert score["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4, abs=1e-7)


def test_both_backends_agree_to_rounding(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    own, theirs = (
        evaluate(sampler, protocol, toy, real, backend=backend).scores
        for backend in ("own", "torchmetrics")
    )
    for key, score in own.items():
        assert theirs[key]["values"] == pytest.approx(score["values"], rel=1e-8)


def test_result_is_what_a_score_line_holds(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    result = evaluate(sampler, protocol, toy, real, held_out=HELD_OUT)
    assert json.loads(json.dumps(vars(result), allow_nan=False)) == vars(result)
    assert set(result.scores) == set(result.floors) == set(toy.keys.values())
    assert all(set(score) == {"mean", "sd", "values"} for score in result.scores.values())
    kinds = {key: floor["kind"] for key, floor in result.floors.items()}
    assert kinds == {
        toy.keys["frechet"]: "real-vs-real",
        toy.keys["kernel"]: "real-vs-real",
        toy.keys["score"]: "real data",
    }


def test_one_run_has_no_sd(toy: EmbeddedExtractor, real: Reference, protocol: Protocol) -> None:
    result = evaluate(sampler, replace(protocol, runs=1), toy, real)
    assert all(score["sd"] is None for score in result.scores.values())


def test_images_are_sampled_once_and_embedded_once(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    embedded: list[int] = []
    progress: list[tuple[int, int]] = []
    whole = toy.features

    def counted(images: Tensor) -> Features:
        embedded.append(len(images))
        return whole(images)

    def noted(count: int, seed: int) -> Iterator[Tensor]:
        asked.append((count, seed))
        return sampler(count, seed)

    monkeypatch.setattr(toy, "features", counted)
    evaluate(
        noted, protocol, toy, real, progress=lambda done, total: progress.append((done, total))
    )
    assert asked == [(20, 40), (20, 41), (20, 42)]
    assert embedded == [7, 7, 6] * 3
    assert progress == [(done, 60) for done in (7, 14, 20, 27, 34, 40, 47, 54, 60)]


@pytest.mark.parametrize("backend", ["own", "torchmetrics"])
def test_two_evaluations_are_equal_bits_and_leave_every_generator_alone(
    backend: evaluation.Backend, toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    def state() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    before = state()
    first = evaluate(sampler, protocol, toy, real, backend=backend, held_out=HELD_OUT)
    torch.manual_seed(3)
    middle = state()
    assert middle != before
    assert evaluate(sampler, protocol, toy, real, backend=backend, held_out=HELD_OUT) == first
    assert state() == middle


def test_evaluation_leaves_the_global_generators_as_they_were(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    evaluate(sampler, protocol, toy, real, backend="torchmetrics", held_out=HELD_OUT)
    assert torch.equal(torch.rand(2), expected)


def nan_sampler(count: int, seed: int) -> Iterator[Tensor]:
    if seed == 41:
        yield convert.to_uint8(torch.full((count, 3, 32, 32), float("nan")))
    yield from sampler(count, seed)


def diverged_sampler(count: int, seed: int) -> Iterator[Tensor]:
    raise Diverged("weights are not finite")


def failures(result: Result) -> set[str]:
    assert all(set(score) == {"mean", "reason"} for score in result.scores.values())
    assert all(score["mean"] is None for score in result.scores.values())
    return {score["reason"] for score in result.scores.values()}


def test_nan_images_fail_every_score_with_the_reason(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    (reason,) = failures(evaluate(nan_sampler, protocol, toy, real))
    assert reason == "images of run 1: images hold NaN; the generator has diverged"
    (reason,) = failures(evaluate(diverged_sampler, protocol, toy, real))
    assert reason == "images of run 0: weights are not finite"


def test_a_failed_evaluation_still_has_its_keys_and_floors(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    result = evaluate(nan_sampler, protocol, toy, real)
    assert set(result.scores) == set(result.floors) == set(toy.keys.values())
    assert all(floor["mean"] is not None for floor in result.floors.values())


def test_nan_features_fail_every_score_with_the_reason(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    toy.network.head.bias[0] = float("nan")
    (reason,) = failures(evaluate(sampler, protocol, toy, real))
    assert reason == "features of run 0 hold NaN or Inf"


def floats(count: int, seed: int) -> Iterator[Tensor]:
    yield torch.rand(count, 3, 32, 32)


def short(count: int, seed: int) -> Iterator[Tensor]:
    yield photographs(count - 1)


def small(count: int, seed: int) -> Iterator[Tensor]:
    yield photographs(count, size=16)


def wrong(count: int, seed: int) -> Iterator[Tensor]:
    raise ValueError("latents have the wrong shape")
    yield


def users(count: int, seed: int) -> Iterator[Tensor]:
    raise UserError("no NaN here, but no checkpoint either")
    yield


BUGS: dict[str, tuple[Sampler, type[Exception], str]] = {
    "floats": (floats, TypeError, "takes uint8 images, not torch.float32"),
    "too few": (short, ValueError, "gave 19 images, not the 20 asked for"),
    "another size": (small, ValueError, r"are \(3, 16, 16\), not \(3, 32, 32\)"),
    "a mistake": (wrong, ValueError, "latents have the wrong shape"),
    "the user's mistake": (users, UserError, "no checkpoint either"),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_sampler_that_is_wrong_is_an_error_and_no_failed_score(
    bug: str, toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    sample, error, message = BUGS[bug]
    with pytest.raises(error, match=message):
        evaluate(sample, protocol, toy, real)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extractor", "embed-other-00000000"),
        ("official_inception", True),
        ("reference_sha256", "0"),
        ("reference_images", 61),
        ("resize", "nearest"),
    ],
)
def test_a_protocol_of_other_facts_is_refused(
    field: str,
    value: object,
    toy: EmbeddedExtractor,
    real: Reference,
    protocol: Protocol,
) -> None:
    with pytest.raises(ValueError, match=f"the protocol's {field} is {value!r}, not "):
        evaluate(sampler, replace(protocol, **{field: value}), toy, real)


def test_a_reference_of_another_extractor_is_refused(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    with pytest.raises(ValueError, match="the reference is of another, not of embed-toy"):
        evaluate(sampler, protocol, toy, replace(real, extractor="another"))


def test_a_worse_generator_scores_worse(
    toy: EmbeddedExtractor, real: Reference, protocol: Protocol
) -> None:
    def good(count: int, seed: int) -> Iterator[Tensor]:
        yield photographs(count, seed=seed)

    better, worse = (evaluate(each, protocol, toy, real).scores for each in (good, sampler))
    for kind in ("frechet", "kernel"):
        assert better[toy.keys[kind]]["mean"] < worse[toy.keys[kind]]["mean"]
