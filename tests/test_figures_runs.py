"""Which runs a person means, which of them are one arm, and how arms are told apart."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_figures import make_run, synthetic

from msngan.report.figures import find_sources, make_arms, pages
from msngan.report.figures.arms import FIRST
from msngan.report.figures.moments import at, moments
from msngan.report.figures.records import Recorded, choose
from msngan.report.figures.style import COLOURS, style
from msngan.runs.folder import UserError

# Machado, Oliveira & Fernandes 2009: a colour as one sees it without one kind of cone, linear RGB.
BLINDNESS = {
    "nobody": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216]]
        + [[-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413]]
        + [[-0.011820, 0.042940, 0.968881]]
    ),
}


def study(root: Path, name: str) -> None:
    folder = root / "checkpoints" / name
    folder.mkdir(parents=True)
    (folder / "study.yaml").write_text("seeds: [0]\n")


def names(targets: list[str], root: Path, **chosen: list) -> list[str]:
    return [each.name for each in find_sources(targets, root, **chosen)]


def test_a_run_is_meant_by_its_name_or_folder_and_is_taken_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_run(tmp_path, "a")
    make_run(tmp_path, "b")
    assert names(["a", str(folder), "checkpoints/a", "b"], Path()) == ["a", "b"]
    assert names([str(folder)], tmp_path / "elsewhere") == ["a"]


def test_a_study_means_its_runs_and_none_of_another_study(tmp_path: Path) -> None:
    study(tmp_path, "table")
    study(tmp_path, "table-more")
    for name in ("table-none-s0", "table-msn-s0", "table-more-none-s0", "tables-s0"):
        make_run(tmp_path, name)
    assert names(["table"], tmp_path) == ["table-msn-s0", "table-none-s0"]
    assert names([str(tmp_path / "checkpoints" / "table")], Path()) == names(["table"], tmp_path)
    assert names(["table-more"], tmp_path) == ["table-more-none-s0"]


def test_a_selection_keeps_what_has_all_of_it(tmp_path: Path) -> None:
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


def test_what_is_no_run_is_named_with_what_is_there(tmp_path: Path) -> None:
    make_run(tmp_path, "mnist-s0")
    with pytest.raises(UserError, match=r"'mnist-s1' \(did you mean 'mnist-s0'\?\); here are mn"):
        find_sources(["mnist-s1"], tmp_path)
    study(tmp_path, "empty")
    with pytest.raises(UserError, match=r"study 'empty' has no run yet"):
        find_sources(["empty"], tmp_path)
    folder = make_run(tmp_path, "broken")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"broken/config.yaml: not valid YAML"):
        find_sources(["broken"], tmp_path)


def test_runs_that_differ_in_their_seed_only_are_one_arm(tmp_path: Path) -> None:
    make_run(tmp_path, "a", "spectral", seed=1)
    make_run(tmp_path, "b", "spectral", seed=0)
    make_run(tmp_path, "c", "none")
    arms = make_arms(find_sources(["a", "b", "c"], tmp_path))
    assert [arm.label for arm in arms] == ["none, lr 0.001", "spectral, lr 0.001"]
    assert [source.name for source in arms[1].sources] == ["b", "a"]


def test_the_papers_norms_have_the_same_lines_whatever_else_is_drawn(tmp_path: Path) -> None:
    for norm in (*FIRST, "layer"):
        make_run(tmp_path, norm, norm)
    alone = [make_arms(find_sources([norm], tmp_path))[0].style for norm in (*FIRST, "layer")]
    assert alone == [0, 1, 2, 3, 4]
    every = make_arms(find_sources([*FIRST, "layer"], tmp_path))
    assert [arm.style for arm in every] == alone


def test_an_arm_is_named_by_every_option_that_tells_it_apart(tmp_path: Path) -> None:
    make_run(tmp_path, "a", "mean_spectral")
    make_run(tmp_path, "b", "mean_spectral", norm_options={"gain": True})
    make_run(tmp_path, "c", "mean_spectral", dropout=0.3)
    labels = {arm.label for arm in make_arms(find_sources(["a", "b", "c"], tmp_path))}
    start = "mean_spectral"
    assert labels == {
        *(f"{start}, lr 0.001", f"{start}, gain, lr 0.001", f"{start}, dropout 0.3, lr 0.001"),
    }


def test_a_gan_is_named_by_its_critics_rate(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "gan", "spectral")
    config = json.loads((folder / "config.yaml").read_text())
    config["model"] = {"norm": "spectral", "critic_lr": 2e-4, "generator_lr": 1e-4}
    del config["task"]
    (folder / "config.yaml").write_text(json.dumps(config))
    (arm,) = make_arms(find_sources(["gan"], tmp_path))
    assert arm.label == "spectral, lr 0.0002"
    assert arm.sources[0].task == "gan"


def test_many_arms_have_a_page_for_each_rate_and_a_norm_one_line_on_all(tmp_path: Path) -> None:
    norms = ("batch", "mean_spectral", "none", "spectral", "mean_only")
    for norm in norms:
        for lr in (0.1, 0.001):
            make_run(tmp_path, f"{norm}-{lr}", norm, lr)
    runs = [f"{norm}-{lr}" for norm in norms for lr in (0.1, 0.001)]
    made = pages(make_arms(find_sources(runs, tmp_path)))
    assert [page.suffix for page in made] == ["_lr0.1", "_lr0.001"]
    looks = [[(arm.norm, arm.style) for arm in page.arms] for page in made]
    assert looks[0] == looks[1]
    assert [norm for norm, _ in looks[0]] == ["none", "batch", "spectral", "mean_spectral"] + [
        "mean_only"
    ]
    (one,) = pages(make_arms(find_sources(runs[:8], tmp_path)))
    assert one.suffix == ""
    assert sorted(arm.style for arm in one.arms) == list(range(8))


def test_56_lines_differ_in_print_and_eight_to_the_colour_blind() -> None:
    assert len({(style(i).colour, style(i).dash) for i in range(56)}) == 56
    assert len({style(i).marker for i in range(8)}) == 8
    for matrix in BLINDNESS.values():
        seen = [lab(colour, matrix) for colour in COLOURS]
        far = [np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]]
        assert min(far) > 15


def test_in_grey_two_lines_differ_in_lightness_or_dashes() -> None:
    for i in range(8):
        for j in range(i):
            apart = abs(lab(style(i).colour)[0] - lab(style(j).colour)[0])
            assert apart > 10 or style(i).dash != style(j).dash
    assert all(lab(colour)[0] < 75 for colour in COLOURS)  # against white paper


def lab(colour: str, matrix: np.ndarray = BLINDNESS["nobody"]) -> np.ndarray:
    """CIELAB of an sRGB colour as someone sees it, D65."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(matrix @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratios = to_xyz @ linear / np.array([0.9505, 1.0, 1.089])
    f = np.where(ratios > 0.008856, np.cbrt(ratios), 7.787 * ratios + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_layers_are_chosen_by_index_or_pattern_and_by_default_are_convolutions() -> None:
    record = synthetic(2)
    assert [layer.index for layer in choose(record, (), "a")] == [0, 1, 2]
    assert [layer.index for layer in choose(record, ("3", "0"), "a")] == [3, 0]
    assert [layer.index for layer in choose(record, ("*body*", "0"), "a")] == [0, 1, 2]
    assert [layer.index for layer in choose(record, ("head",), "a")] == [3]
    with pytest.raises(UserError, match=r"--layers 9: no such layer in run 'a'; it has 0 network"):
        choose(record, ("9",), "a")
    with pytest.raises(UserError, match=r"did you mean 'network.head'"):
        choose(record, ("network.haed",), "a")


def test_a_gans_layers_are_its_critics_by_default() -> None:
    layers = ("critic.body.0", "critic.body.1", "critic.head", "generator.stem")
    shapes = ((8, 3, 3, 3), (8, 8, 4, 4), (1, 64), (64, 8, 4, 4))
    record = synthetic(2, layers=layers, shapes=shapes, networks=("critic", "generator"))
    assert [layer.name for layer in choose(record, (), "a")] == ["critic.body.0", "critic.body.1"]


def test_moments_are_the_first_middle_and_last_and_a_run_that_ended_has_none() -> None:
    long, short = synthetic(5, every=10), synthetic(2, every=10)
    recorded = [Recorded(None, ((None, short), (None, long)))]  # type: ignore[arg-type]
    assert moments(recorded, lambda record: record.step >= 0) == [0, 20, 40]
    assert moments(recorded, lambda record: record.step >= 30) == [30, 40]
    assert at(long, 40) == 4
    assert at(short, 40) is None
