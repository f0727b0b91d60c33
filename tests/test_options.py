"""The table of options: complete, told in plain words, and the only source of what derives from it.

Everything here parses and reads; nothing trains and nothing imports torch.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from conftest import Patch

from msngan.commands.fit import MAIN, described, help_text
from msngan.leaderboard.experiments import setup_of
from msngan.runs.configs import parse
from msngan.runs.folder import NAME, UserError
from msngan.runs.option_values import limits_of, members
from msngan.runs.options import FORMER, SOURCES, Option, Range, Role, group, is_free, options_of
from msngan.runs.safe_read import load_yaml

pytestmark = pytest.mark.quick
OPTIONS = [(task, option) for task in SOURCES for option in options_of(task).values()]
every_option = pytest.mark.parametrize(
    ("task", "option"), OPTIONS, ids=lambda x: x if isinstance(x, str) else x.name
)


def refusal(task: str, *words: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(["--task", task, *words])
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


@pytest.mark.parametrize("task", SOURCES)
def test_the_table_has_what_python_sees_and_every_text(task):
    from msngan import data
    from msngan.classifier import Classifier
    from msngan.gan import GAN
    from msngan.training.tasks import TASKS

    kinds: dict[str, type] = {"model": {"gan": GAN, "classifier": Classifier}[task]}
    kinds["data"] = {"gan": data.ImageData, "classifier": data.LabelledData}[task]
    kinds |= TASKS[task].groups
    for name, kind in kinds.items():
        seen = list(inspect.signature(kind).parameters.values())
        assert [each.name for each in seen] == list(group(task, name)), name
        for each in seen:
            assert group(task, name)[each.name].default == each.default, each
    shown = " ".join(help_text(task).split())
    for option in options_of(task).values():
        assert f"--{option.name} " in shown
        assert len(option.help) > 10
        assert option.role is options_of("gan").get(option.name, option).role
        assert option.help[0].islower() or option.help.split()[0].strip(":") in ("CPU", "Lightning")
        text = described(option)
        assert "default: " in text
        if (limits := limits_of(option.type)) is not None:
            assert str(limits) in text
    main = help_text(task).partition("main options:")[2].partition("options:\n")[0]
    assert 15 <= sum(f"--{name} " in main for name in MAIN) <= 26


# ---- bad input: each option, each way to be wrong, by a config and by the command line ----


def wrong_values(option: Option) -> Iterator[tuple[Any, str]]:
    """Values that the option cannot have, and words of the answer."""
    kinds = members(option.type)
    if type(None) not in kinds:
        yield None, f"--{option.name}: a value is needed; this one is blank"
    if str not in kinds:
        yield "no_such", "'no_such' is n" if get_origin(kinds[0]) is not Literal else "choose from"
        yield "[[1]]", f"--{option.name}: "
    for kind in kinds:
        if get_origin(kind) is Literal:
            near = str(get_args(kind)[0]) + "x"
            hint = "neither" if {bool, int} & {*kinds} else f"unknown value '{near}' (did you mean"
            yield near, hint
    limits = limits_of(option.type)
    if limits is not None:
        value = outside(limits)
        shaped = {list: [value], tuple: [value, value]}.get(get_origin(kinds[0]), value)  # type: ignore[arg-type]
        yield shaped, f"--{option.name} {value}"
        if kinds[0] is int:
            yield 10**19, "is more than"
            yield 1.5, "1.5 is n"
            yield True, "is n"
        if kinds[0] is float:
            yield "nan", "nan is not a finite number"
            most = f"more than {limits.most or 1e30}"
            yield "1e300", f"1e+300 is {'not in' if limits.below else most}"


def outside(limits: Range) -> float:
    if limits.below is not None:
        return limits.below
    return limits.above if limits.above is not None else limits.least - 1  # type: ignore[operator]


@every_option
def test_a_wrong_value_is_one_line_in_a_config_and_on_the_command_line(task, option, tmp_path):
    path = tmp_path / "bad.yaml"
    section, _, own = option.name.rpartition(".")
    for value, words in wrong_values(option):
        if option.name == "task":
            continue  # chosen before any other; see test_a_task_is_known
        path.write_text(yaml.safe_dump({section: {own: value}} if section else {own: value}))
        by_config = refusal(task, "--config", str(path))
        text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
        by_line = refusal(task, f"--{option.name}={text}")
        assert words in by_config
        assert by_config.startswith(f"{path}: --{option.name}")
        same = by_config.removeprefix(f"{path}: "), by_line
        assert len({line.replace("'", "").lower() for line in same}) == 1, same


@every_option
def test_an_unknown_neighbour_is_answered_with_the_name_that_was_meant(task, option, tmp_path):
    path = tmp_path / "bad.yaml"
    wrong = option.name[:-1] + ("y" if option.name[-1] != "y" else "i") + "q"
    section, _, own = wrong.rpartition(".")
    path.write_text(yaml.safe_dump({section: {own: 1}} if section else {own: 1}))
    for line in (refusal(task, "--config", str(path)), refusal(task, f"--{wrong}", "1")):
        assert f"unknown option {wrong!r}" in line
        assert "--help` lists all" in line
    # One letter off is near enough for a hint with some option's name.
    assert "did you mean" in refusal(task, f"--{option.name}x", "1")


@every_option
def test_an_option_of_the_other_task_is_told_from_an_unknown_one(task, option):
    for other in SOURCES:
        if option.name not in options_of(other):
            line = refusal(other, f"--{option.name}", "1")
            assert line.startswith(f"unknown option {option.name!r}")
            assert f"; only a {task.replace('gan', 'GAN')} has it, and this is a " in line


@every_option
def test_the_default_is_a_value_of_the_option(task, option):
    if option.default is not None and option.name != "task":
        text = str(option.default).lower() if isinstance(option.default, bool) else option.default
        texts = [str(text)]
        if isinstance(text, tuple):  # a list with and without brackets
            texts = [str(list(text)), ",".join(map(str, text))]
        for each in texts:
            found = parse(["--task", task, f"--{option.name}={each}"])
            assert found[option.name] == option.default
            assert type(found[option.name]) is type(option.default)


WORDS = [
    (["--steps", "--seed", "1"], "--steps: a value is needed; this one is blank"),
    (["--data.root", "--seed", "1"], "--data.root: a value is needed; this one is blank"),
    (["--task", "gan", "--task"], "--task needs a value: gan or classifier"),
    (["--model.norm_options.gain"], "--model.norm_options.gain: a value is needed"),
    (["--model.norm_options.", "1"], "unknown option 'model.norm_options.'"),
    (["--samples", "5"], "unknown option 'samples' (did you mean 'samples.every' or"),
    (["--model.norm", "msn"], "--model.norm: unknown value 'msn'; choose from none, batch,"),
    (["--model.critic_betas", "0.5"], "'0.5' is not a list of 2 such as [0.5, 0.9]"),
    (["--model.critic_betas", "0,0,9"], "'0,0,9' is not a list of 2 such as [0.5, 0.9]"),
    (["--model.norm_options", "{gain: true, gain: false}"], "('gain' is there twice)"),
    (["--model.norm_options", "{gain: true"], "is not a mapping such as {name: value} ("),
    (["--model.norm_layers", "head"], "'head' is not a list such as [0, head]"),
    (["--model.norm_options", "gain"], "'gain' is not a mapping such as {name: value}"),
    (["--data.channels", "2"], "--data.channels: unknown value '2'; choose from 1, 3"),
    (["--data.size", "30"], "--data.size 30 is not a multiple of 8"),
    (["--lr", "1"], "did you mean 'model.generator_lr' or 'model.critic_lr'"),
    (["digits_msn"], "unknown option 'digits_msn'; a config is given as --config digits_msn"),
    (["--scores.class_path", "os.system"], "unknown option 'scores.class_path'"),
]


@pytest.mark.parametrize(("words", "answer"), WORDS)
def test_errors_are_in_plain_words(words, answer):
    assert answer in refusal("gan", *words)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("just words", "holds no options; write lines such as `steps: 1000`"),
        ("model: [unclosed", "bad.yaml"),
        ("modle: {norm: batch}", "unknown option 'modle'"),
        ("model: os.system", "model must be options, as model: {name: value}"),
        ("config: other.yaml", "a config cannot name another; give --config once for each"),
        ("task: clasifier", "bad.yaml: task 'clasifier' is not known (did you mean 'classifier'?)"),
        ("arms: {a: {}}", "is a study of many runs; train them with `msngan study bad`"),
        ("model: {width: &a 1, critic_width: *a}", "the alias"),
        ("model: {norm: !!python/name:os.system }", "the tag"),
        ("model: {norm_options: '[&a [1], *a]'}", "is not a mapping"),
        ("model: {class_path: os.system, init_args: {}}", "unknown option 'model.class_path'"),
        ("steps: 1\nsteps: 2", "'steps' is there twice"),
        ("1: 2", "unknown option '1'"),
        ("run: 7", "--run: 7 is not text; write it in quotes"),
    ],
)
def test_a_config_is_data_and_what_is_wrong_with_it_is_named(text, answer, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        parse(["--config", str(tmp_path / "bad.yaml")])
    assert answer in str(caught.value)
    assert "bad.yaml" in str(caught.value)


def test_a_task_is_known():
    with pytest.raises(UserError, match=r"--task 'gam' is not known.*'gan'.*use gan or classifier"):
        parse(["--task", "gam"])
    with pytest.raises(UserError, match="digits_cnn3_msn.*this config trains a classifier"):
        parse(["--config", "digits_cnn3_msn", "--task", "gan"])


# ---- what is derived ----


def config(*words: str) -> dict[str, Any]:
    return dict(yaml.safe_load(parse(["--task", "gan", *words]).to_yaml(without=("ckpt_path",))))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_key_of_a_config_is_the_word_that_it_is():
    from msngan.norms import NORMS

    known = [entry.options for entry in NORMS.values() if entry.options is not None]
    options = {name for each in known for name in inspect.signature(each).parameters}
    assert {"on", "off"} <= options
    for word in sorted(options | {"yes", "No", "TRUE", "y", "n", "null", "1", "1.0", "0x1", "1e0"}):
        text = f"model: {{norm_options: {{{word}: 0.5}}, norm: spectral}}"
        assert load_yaml(text)["model"]["norm_options"] == {word: 0.5}
        assert load_yaml(f"{{arms: {{{word}: {{steps: 5}}}}}}") == {"arms": {word: {"steps": 5}}}
    assert load_yaml("{1: on, samples: {film: no}}") == {"1": True, "samples": {"film": False}}


@pytest.mark.usefixtures("here")
def test_the_command_line_wins_wherever_it_stands_then_later_configs():
    Path("a.yaml").write_text("steps: 5\nseed: 1\nmodel: {width: 3, norm_options: {gain: true}}\n")
    Path("b.yaml").write_text("seed: 2\nmodel: {passes: joint, critic_lr: 1e-3}\n")
    words = ["--model.width", "4", "-c", "a.yaml", "--config=b.yaml", "--steps=6", "--steps", "7"]
    found = parse([*words, "--model.norm_options.scale", "2", "--detect-anomaly"])
    assert (found.steps, found.seed, found.model.width, found.detect_anomaly) == (7, 2, 4, True)
    assert found.model.norm_options == {"gain": True, "scale": 2}
    assert (found.model.critic_batch, found.model.critic_lr) == ("joint", 1e-3)
    Path("again.yaml").write_text(found.to_yaml())
    assert parse(["--config", "again.yaml"]).options == found.options


@pytest.mark.usefixtures("here")
def test_names_of_runs_say_the_changes_and_stay_short():
    long = "x" * 90 + " é.yaml"
    Path(long).write_text("steps: 5")
    some = ["--model.norm", "batch", "--model.norm=spectral", "--data.root", "x", "--seed", "3"]
    assert parse(["-c", "digits_msn", *some]).name == "digits_msn-norm=spectral"
    Path("small.yaml").write_text("steps: 5")
    layers = ["--model.norm_layers", "[0, 1, 2, 3, 4, 5]", "--model.other_norm", "batch_no_gain"]
    assert parse(["-c", "small.yaml", "--model.critic_lr=1e-3"]).name == "small-critic_lr=1e_3"
    assert parse(["-c", "small.yaml", *layers, "--model.loss=nonsaturating"]).name == "small"
    every = [f"--{name}={option.default}" for name, option in options_of("gan").items()]
    numbers = [word for word in every if word.startswith("--model.") and word[-1].isdigit()]
    for words in ([], some, numbers):
        name = parse(["-c", long, *words]).name
        assert NAME.fullmatch(f"{name}-s{2**63 - 1}-100".replace("é", "e")), name


@pytest.mark.parametrize("role", Role)
def test_what_only_records_or_repeats_makes_no_second_arm(role):
    other: dict[Any, str] = {int: "7", float: "0.5", bool: "true", str: "other"}
    base = config()
    for name, option in options_of("gan").items():
        if option.role is not role or name in ("task", "data.root", "seed"):
            continue
        kind = next(kind for kind in members(option.type) if kind is not type(None))
        if get_origin(kind) is Literal:
            text = str(next((x for x in get_args(kind) if x != option.default), None))
        elif kind in other:
            text = "false" if option.default is True else other[kind]
        else:
            text = {"norm_options": "{gain: true}", "norm_layers": "[0]"}.get(
                name.partition(".")[2], "[0.1, 0.2]"
            )
        text = {"data.size": "64", "trainer.devices": "2"}.get(name, text)
        if text == "None":
            continue  # a table of one entry
        same = setup_of(config(f"--{name}={text}")).config_id == setup_of(base).config_id
        free = role in (Role.REPEAT, Role.RECORD)
        assert same == (free or name == "ckpt_path"), (name, text)
        assert is_free(name, {}) == free


def test_the_ids_of_older_runs_stay():
    """Of a config that an earlier version wrote: it says passes, and lacks later options."""
    found = config("--config", "digits_msn", "--model.critic_batch", "joint")
    before = yaml.safe_load(yaml.safe_dump(found))
    before["model"]["passes"] = before["model"].pop("critic_batch")
    del before["data"]["on_bad_image"], before["task"]
    assert setup_of(before) == setup_of(found)
    assert setup_of(before).options["model.critic_batch"] == '"joint"'
    assert setup_of(found).config_id == "bc148661db25"
    assert set(FORMER.values()) <= options_of("gan").keys()


def test_adding_an_option_is_one_edit(monkeypatch, tmp_path):
    """A parameter and its line in the docstring suffice for parser, help, ids and checkpoints."""
    from msngan.runs import options

    text = (options.PACKAGE / "gan" / "module.py").read_text()
    for place, new in (
        ("        channels_last: bool", "        fresh: Network[Count] = 3,\n"),
        ("        compile: run", "        fresh: number of new things.\n"),
    ):
        text = text.replace(place, new + place, 1)
    tree = options._tree
    made = options.ast.parse(text)
    monkeypatch.setattr(
        options, "_tree", lambda module: made if module == "gan.module" else tree(module)
    )
    cached = (options.parameters, options.options_of, options.group, options._roles)
    for each in cached:
        each.cache_clear()
    try:
        assert parse(["--model.fresh", "5"]).model.fresh == 5
        assert "number of new things (1 to 1,048,576; default: 3)" in " ".join(
            help_text("gan").split()
        )
        assert "less than 1" in refusal("gan", "--model.fresh", "0")
        assert setup_of(config()) != setup_of(config("--model.fresh", "5"))
        assert options.group("gan", "model")["fresh"].role is Role.NETWORK
    finally:
        monkeypatch.undo()
        for each in cached:
            each.cache_clear()
