"""Axes, curves and pictures by their numbers."""

from __future__ import annotations

import base64
import io
import math
import random
import re
import struct
import zlib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from msngan.report.html import document
from msngan.report.html.chart import (
    BOTTOM,
    COLOURS,
    DASHES,
    LEFT,
    MOST_POINTS,
    RIGHT,
    TOP,
    Chart,
    Series,
    line_style,
    linear,
    logarithmic,
    thinned,
    tick_labels,
)
from msngan.report.html.document import spread
from msngan.report.html.pictures import LARGEST_IMAGE, WIDEST, Pictures, grids, small
from msngan.report.html.records import number

NAN = math.nan


STYLE = (Path(document.__file__).parent / "templates/style.css").read_text()


def drawn(chart: Chart) -> str:
    return str(document.templates().get_template("chart.html.j2").module.chart(chart))


def chart_of(*values: list[float], **options: Any) -> Chart:
    """A line of each list of values, at the steps 0, 1, 2, ..."""
    lines = [Series("abc"[i], [*range(len(each))], each) for i, each in enumerate(values)]
    return Chart("loss", lines, **options)


def parsed(chart: Chart) -> ElementTree.Element:
    return ElementTree.fromstring(drawn(chart).strip())


def polylines(chart: Chart) -> list[list[tuple[float, float]]]:
    """The points of each line, in the order of the drawing."""
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in each.get("points").split())]
        for each in parsed(chart).iter("polyline")
    ]


def ticks(chart: Chart) -> dict[str, float]:
    """The place of each label of the y axis."""
    labels = [each for each in parsed(chart).iter("text") if each.get("text-anchor") == "end"]
    return {each.text or "": float(each.get("y")) for each in labels}


def test_an_axis_holds_every_value_and_a_few_round_ticks_for_any_range():
    draw = random.Random(0)
    ranges = [[draw.uniform(-1, 1) * 10 ** draw.uniform(-8, 8) for _ in "ab"] for _ in range(500)]
    for values in ([0, 100], [-3, 5], [7, 7], [0, 0], *ranges):
        axis = linear(values)
        assert axis.low <= min(values) <= max(values) <= axis.high
        assert 2 <= len(axis.ticks) <= 5
        assert all(axis.low <= tick <= axis.high for tick in axis.ticks)
        step = axis.ticks[1] - axis.ticks[0]
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-4
        assert len(set(tick_labels(axis.ticks))) == len(axis.ticks)
    assert linear([0.012, 0.047]).ticks == pytest.approx([0.02, 0.03, 0.04])


def test_log_ticks_are_powers_of_ten_or_a_few_between():
    assert logarithmic([0.001, 10]).ticks == pytest.approx([0.001, 0.01, 0.1, 1, 10])
    assert logarithmic([3, 40]).ticks == pytest.approx([5, 10, 20])
    assert logarithmic([1, 1e12]).ticks == pytest.approx([1, 1e3, 1e6, 1e9, 1e12])
    assert logarithmic([1, 100]).fraction(10) == pytest.approx(0.5)
    # An axis is logarithmic only for positive values over two decades.
    cases = [([0.01, 2, NAN], True), ([0.1, 2], False), ([-0.01, 2], False), ([0, 9], False)]
    for values, log in cases:
        assert chart_of(values).drawing["log"] == log
        assert not chart_of(values, log=False).drawing["log"]


def test_tick_labels_are_short_and_distinct():
    for values, texts in (
        ([0, 20000, 40000], ["0", "20k", "40k"]),
        ([1e6, 2.5e6], ["1M", "2.5M"]),
        ([1e-5, 2e-5], ["1e-05", "2e-05"]),
        ([0.9985, 0.999, 0.9995], ["0.9985", "0.999", "0.9995"]),
        ([5000, 10000, 15000], ["5000", "10k", "15k"]),
    ):
        assert tick_labels(values) == texts


def test_a_line_goes_through_its_points_where_the_ticks_say():
    chart = chart_of([1.0, 3.0, 2.0])
    (line,) = polylines(chart)
    assert [x for x, _ in line] == [LEFT, (LEFT + RIGHT) / 2, RIGHT]
    at = ticks(chart)
    assert [y for _, y in line] == pytest.approx([at["1"], at["3"], at["2"]])
    assert at["1"] == pytest.approx(TOP + (BOTTOM - TOP) * (1 - 0.04 / 1.08), abs=0.1)
    chart = chart_of([1.0, 20.0, 400.0])
    ((_, first), (_, second), (_, third)) = polylines(chart)[0]
    assert second == pytest.approx((first + third) / 2, abs=0.1)
    assert "log scale" in drawn(chart)


def test_a_gap_parts_a_line_and_a_lone_point_is_a_dot():
    chart = chart_of([1.0, 2.0, NAN, 3.0, NAN, 4.0, math.inf, 5.0, 6.0])
    assert [len(line) for line in polylines(chart)] == [2, 2]
    assert len([*parsed(chart).iter("circle")]) == 2


def test_a_level_a_mark_and_several_lines_are_in_the_legend_and_one_line_is_not():
    assert "<ul" not in drawn(chart_of([1, 2]))
    chart = chart_of([1, 2], [2, 1], marks=[(1, 2, "best")], levels=[("real data", 0.0)])
    names = ["".join(each.itertext()).strip() for each in parsed(chart).iter("li")]
    assert names == ["a", "b", "real data", "best"]
    rings = [each for each in parsed(chart).iter("circle") if each.get("r") == "5"]
    (line, _) = polylines(chart)
    assert (float(rings[0].get("cx")), float(rings[0].get("cy"))) == line[1]
    level = next(each for each in parsed(chart).iter("path") if each.get("class") == "level")
    assert float(re.match(r"M\d+ ([\d.]+)H", level.get("d"))[1]) == ticks(chart)["0"]


def test_the_title_says_the_chart_in_words_and_nothing_to_draw_is_a_sentence():
    chart = Chart("Loss <of> it", [Series("a", [5, 10, 15], [3.0, NAN, 1.0])])
    title = next(parsed(chart).iter("title")).text
    assert title == "Loss <of> it. a from 3 at step 5 to 1 at 15, lowest 1, highest 3."
    for empty in (chart_of([NAN, NAN]), chart_of([]), chart_of()):
        assert parsed(empty).tag == "p"


def test_twenty_lines_differ_in_colour_or_dash_and_the_first_in_both():
    kinds = [line_style(index) for index in range(COLOURS * DASHES)]
    assert len(set(kinds)) == 20
    first = [kind.split() for kind in kinds[:DASHES]]
    assert all(len({kind[part] for kind in first}) == DASHES for part in (1, 2))
    for index in range(COLOURS):
        assert f".line.c{index} {{ stroke: var(--c{index}); }}" in STYLE
    for index in range(1, DASHES):
        assert f".d{index} {{ stroke-dasharray" in STYLE


def luminance(colour: str) -> float:
    """Of WCAG 2.1."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear_parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear_parts, strict=True))


def contrast(one: str, other: str) -> float:
    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_lines_and_texts_stand_out_on_light_and_on_dark(dark):
    colours: dict[str, str] = {}
    light, _, rest = STYLE.partition("@media (prefers-color-scheme: dark)")
    for part in [light, rest.partition("} }")[0]][: 1 + dark]:
        colours |= dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part))
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for index in range(COLOURS):
        assert contrast(colours[f"c{index}"], colours["back"]) >= 3, index
    for text in ("ink", "soft", "link"):
        for ground in ("back", "band"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)


def test_a_long_curve_becomes_means_with_their_extremes_and_keeps_its_gaps():
    y = [float(i % 10) for i in range(10 * MOST_POINTS)]
    y[555] = NAN
    points = thinned([*range(len(y))], y)
    assert points.size == 10
    assert len(points.x) == MOST_POINTS
    assert points.x[0] == 4.5
    assert (points.y[0], points.low[0], points.high[0]) == (4.5, 0, 9)
    assert [i for i, value in enumerate(points.y) if math.isnan(value)] == [55]
    chart = chart_of(y)
    assert len([*parsed(chart).iter("polygon")]) == 2
    assert sum(map(len, polylines(chart))) < MOST_POINTS
    assert thinned([*range(401)], [1.0] * 401).x[-1] == 399.5  # of two values, not of three


def test_what_is_shown_of_many_is_spread_evenly_and_no_finite_number_is_a_gap():
    assert spread([*range(0, 1100, 100)], 4) == [0, 300, 700, 1000]
    assert spread([*range(100)], 5) == [0, 25, 50, 74, 99]
    assert spread([3, 4], 5) == [3, 4]
    for value in (True, "1", None, [1], 10**400, math.inf, NAN):
        assert math.isnan(number(value))
    assert number(3) == 3.0


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A header that claims a size, and a body that need not hold it."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    made = b"\x89PNG\r\n\x1a\n"
    for part in (b"IHDR" + head, b"IDAT" + body, b"IEND"):
        made += struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    return made


def image(path: Path, size: tuple[int, int]) -> Path:
    Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB").save(path, "png")
    return path


SIDE = int(LARGEST_IMAGE**0.5)
DAMAGED = {
    "empty": b"",
    "the signature alone": b"\x89PNG\r\n\x1a\n",
    "not zlib": png(8, 8, b"not zlib"),
    "too few pixels": png(8, 8, zlib.compress(b"\x00" * 10)),
    "a bomb": png(SIDE + 1, SIDE + 1, zlib.compress(b"\x00" * 1000)),
    "a larger bomb": png(2**31 - 1, 2**31 - 1, zlib.compress(b"\x00" * 1000)),
    "no width": png(0, 8),
    "a false sum": png(8, 8)[:-20] + b"\x00" * 20,
    "cut": b"",
    "a folder": None,
    "a missing file": None,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_or_huge_picture_is_a_sentence(tmp_path, kind):
    path = tmp_path / "step-00001000.png"
    if kind == "cut":
        path.write_bytes(image(path, (137, 137)).read_bytes()[:2000])
    elif kind == "a folder":
        path.mkdir()
    elif (data := DAMAGED[kind]) is not None:
        path.write_bytes(data)
    made = Pictures(2**20).add(path, "words", "caption")
    assert isinstance(made, str)
    assert made.startswith("step-00001000.png left out: ")


def test_grids_are_in_order_of_step_and_other_files_are_not_among_them(tmp_path):
    names = [f"step-{step:08d}.png" for step in (900, 20_000, 100_000_000)]
    for name in (*reversed(names), "real.png", "step-00999999.png.tmp", "step-x.png", "step-1.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for _, path in grids(tmp_path)] == names
    assert grids(tmp_path)[-1] == (100_000_000, tmp_path / names[-1])
    assert grids(tmp_path / "nowhere") == []


@pytest.mark.quick
def test_a_picture_is_made_small_and_never_enlarged(tmp_path):
    for size, shown in (
        ((40, 20), (40, 20)),
        ((100, 4 * WIDEST), (25, WIDEST)),
        ((548, 274), (WIDEST, WIDEST // 2)),
    ):
        data, *found = small(image(tmp_path / "x.png", size))
        assert tuple(found) == shown
        kind, _, text = data.partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(text))) as decoded:
            assert decoded.size == shown
            assert kind == f"data:image/{str(decoded.format).lower()}"
