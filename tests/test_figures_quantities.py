"""What the panels show, as numbers: by hand, and against numpy on the raw values."""

from __future__ import annotations

import numpy as np
import pytest

from msngan.report.figures.quantities import (
    Curve,
    by_magnitude,
    cumulative_accuracy,
    linear_density,
    over_runs,
    running_mean,
    selected,
    variance_ratio,
    within_epochs,
)


def test_a_running_mean_is_of_fifteen_values_in_a_row() -> None:
    assert running_mean(np.arange(1.0, 16)) == pytest.approx([8])
    assert running_mean(np.arange(1.0, 18)) == pytest.approx([8, 9, 10])
    assert running_mean(np.array([1.0, 2, 6, 3]), window=3) == pytest.approx([3, 11 / 3])


def test_a_running_mean_of_too_few_values_is_the_values() -> None:
    assert running_mean(np.array([1.0, 5]), window=3).tolist() == [1, 5]


def test_a_value_that_is_missing_spoils_only_the_means_that_hold_it() -> None:
    smooth = running_mean(np.array([np.nan, 1.0, 2, 3, 4]), window=2)
    assert np.isnan(smooth[0])
    assert smooth[1:] == pytest.approx([1.5, 2.5, 3.5])


def test_cumulative_accuracy_is_of_the_images_so_far() -> None:
    assert cumulative_accuracy([90, 80, 100], 0.9) == pytest.approx([0.9, 0.85, 0.9])


def test_the_last_block_of_a_pass_may_be_shorter() -> None:
    assert cumulative_accuracy([90, 80, 25], 195 / 232)[-1] == pytest.approx(195 / 232)
    assert cumulative_accuracy([0, 0], 0.0).tolist() == [0, 0]


def test_the_passes_of_the_epochs_follow_each_other_and_end_at_their_epochs() -> None:
    lines = [
        {"epoch": 1.0, "test_accuracy": 0.6, "test_right": [50, 70]},
        {"epoch": 2.0, "test_accuracy": 0.85, "test_right": [80, 90]},
    ]
    places, values = within_epochs(lines)
    assert places == pytest.approx([0.5, 1, 1.5, 2])
    assert values == pytest.approx([0.5, 0.6, 0.8, 0.85])


def test_epochs_without_counts_have_no_passes() -> None:
    places, values = within_epochs([{"epoch": 1.0, "test_accuracy": 0.5}])
    assert len(places) == len(values) == 0


def test_the_selected_epoch_is_the_first_with_the_best_validation_accuracy() -> None:
    assert selected([0.5, 0.9, None, 0.9]) == 1
    assert selected([None, None]) is None


def test_a_density_spans_the_values_own_range_in_equal_bins() -> None:
    edges = np.array([1.0, 2, 4])
    new, density = linear_density(edges, np.array([[0, 0, 2], [0, 0, 2]]), bins=4)
    assert new.tolist() == [-4, -2, 0, 2, 4]
    assert density.tolist() == [0.25, 0, 0, 0.25]
    new, density = linear_density(edges, np.array([[0, 0, 0], [4, 4, 0]]), bins=2)
    assert new.tolist() == [0, 1, 2]
    assert density.tolist() == [0.5, 0.5]


def test_a_density_agrees_with_numpy_on_the_values() -> None:
    values = np.random.default_rng(0).normal(0, 0.1, 20_000)
    edges = np.geomspace(1e-4, 10, 400)
    counts = np.zeros((2, len(edges)))
    for sign, each in enumerate((-values[values < 0], values[values >= 0])):
        counts[sign, 0] = (each < edges[0]).sum()
        counts[sign, 1:] = np.histogram(each, edges)[0]
    new, density = linear_density(edges, counts)
    assert (density * np.diff(new)).sum() == pytest.approx(1)
    expected = np.histogram(values, new)[0] / len(values) / np.diff(new)
    assert np.abs(density - expected).max() < 0.02 * expected.max()


def test_a_density_of_nothing_is_zero() -> None:
    assert not linear_density(np.array([1.0, 2]), np.zeros((2, 2)))[1].any()


def test_shares_by_magnitude_add_up_with_what_lies_below_the_bins() -> None:
    edges = np.array([1.0, 10, 1000])
    share, below = by_magnitude(edges, np.array([[1, 2, 0], [1, 2, 4]]))
    assert share.tolist() == [0.4, 0.2]  # 4 of 10 in one decade, 4 of 10 in two
    assert below == 0.2
    assert (share * np.diff(np.log10(edges))).sum() + below == pytest.approx(1)
    assert np.isnan(by_magnitude(edges, np.zeros((2, 3)))[0]).all()


def test_a_variance_ratio_is_to_the_first_measurement() -> None:
    assert variance_ratio(np.array([2.0, 1, 4])).tolist() == [1, 0.25, 4]
    assert np.isnan(variance_ratio(np.array([0.0, 1]))).all()
    assert np.isnan(variance_ratio(np.array([np.nan, 1]))).all()
    assert len(variance_ratio(np.empty(0))) == 0


def test_several_runs_are_their_mean_and_one_sd_where_all_of_them_are() -> None:
    first = Curve(np.array([0.0, 1, 2]), np.array([1.0, 2, np.nan]))
    second = Curve(np.array([0.0, 1, 2, 3]), np.array([3.0, 6, 7, 8]))
    made = over_runs([first, second])
    assert made.x.tolist() == [0, 1]
    assert made.y.tolist() == [2, 4]
    assert made.low == pytest.approx([2 - 2**0.5, 4 - 8**0.5])
    assert made.high == pytest.approx([2 + 2**0.5, 4 + 8**0.5])


def test_runs_that_share_no_step_have_no_mean_and_one_run_is_itself() -> None:
    one = Curve(np.array([0.0]), np.array([1.0]))
    assert len(over_runs([one, Curve(np.array([5.0]), np.array([1.0]))]).x) == 0
    assert over_runs([one]) is one
