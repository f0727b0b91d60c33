"""The arithmetic of scores: closed forms, four implementations side by side, laws of bias."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor
from toy_extractor import coloured, normal

from msngan.scores import distances, evaluation


def with_moments(mean: Tensor, covariance: Tensor, rows: int, seed: int = 0) -> Tensor:
    """Features whose sample mean and covariance are exactly those given."""
    x = normal(rows, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(x.T @ x / (rows - 1)), x.T, upper=False
    ).T
    root = distances.root(covariance)
    return white[:, : root.shape[1]] @ root.T + mean


def by_scipy(a: Tensor, b: Tensor) -> float:
    x, y = a.numpy(), b.numpy()
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    mixed = scipy.linalg.sqrtm(first @ second)
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(gap + np.trace(first + second) - 2 * np.trace(mixed).real)


def by_fidelity(a: Tensor, b: Tensor) -> float:
    from torch_fidelity import metric_fid as fid

    first, second = (fid.fid_features_to_statistics(x) for x in (a, b))
    return fid.fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]


def by_metrics(a: Tensor, b: Tensor) -> float:
    of_b = distances.moments(b)
    return evaluation.torchmetrics_frechet(a, of_b.mean, of_b.covariance, of_b.count)


OTHERS: dict[str, Callable[[Tensor, Tensor], float]] = {
    "scipy": by_scipy,
    "torch-fidelity": by_fidelity,
    "torchmetrics": by_metrics,
}


@pytest.mark.parametrize(
    ("first", "second", "mean", "want"),
    [
        ([4.0, 9.0, 1.0], [1.0, 16.0, 0.25], [1.0, 2.0, 2.0], 9 + 1 + 1 + 0.25),
        ([4.0, 1.0, 0.0], [9.0, 0.0, 1.0], [0.0, 0.0, 0.0], 1 + 1 + 1),  # without full rank
        ([4.0], [1.0], [3.0], 9 + 1),
    ],
)
def test_frechet_of_commuting_covariances_is_of_their_roots(first, second, mean, want):
    turn = torch.linalg.qr(normal(len(mean), len(mean)))[0]
    a, b = (turn @ torch.diag(torch.tensor(each).double()) @ turn.T for each in (first, second))
    shift = torch.tensor(mean).double()
    found = distances.frechet_distance(
        with_moments(shift, a, 50), with_moments(0 * shift, b, 40, seed=1)
    )
    assert found == pytest.approx(want, abs=1e-7)


@pytest.mark.parametrize(("rows", "tolerance"), [(300, 1e-8), (12, 1e-4)])
def test_frechet_knows_no_order_no_rotation_and_the_square_of_scale_and_shift(rows, tolerance):
    a, b = coloured(rows, 24), coloured(400, 24, 1) + 0.3
    distance = distances.frechet_distance(a, b)
    turn = torch.linalg.qr(normal(24, 24, 5))[0]
    shuffled = a[torch.randperm(rows, generator=torch.Generator().manual_seed(1))]
    assert distances.frechet_distance(shuffled, b) == pytest.approx(distance, rel=1e-9)
    assert distances.frechet_distance(a @ turn, b @ turn) == pytest.approx(distance, rel=1e-8)
    assert distances.frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, rel=1e-9)
    assert distances.frechet_distance(b, a) == pytest.approx(distance, rel=1e-8)
    shift = normal(1, 24, 7)
    for each in (0 * shift, shift):
        square = pytest.approx(float(each.square().sum()), abs=tolerance)
        assert distances.frechet_distance(a, a + each) == square


ALIVE = torch.arange(128) % 8 < 1
CASES: dict[str, tuple[Tensor, Tensor, float, float]] = {  # a, b, relative, absolute tolerance
    "more rows than features": (coloured(300, 64), coloured(400, 64, 1) + 0.1, 1e-8, 0),
    "mean a hundred spreads away": (100 + normal(300, 32), 100.5 + normal(300, 32, 1), 1e-8, 0),
    "fewer rows than features": (coloured(40, 64), coloured(400, 64, 1) + 0.1, 0, 1e-4),
    "fewer rows on both sides": (coloured(40, 64), coloured(50, 64, 1) + 0.1, 0, 1e-4),
    "fewer reference rows": (coloured(400, 64), coloured(40, 64, 1) + 0.1, 0, 1e-4),
    "90 rows of 128 features": (coloured(90, 128) / 8, coloured(90, 128, 1) / 8 + 0.1, 0, 1e-4),
    "112 of 128 features dead": (
        normal(90, 128) * ALIVE,
        (normal(90, 128, 1) + 0.1) * ALIVE,
        0,
        1e-4,
    ),
    "constant fakes": (torch.ones(300, 32).double(), normal(300, 32), 1e-8, 1e-6),
}


@pytest.mark.quick
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.filterwarnings("ignore")  # scipy's, of singular matrices
def test_frechet_agrees_with(other, case):
    a, b, relative, absolute = CASES[case]
    expected = OTHERS[other](a, b)
    assert distances.frechet_distance(a, b) == pytest.approx(expected, rel=relative, abs=absolute)


@pytest.mark.parametrize("rows", [(100, 100), (40, 200)])
def test_distance_without_full_rank_is_that_of_singular_values(rows):
    """Mathiasen & Hvilshoj 2020, arXiv:2009.14075: no product of covariances to lose digits in."""
    a, b = coloured(rows[0], 256), coloured(rows[1], 256, 1) + 0.1
    x, y = ((each - each.mean(0)) / math.sqrt(len(each) - 1) for each in (a, b))
    traces = float(x.square().sum() + y.square().sum())
    gap = float((a.mean(0) - b.mean(0)).square().sum())
    expected = gap + traces - 2 * float(torch.linalg.svdvals(x @ y.T).sum())
    assert distances.frechet_distance(a, b) == pytest.approx(expected, abs=1e-8 * traces)


@pytest.mark.parametrize("rows", [20, 90])
def test_no_distance_depends_on_the_blocks(rows, monkeypatch):
    a, b = coloured(rows, 32), coloured(80, 32, 1) + 0.1
    whole = distances.frechet_distance(a, b), distances.kernel_distance(a, b), distances.moments(a)
    monkeypatch.setattr(distances, "BLOCK", 7)
    assert distances.frechet_distance(a, b) == pytest.approx(whole[0], rel=1e-8)
    assert distances.kernel_distance(a, b) == pytest.approx(whole[1], rel=1e-10)
    scatter = distances.moments(a).scatter
    torch.testing.assert_close(scatter, whole[2].scatter, rtol=1e-12, atol=1e-12)
    assert torch.equal(scatter, scatter.T)


def test_merged_moments_are_those_of_all_rows_even_far_from_zero():
    x = 1e6 + normal(90, 5)
    parts = [distances.moments(part) for part in x.split([1, 60, 29])]
    merged = distances.merge(distances.merge(parts[0], parts[1]), parts[2])
    assert merged.count == 90
    torch.testing.assert_close(merged.mean, x.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(merged.covariance, torch.cov(x.T), rtol=1e-8, atol=1e-8)


def test_root_squares_to_the_covariance_and_its_columns_to_the_eigenvalues():
    covariance = distances.moments(coloured(10, 16)).covariance
    root = distances.root(covariance)
    assert root.shape == (16, 9)  # ten rows span nine dimensions around their mean
    torch.testing.assert_close(root @ root.T, covariance)
    torch.testing.assert_close(
        root.square().sum(0), torch.linalg.eigvalsh(covariance)[-9:], rtol=1e-8, atol=1e-12
    )


def test_expected_distance_of_equal_gaussians_follows_the_bias_law():
    rows, d = 1000, 32
    spectrum = 1 / torch.arange(1, d + 1).double()
    root = torch.diag(spectrum.sqrt())
    drawn = [
        distances.frechet_to_root(normal(rows, d, seed) @ root, torch.zeros(d), root)
        for seed in range(12)
    ]
    expected = distances.frechet_bias(spectrum, rows, math.inf)
    assert np.mean(drawn) == pytest.approx(expected, rel=0.1)
    # In one dimension it is one and a half variances.
    found = distances.frechet_bias(torch.tensor([2.0]), 10, 40)
    assert found == pytest.approx(1.5 * 2 * (1 / 10 + 1 / 40), rel=1e-12)


def brute_force(a: Tensor, b: Tensor, biased: bool = False) -> float:
    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    def within(x: Tensor) -> float:
        pairs = [
            kernel(x[i], x[j]) for i in range(len(x)) for j in range(len(x)) if biased or i != j
        ]
        return sum(pairs) / len(pairs)

    between = sum(kernel(x, y) for x in a for y in b) / (len(a) * len(b))
    return within(a) + within(b) - 2 * between


@pytest.mark.parametrize("block", [1024, 5])
def test_kernel_distance_is_the_double_loop_over_different_rows(block, monkeypatch):
    monkeypatch.setattr(distances, "BLOCK", block)
    a, b = coloured(12, 6), coloured(17, 6, 1) + 0.5
    assert distances.kernel_distance(a, b) == pytest.approx(brute_force(a, b), abs=1e-12)
    assert abs(distances.kernel_distance(a, b) - brute_force(a, b, biased=True)) > 0.1


def test_score_of_certain_even_and_noisy_classes_and_where_probabilities_underflow():
    certain = 1000 * torch.eye(7).double().repeat(3, 1)
    assert distances.inception_score(certain) == pytest.approx(7, abs=1e-12)
    assert distances.inception_score(torch.zeros(10, 7)) == pytest.approx(1, abs=1e-12)
    noisy = torch.full((10, 10), 0.1 / 9).double().fill_diagonal_(0.9)  # a symmetric channel
    assert distances.inception_score(noisy.log()) == pytest.approx(5.79954613, rel=1e-8)
    for gap in (200.0, 1000.0, 1e5):
        logits = torch.tensor([[gap, 0, 0]]).double().repeat(4, 1)
        assert distances.inception_score(logits) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("splits", [1, 3])
def test_score_is_the_mean_over_splits_as_of_torch_fidelity_and_torchmetrics(splits):
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 3 * normal(31, 5)
    ours = distances.inception_score(logits, splits)
    theirs = isc_features_to_metric(logits, splits, shuffle=False)["inception_score_mean"]
    assert ours == pytest.approx(theirs, rel=1e-12)
    assert ours == pytest.approx(evaluation.torchmetrics_score(logits, splits), rel=1e-12)


good = normal(5, 3)
BAD: dict[str, Callable[[], object]] = {
    r"a must have shape \(N, d\), not \(3,\)": lambda: distances.frechet_distance(good[0], good),
    r"a must have shape \(N, d\), not": lambda: distances.kernel_distance(good[:, :0], good),
    "b has 1 row": lambda: distances.frechet_distance(good, good[:1]),
    "b holds NaN or Inf": lambda: distances.kernel_distance(good, good * math.nan),
    "a holds NaN or Inf": lambda: distances.frechet_distance(good * math.inf, good),
    "a has 3 features and b has 2": lambda: distances.frechet_distance(good, good[:, :2]),
    "b has 3; they must agree": lambda: distances.kernel_distance(good[:, :2], good),
    r"3 rows of logits cannot be": lambda: distances.inception_score(good[:3], splits=4),
    "0 split": lambda: distances.inception_score(good, splits=0),
    "logits holds NaN": lambda: distances.inception_score(good * math.nan),
    "covariance is not symmetric": lambda: distances.root([[1.0, 2.0], [0.0, 1.0]]),
    "covariance must be square": lambda: distances.root(good),
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_wrong_is_named(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()
