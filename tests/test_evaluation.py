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
from toy_extractor import extractor, photographs, protocol_of

from msngan.data import images as convert
from msngan.runs.folder import Diverged
from msngan.scores import distances, evaluation, reference
from msngan.scores.embedded import EmbeddedExtractor
from msngan.scores.evaluation import BACKENDS, Disagreement, Result, Run, evaluate_sampler
from msngan.scores.extractors import Features
from msngan.scores.protocol import METRICS, NEIGHBOURS, ROLES, Protocol
from msngan.scores.reference import Reference

HELD_OUT = photographs(60, seed=1)
SEEDS = [40 * 2**20 + run for run in range(3)]  # of the three runs of a protocol with seed 40


@pytest.fixture
def toy() -> EmbeddedExtractor:
    return extractor()


@pytest.fixture
def real(toy: EmbeddedExtractor, tmp_path: Path) -> Reference:
    return Reference.of(photographs(60), toy, tmp_path)


@pytest.fixture
def protocol(toy: EmbeddedExtractor, real: Reference) -> Protocol:
    return protocol_of(toy, real, samples=20, splits=2, seed=40)


def of_any(toy: EmbeddedExtractor) -> dict[str, str]:
    """Role -> key, of the scores of any generator."""
    return {role: toy.keys[role] for role in ROLES}


def sampler(count: int, seed: int) -> Iterator[Tensor]:
    """Half-bright noise, in uneven batches."""
    yield from (photographs(count, seed=seed) // 2).split(7)


@pytest.mark.quick
@pytest.mark.parametrize("backend", BACKENDS)
def test_scores_are_those_of_the_plain_functions_on_each_runs_images(backend, toy, real, protocol):
    result = evaluate_sampler(sampler, protocol, toy, real, backend=backend)
    runs = [toy.features(photographs(20, seed=seed) // 2) for seed in SEEDS]
    pool = toy.features(photographs(60)).pool
    kept = real.features[:20].double()
    expected = {
        "frechet": [distances.frechet_distance(run.pool, pool) for run in runs],
        "score": [distances.inception_score(run.logits, 2) for run in runs],
        "kernel": [distances.kernel_distance(run.pool, pool) for run in runs],
    }
    near = [distances.neighbours(kept, run.pool) for run in runs]
    expected |= {role: [each[role] for each in near] for role in NEIGHBOURS}
    assert list(result.scores) == [toy.keys[kind] for kind in expected]
    for kind, values in expected.items():
        score = result.scores[toy.keys[kind]]
        assert score["values"] == pytest.approx(values, rel=1e-6, abs=1e-7)
        assert score["mean"] == pytest.approx(np.mean(values), rel=1e-6, abs=1e-7)
        assert score["sd"] == pytest.approx(np.std(values, ddof=1), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize(
    ("samples", "kept", "splits", "offset"),
    [(40, 10_000, 1, 0), (40, 25, 3, 0), (70, 10_000, 2, 0), (40, 10_000, 1, 300)],
    ids=["fewer than real", "more than is kept", "more than real", "large means"],
)
def test_every_number_of_torch_fidelity_is_ours(
    samples, kept, splits, offset, toy, protocol, tmp_path, monkeypatch
):
    monkeypatch.setattr(reference, "KERNEL_IMAGES", kept)
    embed = toy._embed
    monkeypatch.setattr(toy, "_embed", lambda images: (embed(images)[0] + offset, embed(images)[1]))
    real = Reference.of(photographs(60), toy, tmp_path / "another")
    fakes = toy.features(photographs(samples, seed=7) // 2 + 10)
    run = Run(fakes, toy, real, replace(protocol, samples=samples, splits=splits))
    theirs, paired = evaluation.torch_fidelity_scores(run, ROLES), min(samples, 60, kept)
    ours = run.measure(ROLES) | {
        "kernel": distances.kernel_distance(fakes.pool[:paired], real.features[:paired].double())
    }
    assert all(0 < theirs[role] < 1 for role in ("precision", "recall"))
    for role in ("frechet", "score", "kernel", "precision", "recall"):
        assert theirs[role] == pytest.approx(ours[role], rel=1e-6)


@pytest.mark.parametrize("role", ["frechet", "score", "kernel", "precision", "recall"])
def test_a_number_that_torch_fidelity_does_not_confirm_fails(
    role, toy, real, protocol, monkeypatch
):
    true = evaluation.torch_fidelity_scores

    def wrong(*given: object) -> dict[str, float]:
        found = true(*given)
        return {**found, role: found[role] + 3e-6 * max(1, abs(found[role]))}

    monkeypatch.setattr(evaluation, "torch_fidelity_scores", wrong)
    with pytest.raises(Disagreement, match=f"^{toy.keys[role]} is .*, but .* by torch-fidelity$"):
        evaluate_sampler(sampler, protocol, toy, real, backend="torch-fidelity")


def test_torch_fidelity_s_rounding_below_full_rank_is_no_disagreement(toy, real, protocol):
    few, key = replace(protocol, samples=6, splits=1), toy.keys["frechet"]  # of 8 features
    own, theirs = (
        evaluate_sampler(sampler, few, toy, real, backend=backend, metrics=["fid"]).scores[key]
        for backend in ("own", "torch-fidelity")
    )
    assert theirs["values"] == pytest.approx(own["values"], abs=1e-5)


@pytest.mark.parametrize("metrics", [["is"], ["kid", "prc"]])
def test_only_what_is_asked_for_is_scored(metrics, toy, real, protocol):
    result = evaluate_sampler(sampler, protocol, toy, real, metrics=metrics, held_out=HELD_OUT)
    wanted = {toy.keys[role] for name in metrics for role in METRICS[name]}
    assert set(result.scores) == set(result.real_data) == wanted
    everything = evaluate_sampler(sampler, protocol, toy, real, held_out=HELD_OUT)
    assert all(everything.scores[key] == score for key, score in result.scores.items())


@pytest.mark.parametrize("backend", BACKENDS)
def test_too_few_samples_for_neighbours_fail_these_scores_only(backend, toy, real, protocol):
    few = replace(protocol, samples=5, splits=1)
    result = evaluate_sampler(sampler, few, toy, real, backend=backend, held_out=HELD_OUT)
    for role, key in of_any(toy).items():
        if role in NEIGHBOURS:
            reason = "5 samples are too few for the nearest neighbours"
            assert result.scores[key] == {"mean": None, "reason": reason}
        else:
            assert result.scores[key]["mean"] is not None


def test_result_is_what_a_score_line_holds(toy, real, protocol):
    result = evaluate_sampler(sampler, protocol, toy, real, held_out=HELD_OUT)
    assert json.loads(json.dumps(vars(result), allow_nan=False)) == vars(result)
    assert set(result.scores) == set(of_any(toy).values())
    assert all(set(score) == {"mean", "sd", "values"} for score in result.scores.values())
    kinds = dict.fromkeys(of_any(toy).values(), "real-vs-real") | {toy.keys["score"]: "real data"}
    assert {key: floor["kind"] for key, floor in result.real_data.items()} == kinds


def test_images_are_sampled_once_and_embedded_once(toy, real, protocol, monkeypatch):
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
    evaluate_sampler(
        noted, protocol, toy, real, progress=lambda done, total: progress.append((done, total))
    )
    assert asked == [(20, seed) for seed in SEEDS]
    assert embedded == [7, 7, 6] * 3
    assert progress == [(done, 60) for done in (7, 14, 20, 27, 34, 40, 47, 54, 60)]


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_evaluations_are_equal_and_leave_every_generator_alone(backend, toy, real, protocol):
    def state() -> tuple[object, ...]:
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())

    given = {"held_out": HELD_OUT}
    before = state()
    first = evaluate_sampler(sampler, protocol, toy, real, backend=backend, **given)
    torch.manual_seed(3)
    middle = state()
    assert middle != before
    assert evaluate_sampler(sampler, protocol, toy, real, backend=backend, **given) == first
    assert state() == middle


def nan_sampler(count: int, seed: int) -> Iterator[Tensor]:
    if seed == SEEDS[1]:
        yield convert.to_uint8(torch.full((count, 3, 32, 32), float("nan")))
    yield from sampler(count, seed)


def failures(result: Result) -> set[str]:
    assert all(set(score) == {"mean", "reason"} for score in result.scores.values())
    assert all(score["mean"] is None for score in result.scores.values())
    return {score["reason"] for score in result.scores.values()}


def test_nan_images_or_features_fail_every_score_with_the_reason(toy, real, protocol):
    def diverged(count: int, seed: int) -> Iterator[Tensor]:
        raise Diverged("weights are not finite")

    result = evaluate_sampler(nan_sampler, protocol, toy, real)
    (reason,) = failures(result)
    assert reason == "images of run 1: images hold NaN; the generator has diverged"
    assert set(result.scores) == set(of_any(toy).values())
    assert set(result.real_data) == {toy.keys[role] for role in ("frechet", "score", "kernel")}
    (reason,) = failures(evaluate_sampler(diverged, protocol, toy, real))
    assert reason == "images of run 0: weights are not finite"
    toy.network.head.bias[0] = float("nan")
    (reason,) = failures(evaluate_sampler(sampler, protocol, toy, real))
    assert reason == "features of run 0 hold NaN or Inf"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(20, 3, 32, 32), "takes uint8 images, not torch.float32"),
        (photographs(20, size=16), r"are \(3, 16, 16\), not \(3, 32, 32\)"),
        (None, "latents have the wrong shape"),
    ],
)
def test_a_wrong_sampler_is_an_error_and_no_failed_score(images, message, toy, real, protocol):
    def wrong(count: int, seed: int) -> Iterator[Tensor]:
        if images is None:
            raise ValueError("latents have the wrong shape")
        yield images

    with pytest.raises((TypeError, ValueError), match=message):
        evaluate_sampler(wrong, protocol, toy, real)
