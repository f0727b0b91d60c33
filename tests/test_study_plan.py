"""A study file means these runs and no others, or one line says what is wrong with it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from msngan.runs.configs import is_study, known_configs, top_level
from msngan.runs.folder import NAME, UserError
from msngan.study.plan import Study, make_study
from msngan.study.study_files import Place, open_study, read_changes, save_study, started_study

STUDIES = sorted(name for name, path in known_configs().items() if is_study(top_level(path)))
GRID: dict[str, Any] = {
    "config": "digits_cnn3_msn",
    "options": {"epochs": 3, "data": {"limit": 64}},
    "arms": {
        "plain": {"model.norm": "none"},
        "gain": {"model.norm": "mean_spectral", "model.norm_options": {"gain": True}},
    },
    "grid": {"model.lr": [0.1, 0.001], "seed": [0, 1]},
    "compare": [["gain", "plain"]],
}


def study(**changed: Any) -> Study:
    return make_study("mine", {**GRID, **changed})


@pytest.mark.quick
def test_a_grid_is_every_combination_with_the_seeds_outermost():
    children = study().children
    assert [child.name for child in children] == [
        f"mine-{arm}-lr{lr}-s{seed}"
        for seed in (0, 1)
        for arm in ("plain", "gain")
        for lr in (0.1, 0.001)
    ]
    child = children[2]
    msn = {"model.norm": "mean_spectral", "model.norm_options": {"gain": True}, "model.lr": 0.1}
    assert child.options == {"epochs": 3, "data.limit": 64, "seed": 0, **msn}
    assert (child.row, child.column, child.seed) == ("gain", "lr 0.1", 0)
    assert child.command() == (
        "msngan fit --config digits_cnn3_msn --epochs=3 --data.limit=64 --seed=0"
        """ --model.norm=mean_spectral '--model.norm_options={"gain": true}' --model.lr=0.1"""
        " --run mine-gain-lr0.1-s0"
    )


def test_the_rows_are_the_arms_the_first_axis_of_several_values_or_what_the_study_says():
    made = make_study("t", {"config": ["cifar_msn", "cifar_sn"], "grid": {"seed": [3]}})
    assert [child.name for child in made.children] == ["t-cifar_msn-s3", "t-cifar_sn-s3"]
    assert (made.rows, made.columns) == (["cifar_msn", "cifar_sn"], [""])
    base = {"config": "digits_cnn3_msn"}
    assert make_study("t", {**base, "arms": {"a": {}}}).rows == ["a"]
    norms = {"model.norm": ["none", "batch"]}
    assert make_study("t", {**base, "grid": norms}).rows == ["none", "batch"]
    grid = {**norms, "model.lr": [0.1, 0.2]}
    turned = make_study("t", {**base, "grid": grid, "rows": "model.lr"})
    assert (turned.rows, turned.columns) == (["0.1", "0.2"], ["none", "batch"])
    assert study(baseline="plain", compare=[]).pairs == [("gain", "plain")]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"gird": {}}, "no 'gird' (did you mean 'grid'?)"),
        ({"grid": {"seed": [-1]}}, "seed: -1 is not a whole number"),
        ({"grid": {"seed": [0, 0]}}, "seed: 0 is there twice"),
        ({"grid": {"model.lr": 0.1}}, "model.lr: 0.1 is not a list"),
        ({"grid": {"model.lr": []}}, "not a list of values"),
        ({"grid": {"model.betas": [[0.5, 0.9]]}}, "name it in arms"),
        ({"grid": {"model.norm": ["none"]}}, "'model.norm' is an axis of the grid and is set"),
        ({"grid": {"epochs": [1]}}, "'epochs' is an axis of the grid and is set"),
        ({"grid": {"seed": list(range(6000))}}, "more than 10,000"),
        ({"arms": {"a/b": {}}}, "'a/b' cannot be part of a run's name"),
        ({"arms": {}}, "arms: write each"),
        ({"arms": {"plain": [1]}}, "arms: plain: [1] is not a mapping"),
        ({"arms": {"a": {"x": 1}, "b": {"x": 1}}}, "mine-a-lr0.1-s0 and mine-b-lr0.1-s0 set the"),
        ({"arms": {"x" * 90: {}}}, "longer than 100 characters"),
        (
            {"arms": {"a": {}, "a-b": {}}, "grid": {"x": ["b-c", "c"]}},
            "two runs would be named 'mine-a-b-c-s0'",
        ),
        ({"options": {"run": "x"}}, "a study cannot set 'run'"),
        ({"options": {"model": {"lr": 1}, "model.lr": 2}}, "'model.lr' is set twice"),
        ({"compare": [["gain", "plane"]]}, "no arm 'plane' (did you mean 'plain'?)"),
        ({"compare": [["gain", "gain"]]}, "compared with itself"),
        ({"compare": ["gain"]}, "compare: write pairs"),
        ({"baseline": "none"}, "baseline: no arm 'none'"),
        ({"rows": "arms"}, "rows: no axis 'arms' (did you mean 'arm'?)"),
        ({"config": "digits_cnn4"}, "did you mean"),
        ({"config": "study_digits"}, "is a study itself"),
        ({"config": None}, "config: name a run's config"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_with_a_study_is_said(changed, words):
    with pytest.raises(UserError, match=re.escape(words)):
        study(**changed)


def test_every_packaged_study_is_sound():
    wanted = {"table1_mnist", "table1_svhn", "table1_cifar", "table1_fashion", "table2"}
    assert wanted | {"drift_cifar", "study_digits"} <= {*STUDIES}
    for name in STUDIES:
        made = open_study(name, Path(), None, [])
        assert made.name == name
        assert len({child.name for child in made.children}) == len(made.children) > 1
        assert all(NAME.fullmatch(child.name) for child in made.children)
        assert len(made.seeds) > 1, "without seeds there is no interval"
        assert made.pairs
    other = open_study("study_digits", Path(), "other", [])
    assert other.children[0].name.startswith("other-none-")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config: x\ngrid: {seed: [0]}\ngrid: {seed: [1]}\n", "'grid' is there twice"),
        ("[1, 2]\n", "not a mapping of options"),
        ("config: x\narms: [\n", "not valid YAML: line 3: did not find expected node"),
        ("a: &a [x, x]\nb: [*a, *a]\n", "the alias *a is not supported; write the value out"),
        ("model: {norm: none}\n", "msngan fit --config"),
    ],
)
def test_a_file_that_is_not_a_study_is_refused(tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"\A{path}: .*{re.escape(words)}"):
        open_study(str(path), tmp_path, None, [])


def test_changes_apply_to_every_run_and_are_kept_and_exponents_need_no_dot(tmp_path):
    changes = read_changes(["epochs=5", "data.limit=1e2"])
    changed = make_study("mine", GRID, changes)
    assert all({**child.options, **changes} == child.options for child in changed.children)
    assert changes == {"epochs": 5, "data.limit": 1e2}
    place = Place("mine", tmp_path)
    save_study(changed, place)
    assert started_study(place).children == changed.children
    assert open_study("mine", tmp_path, None, []).children == changed.children
    path = tmp_path / "e.yaml"
    path.write_text("config: digits_cnn3_msn\ngrid: {model.lr: [1e-4, 1.0e-3]}\n")
    made = open_study(str(path), tmp_path, None, [])
    assert [child.options["model.lr"] for child in made.children] == [1e-4, 1e-3]
    assert read_changes(["model.norm_options={gain: true}"]) == {
        "model.norm_options": {"gain": True}
    }


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("", None, "--name '' is not a name of a study"),
        ("a/b", None, "--name 'a/b' is not a name of a study"),
        (None, "epochs", "--set 'epochs': write option=value"),
        (None, "run=x", "--set: a study cannot set 'run'"),
        (None, "model.lr=1", "mine.yaml: --set model.lr: the study varies it"),
        (None, "model.norm=none", "mine.yaml: --set model.norm: the study's arms set it"),
    ],
)
def test_a_wrong_option_of_the_command_is_named(tmp_path, monkeypatch, name, change, words):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(GRID))
    with pytest.raises(UserError, match=rf"\A{re.escape(words)}"):
        open_study("mine.yaml", Path(), name, [change] if change else [])
