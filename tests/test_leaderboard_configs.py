from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from score_lines import config, score_line, write_run

from msngan.leaderboard.board import make_board
from msngan.leaderboard.experiments import (
    Setup,
    differences,
    in_words,
    read_setups,
    setup_of,
    told_apart,
)
from msngan.runs.safe_read import LARGEST_YAML, LEVELS
from msngan.runs.score_records import find_runs, read_scores

IRRELEVANT = [
    *("run", "root", "seed", "threads", "detect_anomaly", "samples.every", "samples.removed"),
    *("checkpoint.every", "records.every", "dynamics.every", "health.every", "scores.every"),
    *("scores.new_option", "trainer.accelerator", "trainer.deterministic", "trainer.benchmark"),
    *("trainer.profiler", "data.download", "data.root"),
]


@pytest.mark.parametrize("name", IRRELEVANT)
def test_what_a_trained_network_does_not_depend_on_is_not_in_the_id(name: str) -> None:
    one, other = config("x"), config("x", **{name.replace(".", "__"): 17})
    assert one != other
    assert setup_of(one).config_id == setup_of(other).config_id


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 2001),
        ("model__norm", "other"),
        ("model__critic_lr", 3e-4),
        ("model__generator_betas", [0.999, 0.5]),
        ("model__new_option", None),
        ("data__batch_size", 32),
        ("data__dataset", "digits"),
        ("trainer__precision", "bf16-mixed"),
        ("trainer__new_option", 1),
        ("new_section", {}),
        ("ckpt_path", "other.ckpt"),
    ],
)
def test_everything_else_and_whatever_is_new_tells_two_configs_apart(key: str, value: Any) -> None:  # noqa: ANN401
    assert setup_of(config("x")).config_id != setup_of(config("x", **{key: value})).config_id


def test_differences_name_the_options_with_both_values() -> None:
    one = config("x", model__norm="batch", steps=100)
    other = config("x", model__norm="spectral", steps=100, model__new=[1, 2.5], seed=3, threads=2)
    found = differences([setup_of(one), setup_of(other)])
    assert found == {"model.norm": ('"batch"', '"spectral"'), "model.new": ("–", "[1, 2.5]")}
    assert differences([setup_of(one)] * 2) == {}
    assert in_words(found) == 'model.new (–, [1, 2.5]), model.norm ("batch", "spectral")'
    many = {f"model.x{number}": ("1", "2") for number in range(11)}
    assert in_words(many).endswith("model.x7 (1, 2), 3 more")


def test_a_name_in_a_config_is_shown_without_control_characters() -> None:
    hostile = config("x", **{"model__a\x1b[31mb": "c\nd"})
    assert differences([setup_of(config("x")), setup_of(hostile)]) == {
        "model.a[31mb": ("–", '"c\\nd"')
    }


def test_the_place_of_the_data_counts_only_where_it_is_the_data_set() -> None:
    def config_id(dataset: str, place: str) -> str:
        return setup_of(config("x", data__dataset=dataset, data__root=place)).config_id

    assert config_id("cifar10", "here") == config_id("cifar10", "there")
    assert config_id("folder", "here") != config_id("folder", "there")


def test_an_id_is_12_hex_digits_and_a_whole_float_is_the_integer_it_equals() -> None:
    one, other = (setup_of(config("x", model__penalty_weight=each)) for each in (10, 10.0))
    assert one == other
    assert len(one.config_id) == 12
    int(one.config_id, 16)
    assert one.config_id != setup_of(config("x", model__penalty_weight=True)).config_id
    flags = [setup_of(config("x", model__flag=each)).config_id for each in (1, True, "1")]
    assert len({*flags}) == 3


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{last}, *{last}]\n" for last, name in itertools.pairwise("abcdefghijklmnop")
)
SOUND = "seed: 0\nsteps: 1\nmodel: {}\ndata: {}\n"
HOSTILE = {
    "empty": "",
    "a list": "[1, 2]",
    "a word": "x",
    "no YAML": "{",
    "a tab": "a:\n\t- b",
    "two documents": f"{SOUND}---\n{SOUND}",
    "expanding anchors": SOUND + LAUGHS,
    "one alias": SOUND + "a: &a 1\nb: *a\n",
    "itself": SOUND + "a: &a [*a]\n",
    "merged anchors": SOUND + "a: &a {b: 1}\nc: {<<: *a}\n",
    "a python object": SOUND + "a: !!python/object/apply:os.getcwd []\n",
    "a tag": SOUND + "a: !!timestamp x\n",
    "deep lists": SOUND + "a: " + "[" * (LEVELS + 1) + "]" * (LEVELS + 1),
    "very deep lists": SOUND + "a: " + "[" * 20_000 + "]" * 20_000,
    "deep maps": SOUND + "a: " + "{a: " * 5000 + "1" + "}" * 5000,
    "too large": SOUND + "#" * LARGEST_YAML,
    "not a number": SOUND + "a: .nan\n",
    "an infinity": SOUND + "a: .inf\n",
    "a huge integer": SOUND + f"a: {'9' * 20_000}\n",
    "a sexagesimal float": SOUND + f"a: 1{':1' * 3000}.5\n",
    "a date": SOUND + "a: 2026-01-01\n",
    "no date": SOUND + "a: 2026-99-99\n",
    "a date as a key": SOUND + "a: {2026-01-01: 1}\n",
    "a number as a key": SOUND + "a: {1: 1}\n",
    "a list as a key": SOUND + "? [1]\n: 2\n",
    "a set": SOUND + "a: !!set {b}\n",
    "NUL": SOUND + "a: \x00\n",
    "no seed": SOUND.replace("seed: 0", "other: 0"),
    "a seed in words": SOUND.replace("seed: 0", "seed: zero"),
    "a seed that is true": SOUND.replace("seed: 0", "seed: true"),
    "a negative seed": SOUND.replace("seed: 0", "seed: -1"),
    "half a seed": SOUND.replace("seed: 0", "seed: 0.5"),
    "no model": SOUND.replace("model", "modem"),
    "data that is a number": SOUND.replace("data: {}", "data: 3"),
    "a trainer that is a list": SOUND + "trainer: []\n",
    "scores that are a word": SOUND + "scores: x\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_one_warning_and_its_run_is_pooled_with_none(
    tmp_path: Path, name: str
) -> None:
    for seed in (0, 1):
        write_run(tmp_path, f"config-s{seed}", score_line(1.0 + seed), of="config", seed=seed)
    folder = write_run(tmp_path, "z", score_line(3.0))
    (folder / "config.yaml").write_text(HOSTILE[name])
    runs = find_runs([], tmp_path)
    setups, warnings = read_setups(runs)
    assert sorted(setups) == ["config-s0", "config-s1"]
    assert len(warnings) == 1
    assert "config.yaml: " in warnings[0]
    assert "not pooled with others" in warnings[0]
    assert warnings[0].isprintable()
    assert len(warnings[0]) < len(str(tmp_path)) + 200
    made = make_board(read_scores(runs)[0], setups)
    assert [row.run for row in made.blocks[0].rows] == ["config-s0", "config-s1", "z"]
    (pool,) = made.pools.values()
    assert [len(row.members) for row in pool.rows] == [2]


def test_the_sound_text_that_the_hostile_ones_change_is_sound(tmp_path: Path) -> None:
    (write_run(tmp_path, "run") / "config.yaml").write_text(SOUND)
    setups, warnings = read_setups(find_runs([], tmp_path))
    assert (list(setups), warnings) == (["run"], [])


def test_a_config_that_is_no_file_or_that_a_trained_run_lacks_is_a_warning(tmp_path: Path) -> None:
    for name in ("gone", "folder", "binary", "samples-of-another-tool"):
        (write_run(tmp_path, name, score_line()) / "config.yaml").unlink()
    (tmp_path / "checkpoints/gone/environment.json").touch()
    (tmp_path / "checkpoints/folder/config.yaml").mkdir()
    (tmp_path / "checkpoints/binary/config.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    setups, warnings = read_setups(find_runs([], tmp_path))
    assert setups == {}
    assert len(warnings) == 3
    assert not any("another-tool" in warning for warning in warnings)


def test_runs_are_told_apart_by_the_options_in_which_they_differ() -> None:
    one = {"model.norm": '"batch"', "model.lr": "0.1", "data.size": "32", "steps": "5"}
    runs = {"a": one, "b": {**one, "model.norm": '"layer"', "steps": "9"}, "c": {**one}}
    setups = {name: Setup(name, 0, options) for name, options in runs.items()}
    told = told_apart(["a", "b", "c", "unknown"], setups)
    assert told == {"a": "norm=batch", "b": "norm=layer", "c": "norm=batch"}
    del runs["c"]["model.lr"]
    runs["c"]["data.size"], runs["c"]["model.slope"] = "64", "0.2"
    assert told_apart(["a", "c"], setups) == {
        "a": "size=32, lr=0.1, slope=–",
        "c": "size=64, lr=–, slope=0.2",
    }
    assert told_apart(["a", "c"], setups, most=2)["a"] == "size=32, lr=0.1, 1 more"
    assert told_apart(["a"], setups) == {"a": ""}
