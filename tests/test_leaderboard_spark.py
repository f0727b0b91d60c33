from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from msngan.report.html.spark import POINTS, sparkline
from msngan.runs.score_records import Score


def curve(*means: float | None) -> dict[int, Score]:
    return {
        100 * k: Score(100 * k, mean, None, 5, (), None, None, None)
        for k, mean in enumerate(means, start=1)
    }


def drawn(scores: dict[int, Score], metric: str = "fd") -> ElementTree.Element:
    return ElementTree.fromstring(sparkline(scores, metric, f"{metric} of <run>"))


def points(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    return [
        [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
        for line in svg.iter("polyline")
    ]


def test_a_curve_runs_from_left_to_right_and_larger_is_higher() -> None:
    (line,) = points(drawn(curve(5.0, 1.0, 3.0)))
    assert [x for x, _ in line] == sorted(x for x, _ in line)
    assert line[0][1] < line[2][1] < line[1][1]  # y grows downwards
    assert line[2][1] == pytest.approx((line[0][1] + line[1][1]) / 2, abs=0.06)


@pytest.mark.parametrize(("metric", "best"), [("fd", 1), ("cs", 0), ("novelty", None)])
def test_the_best_step_is_marked(metric: str, best: int | None) -> None:
    svg = drawn(curve(5.0, 1.0, 3.0), metric)
    marks = [each.attrib for each in svg.iter("circle") if each.attrib["class"] == "best"]
    placed = [(float(mark["cx"]), float(mark["cy"])) for mark in marks]
    assert placed == ([] if best is None else [points(svg)[0][best]])
    title = svg.findtext("title")
    assert ("best" in title) == (best is not None)
    assert title.startswith(f"{metric} of <run>: 3 scores, steps 100 to 300; lowest 1, highest 5")
    assert {"max 5", "min 1", "100", "step 300"} == {each.text for each in svg.iter("text")}


def test_a_failed_score_is_a_gap_and_is_counted() -> None:
    svg = drawn(curve(5.0, 4.0, None, 3.0, 2.0, None, 9.0))
    assert [len(line) for line in points(svg)] == [2, 2]
    assert [each.attrib["class"] for each in svg.iter("circle")] == ["point", "best"]
    assert svg.findtext("title").endswith("2 failed")


def test_one_score_equal_scores_and_none_are_drawn_without_a_division_by_zero() -> None:
    assert points(drawn(curve(5.0))) == []
    ((_, one), (_, other)) = points(drawn(curve(5.0, 5.0)))[0]
    assert one == other
    assert "no sound score" in sparkline(curve(None), "fd", "x")


def test_a_long_curve_is_thinned_and_keeps_its_extremes() -> None:
    means = [50.0 + k % 7 for k in range(20_000)]
    means[12_345], means[777] = 1.0, 99.0
    (line,) = points(drawn(curve(*means)))
    assert len(line) <= POINTS + 6
    assert {min(y for _, y in line), max(y for _, y in line)} == {18.0, 78.0}
