"""Which runs are one experiment, in what others differ, and configs that cannot be trusted."""

from __future__ import annotations

from typing import Any

import hostile_data
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


def id_of(**changed: Any) -> str:
    return setup_of(config("x", **changed)).config_id


def test_what_a_trained_network_does_not_depend_on_is_not_in_the_id():
    assert {id_of(**{name.replace(".", "__"): 17}) for name in IRRELEVANT} == {id_of()}


@pytest.mark.quick
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("steps", 2001),
        ("model__norm", "other"),
        ("model__generator_betas", [0.999, 0.5]),
        ("model__new_option", None),
        ("data__batch_size", 32),
        ("trainer__precision", "bf16-mixed"),
        ("trainer__new_option", 1),
        ("new_section", {}),
        ("ckpt_path", "other.ckpt"),
    ],
)
def test_everything_else_and_whatever_is_new_tells_two_configs_apart(key, value):
    assert id_of(**{key: value}) != id_of()


def test_an_id_is_12_hex_digits_of_plain_values():
    assert len(f"{int(id_of(), 16):012x}") == 12
    assert id_of(model__x=10) == id_of(model__x=10.0)  # a whole float is the integer it equals
    assert len({id_of(model__flag=each) for each in (1, True, "1")}) == 3
    # The place of the data counts only where it is the data set.
    for dataset, count in (("cifar10", 1), ("folder", 2)):
        places = [{"data__dataset": dataset, "data__root": place} for place in ("here", "there")]
        assert len({id_of(**each) for each in places}) == count


def test_differences_name_the_options_with_both_values():
    one = setup_of(config("x", model__norm="batch", steps=100))
    other = config("x", model__norm="spectral", steps=100, model__new=[1, 2.5], seed=3, threads=2)
    found = differences([one, setup_of(other)])
    assert found == {"model.norm": ('"batch"', '"spectral"'), "model.new": ("–", "[1, 2.5]")}
    assert differences([one, one]) == {}
    assert in_words(found) == 'model.new (–, [1, 2.5]), model.norm ("batch", "spectral")'
    many = {f"model.x{number}": ("1", "2") for number in range(11)}
    assert in_words(many).endswith("model.x7 (1, 2), 3 more")
    hostile = setup_of(config("x", **{"model__a\x1b[31mb": "c\nd"}))
    assert differences([setup_of(config("x")), hostile]) == {"model.a[31mb": ("–", '"c\\nd"')}


def test_runs_are_told_apart_by_the_options_in_which_they_differ():
    one = {"model.norm": '"batch"', "model.lr": "0.1", "data.size": "32", "steps": "5"}
    runs = {"a": one, "b": {**one, "model.norm": '"layer"', "steps": "9"}, "c": {**one}}
    setups = {name: Setup(name, 0, options) for name, options in runs.items()}
    told = told_apart(["a", "b", "c", "unknown"], setups)
    assert told == {"a": "norm=batch", "b": "norm=layer", "c": "norm=batch"}
    del runs["c"]["model.lr"]
    runs["c"]["data.size"], runs["c"]["model.slope"] = "64", "0.2"
    told = told_apart(["a", "c"], setups)
    assert told == {"a": "size=32, lr=0.1, slope=–", "c": "size=64, lr=–, slope=0.2"}
    assert told_apart(["a", "c"], setups, most=2)["a"] == "size=32, lr=0.1, 1 more"
    assert told_apart(["a"], setups) == {"a": ""}


SOUND = "seed: 0\nsteps: 1\nmodel: {}\ndata: {}\n"
# Refused by the reader of YAML, whatever the config holds besides.
REFUSED = ("python object", "own tag", "billion laughs", "one alias", "merge keys", "key twice")
REFUSED += ("list as key", "deep lists", "deep mappings", "NUL", "endless number", "no mapping")
REFUSED += ("sexagesimal number", "two documents", "no UTF-8", "bell")
HOSTILE = {
    "empty": "",
    "not YAML": "{",
    "a tab": "a:\n\t- b",
    "itself": SOUND + "a: &a [*a]\n",
    "levels": SOUND + "a: " + "[" * (LEVELS + 1) + "]" * (LEVELS + 1),
    "too large": SOUND + "#" * LARGEST_YAML,
    "not a number": SOUND + "a: .nan\n",
    "an infinity": SOUND + "a: .inf\n",
    "a date": SOUND + "a: 2026-01-01\n",
    "not a date": SOUND + "a: 2026-99-99\n",
    "a set": SOUND + "a: !!set {b}\n",
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


def test_a_hostile_config_is_one_warning_and_its_run_is_pooled_with_none(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path, f"config-s{seed}", score_line(1.0 + seed), of="config", seed=seed)
    path = write_run(tmp_path, "z", score_line(3.0)) / "config.yaml"
    runs = find_runs([], tmp_path)
    refused = hostile_data.configs(tmp_path / "canary")
    texts = {name: refused[name] for name in REFUSED}
    for name, text in {**texts, **{name: text.encode() for name, text in HOSTILE.items()}}.items():
        path.write_bytes(text)
        setups, warnings = read_setups(runs)
        assert sorted(setups) == ["config-s0", "config-s1"], name
        (warning,) = warnings
        assert "config.yaml: " in warning
        assert "not pooled with others" in warning
        assert name not in REFUSED or "no 'seed'" not in warning
        assert warning.isprintable()
        assert len(warning) < len(str(tmp_path)) + 200
    made = make_board(read_scores(runs)[0], setups)
    assert [row.run for row in made.blocks[0].rows] == ["config-s0", "config-s1", "z"]
    (pool,) = made.pools.values()
    assert [len(row.members) for row in pool.rows] == [2]
    path.write_text(SOUND)
    assert read_setups(runs)[1] == []


def test_a_config_that_is_no_file_or_that_a_trained_run_lacks_is_a_warning(tmp_path):
    for name in ("gone", "folder", "binary", "samples-of-another-tool"):
        (write_run(tmp_path, name, score_line()) / "config.yaml").unlink()
    (tmp_path / "checkpoints/gone/environment.json").touch()
    (tmp_path / "checkpoints/folder/config.yaml").mkdir()
    (tmp_path / "checkpoints/binary/config.yaml").write_bytes(b"\xff\xfe\x00\xd8")
    setups, warnings = read_setups(find_runs([], tmp_path))
    assert (setups, len(warnings)) == ({}, 3)
    assert not any("another-tool" in warning for warning in warnings)
