"""Which runs a user means, which of them are one arm, and the numbers that the figures show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from figure_runs import make_run, synthetic

from msngan.report.figures import quantities as of
from msngan.report.figures.arms import FIRST, find_sources, make_arms, pages
from msngan.report.figures.quantities import Curve
from msngan.report.figures.run_records import Layer, Recorded, at, choose, moments
from msngan.report.figures.style import COLOURS, style
from msngan.runs.folder import UserError

pytestmark = pytest.mark.quick
# Okabe & Ito 2008, without yellow, which is lost on white paper; and a grey.
SAFE = {"#000000", "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9", "#CC79A7", "#595959"}


def study(root: Path, name: str) -> None:
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    arms = "{none: {model.norm: none}, msn: {model.norm: mean_spectral}}"
    text = f"config: digits_cnn3_msn\narms: {arms}\ngrid: {{seed: [0, 1]}}\n"
    (folder / "study.yaml").write_text(text)


def names(targets: list[str], root: Path, **chosen: list) -> list[str]:
    return [each.name for each in find_sources(targets, root, **chosen)]


def test_a_run_is_meant_by_its_name_or_folder_and_a_study_means_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path, "a")
    make_run(tmp_path, "b")
    assert names(["a", str(folder), "checkpoints/a", "b"], Path()) == ["a", "b"]
    assert names([str(folder)], tmp_path / "elsewhere") == ["a"]
    study(tmp_path, "table")
    study(tmp_path, "table-more")
    for name in ("table-none-s0", "table-msn-s0", "table-more-none-s0", "tables-s0"):
        make_run(tmp_path, name)
    assert names(["table"], tmp_path) == ["table-none-s0", "table-msn-s0"]
    assert names([str(tmp_path / "checkpoints" / "table")], Path()) == names(["table"], tmp_path)
    assert names(["table-more"], tmp_path) == ["table-more-none-s0"]


def test_a_selection_keeps_what_has_all_of_it(tmp_path):
    for norm in ("none", "spectral"):
        for seed in (0, 1):
            make_run(tmp_path, f"{norm}-s{seed}", norm, seed=seed, lr=0.1 if seed else 0.001)
    every = ["none-s0", "none-s1", "spectral-s0", "spectral-s1"]
    assert names(every, tmp_path, seeds=[1]) == ["none-s1", "spectral-s1"]
    assert names(every, tmp_path, norms=["none"], rates=[0.001]) == ["none-s0"]
    with pytest.raises(UserError, match=r"--norms spectrl.*did you mean 'spectral'.*none"):
        find_sources(every, tmp_path, norms=["spectrl"])
    with pytest.raises(UserError, match=r"no run has all"):
        find_sources(every, tmp_path, seeds=[1], rates=[0.001])


def test_what_is_not_a_run_is_named_with_what_is_there(tmp_path):
    make_run(tmp_path, "mnist-s0")
    with pytest.raises(UserError, match=r"'mnist-s1' .*\(did you mean 'mnist-s0'\?\); there"):
        find_sources(["mnist-s1"], tmp_path)
    study(tmp_path, "empty")
    with pytest.raises(UserError, match=r"study 'empty' has no run yet"):
        find_sources(["empty"], tmp_path)
    folder = make_run(tmp_path, "broken")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"broken/config.yaml: .*YAML"):
        find_sources(["broken"], tmp_path)


def test_runs_that_differ_in_their_seed_only_are_one_arm_named_by_what_tells_it_apart(tmp_path):
    make_run(tmp_path, "a", "mean_spectral", seed=1)
    make_run(tmp_path, "a0", "mean_spectral", seed=0)
    make_run(tmp_path, "b", "mean_spectral", norm_options={"gain": True})
    make_run(tmp_path, "c", "mean_spectral", dropout=0.3)
    make_run(tmp_path, "none", "none")
    folder = make_run(tmp_path, "gan", "spectral")
    config = json.loads((folder / "config.yaml").read_text())
    config["model"] = {"norm": "spectral", "critic_lr": 2e-4, "generator_lr": 1e-4}
    (folder / "config.yaml").write_text(json.dumps(config))
    arms = make_arms(find_sources(["a", "a0", "b", "c", "none"], tmp_path))
    assert [arm.label for arm in arms] == [
        "none, lr 0.001",
        "mean_spectral, lr 0.001",
        "mean_spectral, dropout 0.3, lr 0.001",
        "mean_spectral, gain, lr 0.001",
    ]
    assert [source.name for source in arms[1].sources] == ["a0", "a"]
    (gan,) = make_arms(find_sources(["gan"], tmp_path))
    assert gan.label == "spectral, lr 0.0002"


@pytest.mark.parametrize(
    ("changed", "arms"),
    [
        ({"trainer": {"precision": "bf16-mixed"}}, 2),
        ({"trainer": {"accelerator": "gpu"}, "threads": 4, "dynamics": {"every": 7}}, 1),
    ],
    ids=["precision", "machine and records"],
)
def test_what_shapes_training_makes_an_arm_and_what_records_does_not(tmp_path, changed, arms):
    make_run(tmp_path, "a")
    folder = make_run(tmp_path, "b")
    config = json.loads((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(json.dumps(config | changed))
    assert len(make_arms(find_sources(["a", "b"], tmp_path))) == arms


def test_many_arms_have_a_page_for_each_rate_and_a_norm_one_line_on_all(tmp_path):
    norms = [*FIRST, "mean_only"]
    for norm in norms:
        for lr in (0.1, 0.001):
            make_run(tmp_path, f"{norm}-{lr}", norm, lr)
    runs = [f"{norm}-{lr}" for norm in sorted(norms) for lr in (0.1, 0.001)]
    made = pages(make_arms(find_sources(runs, tmp_path)))
    assert [suffix for suffix, _ in made] == ["_lr0.1", "_lr0.001"]
    for _, arms in made:
        assert [(arm.norm, arm.style) for arm in arms] == list(zip(norms, range(5), strict=True))
    for norm, number in zip(norms, range(5), strict=True):  # the same line without the others
        assert make_arms(find_sources([f"{norm}-0.1"], tmp_path))[0].style == number
    ((suffix, arms),) = pages(make_arms(find_sources(runs[:8], tmp_path)))
    assert suffix == ""
    assert sorted(arm.style for arm in arms) == list(range(8))


def test_lines_differ_to_the_colour_blind_and_in_grey():
    assert set(COLOURS) == SAFE
    assert len({(style(i).colour, style(i).dash) for i in range(56)}) == 56
    assert len({style(i).marker for i in range(8)}) == 8


def test_layers_are_chosen_by_index_or_pattern_and_by_default_are_convolutions():
    record, cases = synthetic(2), {"": [0, 1, 2], "3 0": [3, 0], "*body* 0": [0, 1, 2], "head": [3]}
    for words, places in cases.items():
        assert [layer.index for layer in choose(record, words.split(), "a")] == places
    for word, said in (("9", "in run 'a'; it has 0 network"), ("network.haed", "'network.head'")):
        with pytest.raises(UserError, match=f"--layers {word}: no such layer.*{said}"):
            choose(record, (word,), "a")
    layers = ("critic.body.0", "critic.body.1", "critic.head", "generator.stem")
    shapes = ((8, 3, 3, 3), (8, 8, 4, 4), (1, 64), (64, 8, 4, 4))
    gan = synthetic(2, layers=layers, shapes=shapes, networks=("critic", "generator"))
    assert [layer.name for layer in choose(gan, (), "a")] == ["critic.body.0", "critic.body.1"]
    layer = Layer(48, "network.blocks.2.layers.15.convolution_in_the_middle", (12, 48, 3, 3))
    assert layer.words(33) == "layer 48 (conv 12x48x3x3)\nnetwork.blocks.…n_in_the_middle"
    assert layer.words(90) == f"layer 48, {layer.name} (conv 12x48x3x3)"


def test_moments_are_the_first_middle_and_last_and_a_run_that_ended_has_none():
    long, short = synthetic(5, every=10), synthetic(2, every=10)
    recorded = [Recorded(None, ((None, short), (None, long)))]  # type: ignore[arg-type]
    assert moments(recorded, lambda record: record.step >= 0) == [0, 20, 40]
    assert moments(recorded, lambda record: record.step >= 30) == [30, 40]
    assert at(long, 40) == 4
    assert at(short, 40) is None


def test_a_running_mean_is_of_fifteen_values_and_the_first_best_epoch_is_selected():
    assert of.running_mean(np.arange(1.0, 18)) == pytest.approx([8, 9, 10])
    assert of.running_mean(np.array([1.0, 5]), window=3).tolist() == [1, 5]
    smooth = of.running_mean(np.array([np.nan, 1.0, 2, 6, 3]), window=3)
    assert smooth == pytest.approx([np.nan, 3, 11 / 3], nan_ok=True)
    assert of.selected([0.5, 0.9, None, 0.9]) == 1
    assert of.selected([None, None]) is None


def test_cumulative_accuracies_of_the_epochs_follow_each_other():
    assert of.cumulative_accuracy([90, 80, 100], 0.9) == pytest.approx([0.9, 0.85, 0.9])
    # The last block of a pass may be shorter.
    assert of.cumulative_accuracy([90, 80, 25], 195 / 232)[-1] == pytest.approx(195 / 232)
    assert of.cumulative_accuracy([0, 0], 0.0).tolist() == [0, 0]
    lines = [
        {"epoch": 1.0, "test_accuracy": 0.6, "test_right": [50, 70]},
        {"epoch": 2.0, "test_accuracy": 0.85, "test_right": [80, 90]},
    ]
    places, values = of.within_epochs(lines)
    assert places == pytest.approx([0.5, 1, 1.5, 2])
    assert values == pytest.approx([0.5, 0.6, 0.8, 0.85])
    assert not len(of.within_epochs([{"epoch": 1.0, "test_accuracy": 0.5}])[0])


def test_a_density_spans_the_values_own_range_and_agrees_with_numpy():
    edges = np.array([1.0, 2, 4])
    new, density = of.linear_density(edges, np.array([[0, 0, 2], [0, 0, 2]]), bins=4)
    assert new.tolist() == [-4, -2, 0, 2, 4]
    assert density.tolist() == [0.25, 0, 0, 0.25]
    assert not of.linear_density(np.array([1.0, 2]), np.zeros((2, 2)))[1].any()
    values = np.random.default_rng(0).normal(0, 0.1, 20_000)
    edges = np.geomspace(1e-4, 10, 400)
    counts = np.zeros((2, len(edges)))
    for sign, each in enumerate((-values[values < 0], values[values >= 0])):
        counts[sign, 0] = (each < edges[0]).sum()
        counts[sign, 1:] = np.histogram(each, edges)[0]
    new, density = of.linear_density(edges, counts)
    assert (density * np.diff(new)).sum() == pytest.approx(1)
    expected = np.histogram(values, new)[0] / len(values) / np.diff(new)
    assert np.abs(density - expected).max() < 0.02 * expected.max()


def test_shares_by_magnitude_are_of_all_entries_and_per_decade():
    edges = np.array([1.0, 10, 1000])
    share = of.by_magnitude(edges, np.array([[1, 2, 0], [1, 2, 4]]))
    assert share.tolist() == [0.4, 0.2]  # 4 of 10 in one decade, 4 of 10 in two
    assert np.isnan(of.by_magnitude(edges, np.zeros((2, 3)))).all()


def test_several_runs_are_their_mean_and_one_sd_where_all_of_them_are():
    first = Curve(np.array([0.0, 1, 2]), np.array([1.0, 2, np.nan]))
    second = Curve(np.array([0.0, 1, 2, 3]), np.array([3.0, 6, 7, 8]))
    made = of.over_runs([first, second])
    assert (made.x.tolist(), made.y.tolist()) == ([0, 1], [2, 4])
    assert made.low == pytest.approx([2 - 2**0.5, 4 - 8**0.5])
    assert made.high == pytest.approx([2 + 2**0.5, 4 + 8**0.5])
    one = Curve(np.array([0.0]), np.array([1.0]))
    assert len(of.over_runs([one, Curve(np.array([5.0]), np.array([1.0]))]).x) == 0
    assert of.over_runs([one]) is one
