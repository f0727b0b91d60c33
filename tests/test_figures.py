"""`msngan figures`: what a user finds in the pictures and on the command line."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from figure_runs import accuracies, make_run, synthetic
from test_architecture import loaded_after

from msngan.commands import figures as command
from msngan.commands.figures import main
from msngan.report.figures import DEFAULT, FIGURES, draw
from msngan.report.figures.arms import FIRST, find_sources, make_arms
from msngan.report.figures.layer_grid import all_layers, verdict
from msngan.report.figures.quantities import linear_density
from msngan.report.figures.run_records import shared_layers, with_dynamics
from msngan.report.figures.style import COLOURS, METADATA, settings
from msngan.runs.folder import UserError

NORMS = ("none", "spectral", "mean_spectral")
OF_NETWORKS = ("2", "complexity")  # figures without a row for each layer


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms, one of them of two seeds, everything on record."""
    root = tmp_path_factory.mktemp("runs")
    for index, norm in enumerate(NORMS):
        record = synthetic(20, size=1 + index, drift=(0.2, 3.0, 0.1)[index])
        make_run(root, norm, norm, record=record, lines=accuracies(best=0.9 + 0.02 * index))
    record = synthetic(20, size=3, drift=0.3, seed=1)
    make_run(root, "again", NORMS[2], seed=1, record=record, lines=accuracies(4, seed=1))
    return root


@pytest.fixture(scope="module")
def drawn(root: Path) -> Callable[[str], Any]:
    """`drawn(key)`: the figure of all runs, of their first and last layer, drawn once."""
    return cache(lambda key: figure(root, key, *NORMS, "again"))


def figure(root: Path, key: str, *runs: str, layers: tuple[str, ...] = ("0", "3")) -> Any:
    """The matplotlib Figure."""
    with settings():
        ((_, made, remarks),) = draw(find_sources(runs, root), [key], layers)
        assert made is not None, remarks
        made.draw_without_rendering()
    return made


def data(axes: Any, norm: str) -> Any:
    """The curve of a norm in a panel: the y values of its first line."""
    colour = COLOURS[FIRST.index(norm)]
    return next(line.get_ydata() for line in axes.lines if line.get_color() == colour)


def small_print(made: Any) -> str:  # a matplotlib Figure
    return " ".join(text.get_text() for text in made.texts)


def rings(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_markerfacecolor() == "none"]


@pytest.mark.parametrize("key", sorted(FIGURES))
def test_every_panel_says_what_it_shows_of_which_layer_and_in_which_unit(drawn, key):
    made = drawn(key)
    titles = [axes.get_title(loc="left") for axes in made.axes]
    for axes, title in zip(made.axes, titles, strict=True):
        assert title
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert key in OF_NETWORKS or "layer " in title
        if axes.get_xlabel().startswith(("log index", "step", "epoch")):
            assert all(float(tick).is_integer() for tick in axes.get_xticks())
    columns = len(titles) // made.axes[0].get_gridspec().nrows
    if key not in OF_NETWORKS:
        assert all("network." in title for title in titles[::columns])
        assert "(conv 16x1x5x5)" in titles[0]
    if key in DEFAULT:  # the released panel is left of the stated ones
        for number, title in enumerate(titles):
            assert ("As stated" in title) == (number % columns > 0)
            assert title.startswith("(a) As released") == (number % columns == 0)
        assert "(a)" in small_print(made)
    (legend,) = made.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("none, lr 0.001", "spectral, lr 0.001", "mean_spectral, lr 0.001 (2 runs)")
    ]
    assert "mnist, cnn3" in made.texts[0].get_text()
    assert not overlaps(made)


@pytest.mark.parametrize("key", ["5", "drift"])
def test_no_text_lies_on_another_where_layers_have_long_names(tmp_path, key):
    shapes = ((256, 128, 3, 3), (256, 1280, 30, 30))
    names = ("network.body.13", "network.blocks.2.layers.15.convolution2")
    for norm in NORMS:
        make_run(tmp_path, norm, norm, record=synthetic(4, layers=names, shapes=shapes))
    assert not overlaps(figure(tmp_path, key, *NORMS, layers=("0", "1")))


def overlaps(made: Any) -> list[tuple[Any, Any]]:
    """The boxes of texts that share more than 1.5 pixels, or that the figure cuts."""
    boxes = [text.get_window_extent() for text in made.texts]
    boxes += [legend.get_window_extent() for legend in made.legends]
    for axes in made.axes:
        boxes += [axes._left_title.get_window_extent(), axes.xaxis.label.get_window_extent()]
        boxes += [axes.yaxis.label.get_window_extent()]
        if axes.get_legend():
            boxes.append(axes.get_legend().get_window_extent())
    cut = [(one, made.bbox) for one in boxes if one.x0 < 0 or one.x1 > made.bbox.x1]
    return cut + [
        (one, other)
        for i, one in enumerate(boxes)
        for other in boxes[:i]
        if min(one.x1, other.x1) - max(one.x0, other.x0) > 1.5
        and min(one.y1, other.y1) - max(one.y0, other.y0) > 1.5
    ]


def test_figure_1_shows_zeros_by_index_and_small_entries_by_step(drawn):
    left, right = drawn("1").axes[:2]
    record = synthetic(20)
    assert data(left, "none") == pytest.approx(record.gradient_zero[:, 0], nan_ok=True)
    assert data(right, "none") == pytest.approx(record.gradient_small[:, 0], nan_ok=True)
    assert "0.01 of its rms" in right.get_title(loc="left")
    for key in "15":
        assert "that of the normed weight" in small_print(drawn(key))
    bottom, top = left.get_ylim()
    assert -0.1 * top < bottom < 0 < top


def test_figure_2_marks_the_selected_epoch_of_each_run(drawn):
    left, middle, right = drawn("2").axes
    assert [float(line.get_xdata()[0]) for line in rings(middle)] == [5, 5, 5, 3]
    lines = accuracies(best=0.9)
    blocks = range(1, 11)
    passes = [sum(line["test_right"][:n]) / (100 * n) for line in lines for n in blocks]
    assert data(left, "none")[-1] == pytest.approx(100 * np.mean(passes[-15:]), abs=1e-9)
    shown = next(line for line in middle.lines if len(line.get_xdata()) > 1).get_ydata()
    assert shown == pytest.approx([100 * line["test_accuracy"] for line in lines])
    means = [line.get_xdata() for line in right.lines if len(line.get_xdata()) == 4]
    assert means[0].tolist() == [1, 2, 3, 4]  # as far as both seeds go


def test_figures_3_and_4_show_weights_on_the_left_and_preactivations_on_the_right(drawn):
    record = synthetic(20)
    for key in "34":
        left, right = drawn(key).axes[:2]
        # The code writes the normed weight over the weight: it is this that it logs.
        assert data(left, "none") == pytest.approx(record.effective_mean[:, 0], rel=1e-5)
    band = drawn("3").axes[0].collections[0].get_paths()[0].vertices
    half = record.effective_sd[-1, 0] / 2
    expected = [record.effective_mean[-1, 0] + sign * half for sign in (-1, 1)]
    last = band[band[:, 0] == 19][:, 1]
    assert [last.min(), last.max()] == pytest.approx(expected, rel=1e-5)
    drift = synthetic(20, drift=0.2).drift[:, 0]
    assert data(right, "none") == pytest.approx(drift)
    texts = [text.get_text() for text in drawn("4").axes[3].texts]  # of the head
    assert texts == ["not recorded for this layer"]


def test_long_records_are_smoothed_as_the_authors_do_all_of_them_or_none(tmp_path):
    record = synthetic(45)
    make_run(tmp_path, "a", record=record)
    make_run(tmp_path, "b", "spectral", record=synthetic(15))
    made = figure(tmp_path, "4", "a", "b")
    left = made.axes[0]
    smooth = np.convolve(record.effective_mean[:, 0], np.ones(15) / 15, "valid")
    assert data(left, "none") == pytest.approx(smooth, rel=1e-5)
    assert left.lines[0].get_xdata().tolist() == list(range(14, 45))
    assert left.lines[1].get_xdata().tolist() == [14]
    assert "Running mean of 15 measurements, 50 steps apart." in small_print(made)
    make_run(tmp_path, "c", "batch", record=synthetic(14))
    made = figure(tmp_path, "4", "a", "c")
    assert [len(line.get_xdata()) for line in made.axes[0].lines] == [45, 14]
    assert "Too few measurements (14 to 45)" in small_print(made)


def test_figure_5_has_densities_and_shares_over_the_same_bins(drawn):
    left, *others = drawn("5").axes[:4]
    record = synthetic(20)
    edges, density = linear_density(record.edges, record.histogram[1, 0])
    stairs = left.patches[0].get_data()
    assert stairs.edges == pytest.approx(edges)
    assert stairs.values == pytest.approx(density)
    assert (stairs.values * np.diff(stairs.edges)).sum() == pytest.approx(1)
    assert [axes.get_title(loc="left").split()[5] for axes in others] == ["50", "500", "950"]
    assert {axes.get_xlim() for axes in others} == {others[0].get_xlim()}
    words = others[-1].get_legend().get_texts()[0].get_text()
    sd = record.gradient_sd[:, 0]
    assert words == f"{(sd[10] / sd[1]) ** 2:.2g}, {(sd[19] / sd[1]) ** 2:.2g}"


def test_figure_6_shows_the_whole_spectrum_at_three_moments_and_both_norms(drawn):
    _, *moments, right = drawn("6").axes[:5]
    record = synthetic(20)
    for axes, place in zip(moments, (0, 10, 19), strict=True):
        assert data(axes, "none") == pytest.approx(record.singular[0][place])
    assert data(right, "none") == pytest.approx(record.operator_norm[:, 0])
    assert len(right.lines) == 2 * len(NORMS)


def test_a_verdict_on_drift_has_the_end_the_most_and_what_our_bound_makes_of_them(root):
    recorded, _ = with_dynamics(make_arms(find_sources([*NORMS, "again"], root)))
    layer, head = shared_layers(recorded, ("0", "3"))
    said = [verdict(each, layer) for each in recorded]
    answers = ["stays within 1 sd", "drifts", "stays within 1 sd"]
    assert [words.rpartition(": ")[2] for words in said] == answers
    ends = [synthetic(20, drift=0.1).drift[-1, 0], synthetic(20, drift=0.3, seed=1).drift[-1, 0]]
    spread = f"({min(ends):.2f} to {max(ends):.2f})"
    assert said[2].startswith(f"{np.mean(ends):.2f} sd {spread} at step 950,\nmost ")
    assert verdict(recorded[0], head) == "not measured"
    assert "of 3 layers 3 above 1 sd at step 950, the largest" in all_layers(recorded[1])


def test_a_drift_that_fell_again_is_shown_where_it_was_largest(tmp_path):
    record = synthetic(20)
    record.drift[:, 1] = 0.5
    record.drift[1, 1] = 3.2
    make_run(tmp_path, "a", "spectral", record=record)
    made = figure(tmp_path, "drift", "a", layers=("1",))
    left, right = made.axes
    words = "0.50 sd at step 950,\nmost 3.20 at step 50: was above 1 sd, is not now"
    assert right.get_legend().get_texts()[0].get_text() == words
    assert [*rings(right)[0].get_xydata()[0]] == pytest.approx([50, 3.2])
    assert (left.get_xscale(), right.get_xscale()) == ("linear", "symlog")
    assert right.get_xlim()[0] > -1
    assert f"most ever measured 3.20 ({record.layers[1]}, step 50)" in small_print(made)


def test_records_of_one_measurement_or_of_little_range_can_be_drawn(tmp_path):
    make_run(tmp_path, "short", record=synthetic(1))
    for key in ("3", "5", "6"):
        figure(tmp_path, key, "short", layers=("0",))
    record = synthetic(3)
    record.matrix_norm[:] = np.linspace(1.001, 1.04, 3)[:, None]
    make_run(tmp_path, "a", record=record)
    axes = figure(tmp_path, "norms", "a", layers=("0",)).axes[1]
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


def test_unlike_layers_are_not_compared_but_other_names_and_accuracies_are(tmp_path):
    make_run(tmp_path, "a", record=synthetic(3), lines=accuracies())
    shapes = ((32, 1, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3), (10, 64))
    wide = synthetic(3, shapes=shapes)
    make_run(tmp_path, "b", "spectral", record=wide, lines=accuracies(), network="vgg7")
    unlike, accuracy = draw(find_sources(["a", "b"], tmp_path), ["1", "2"])
    assert unlike[1] is None
    assert "a and b have different networks" in unlike[2][0]
    assert accuracy[1] is not None
    moved = synthetic(3, layers=("network.0", "network.3", "network.6", "network.head"))
    make_run(tmp_path, "c", "batch", record=moved)
    recorded, _ = with_dynamics(make_arms(find_sources(["a", "c"], tmp_path)))
    assert len(shared_layers(recorded, ())) == 3


def test_what_is_missing_is_named_and_the_others_are_drawn(tmp_path, capsys):
    make_run(tmp_path, "a", lines=accuracies())
    make_run(tmp_path, "b", "batch", lines=accuracies(), record=synthetic(3))
    folder = make_run(tmp_path, "c", "spectral", lines=accuracies())
    (folder / "dynamics.npz").write_bytes(b"cut")
    arguments = ["--root", str(tmp_path), "--out", str(tmp_path / "out"), "--formats", "svg"]
    assert main(["a", "b", "c", *arguments, "--figures", "1,2"]) == 0
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert "fig1_sparsity: no dynamics.npz in a; train with --dynamics.every N" in said.err
    assert "c/dynamics.npz cannot be read" in said.err
    with pytest.raises(UserError, match=r"nothing to draw: fig1.*fig4.*no dynamics.npz in a"):
        main(["a", *arguments, "--figures", "1,4"])


def test_a_run_that_ended_early_has_no_later_moment_and_the_legend_says_how_it_ended(tmp_path):
    make_run(tmp_path, "a", record=synthetic(20), status="diverged")
    make_run(tmp_path, "a1", seed=1, record=synthetic(20))
    make_run(tmp_path, "a2", seed=2)
    short = make_run(tmp_path, "b", "spectral", record=synthetic(4))
    (short / "result.json").unlink()
    make_run(tmp_path, "c", "batch", status="diverged")
    made = figure(tmp_path, "5", "a", "a1", "a2", "b", "c", layers=("0",))
    assert [text.get_text() for text in made.legends[0].get_texts()] == [
        "none, lr 0.001 (2 of 3 runs), 1 diverged",
        "batch, lr 0.001, no record, diverged",
        "spectral, lr 0.001, unfinished",
    ]
    assert [len(axes.lines) for axes in made.axes[1:]] == [2, 1, 1]
    words = [text.get_text() for text in made.axes[-1].get_legend().get_texts()]
    assert words[1] == "?, ?"


def test_files_are_the_same_bytes_again_and_settings_are_put_back(root, tmp_path, monkeypatch):
    before = dict(matplotlib.rcParams)
    for folder, width in (("one", 23.0), ("two", 5.0)):
        monkeypatch.setitem(matplotlib.rcParams, "axes.linewidth", width)
        out = ["--out", str(tmp_path / folder), "--formats", "png,pdf,svg"]
        assert main(["none", "--root", str(root), *out, "--figures", "complexity"]) == 0
    assert dict(matplotlib.rcParams) == before | {"axes.linewidth": 5.0}
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(files) == len(METADATA)
    for name in files:
        first = (tmp_path / "one" / name).read_bytes()
        assert first == (tmp_path / "two" / name).read_bytes()
        assert b"CreationDate" not in first
        assert name[-3:] != "pdf" or b"/FontFile2" in first  # TrueType, whole: type 42
        assert b"/Type3" not in first


def test_no_figure_silently_replaces_one_of_other_runs(tmp_path, capsys):
    for name in ("a", "b"):
        make_run(tmp_path, name, lines=accuracies(seed=ord(name)), record=synthetic(ord(name) % 9))
    make_run(tmp_path / "other", "a", lines=accuracies(seed=7))
    asked = ["--root", str(tmp_path), "--figures", "2,1", "--formats", "png"]
    folders = set()
    ways = [["a"], ["b"], ["a", "b"], ["a", "--lr", "0.001"], ["a", "--layers", "network.body.*"]]
    ways += [["a", "--layers", "0,2"], ["a", "--layers", "0"], ["a", "--norms", "none"]]
    for way in ways:
        assert main([*way, *asked]) == 0
        said = capsys.readouterr()
        assert not said.err
        folders.add(Path(said.out.split()[0]).parent)
    assert len(folders) == len(ways)
    assert {folder.parent for folder in folders} == {tmp_path / "figures"}
    assert tmp_path / "figures" / "a+b" in folders
    with pytest.raises(UserError, match=r"lie below several folders; say with --out"):
        main(["a", str(tmp_path / "other/checkpoints/a"), *asked])
    asked += ["--out", str(tmp_path / "out")]
    assert main(["a", *asked]) == main(["a", *asked]) == 0
    assert not capsys.readouterr().err
    assert main(["b", *asked]) == 0
    said = capsys.readouterr().err
    assert "fig2_accuracy.png, fig1_sparsity.png: replaced a file of this name that showed" in said


@pytest.mark.quick
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--figures 7", "--figures: unknown '7'; choose from 1, 2, 3"),
        ("--figures drfit", "did you mean 'drift'"),
        ("--figures ,", "--figures is empty"),
        ("--formats gif", "--formats: unknown 'gif'; choose from png, pdf, svg"),
        ("--layers 9", "--layers 9: no such layer in run 'none'"),
        ("--lr fast", "--lr 'fast' is not a number"),
        ("--seeds 0.5", "--seeds '0.5' is not a whole number"),
        ("--seeds 8", "--seeds 8: none of these runs has it; they have 0"),
        ("--figures 2 --out file", "--out file is not a folder"),
        ("--figures 2 --out file/below", "fig2_accuracy.png cannot be written: Not a d"),
    ],
)
def test_bad_input_is_one_line_that_names_it(root, refused, arguments, words):
    Path("file").write_text("")
    assert words in refused("figures", "none", "--root", str(root), *arguments.split())


def test_the_command_loads_no_torch_and_knows_the_names_of_the_table(root, tmp_path):
    assert tuple(FIGURES) == command.FIGURES
    assert tuple(METADATA) == command.FORMATS
    asked = ["none", "--root", str(root), "--out", str(tmp_path), "--figures", "2"]
    loaded = loaded_after("figures", *asked)
    assert not loaded & {"torch", "pytorch_lightning", "torchvision"}
    assert "matplotlib" in loaded
