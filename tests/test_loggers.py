"""The loggers of --logger: what reaches each, how a resumed run goes on in it, what is refused."""

from __future__ import annotations

import csv
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import QUIET, TINY, Patch, same_bits, weights

from msngan.commands.fit import help_text
from msngan.runs.configs import parse
from msngan.runs.jsonl import read_lines
from msngan.training import loggers

EACH = ["--records.every", "1", "--checkpoint.every", "2", "--samples.every", "3"]
EACH += ["--samples.count", "4", "--dynamics.every", "4"]  # which brings columns of its own
CLOCK = "steps_per_second"


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k != CLOCK} for row in csv.DictReader(file)]


def test_a_csv_has_the_figures_of_metrics_jsonl_and_a_resumed_run_doubles_none(tiny, run):
    folder = tiny("mine", *EACH, "--logger", "csv")
    whole = rows(folder)
    assert [int(row["step"]) for row in whole] == [0, 1, 1, 2, 3, 4, 4, 5, 6, 6]
    for line in read_lines(folder / "metrics.jsonl"):
        del line[CLOCK]
        found = next(r for r in whole if int(r["step"]) == line["step"] and r["critic_loss"])
        assert {name: float(found[name]) for name in line} == line
    assert not (folder / "tensorboard").exists()
    with open(folder / "metrics.csv", "a") as file:
        file.write("7,0.2")  # a kill has cut it
    (folder / "previous.ckpt").replace(folder / "last.ckpt")  # of step 4
    assert run("resume", "mine") == 0
    assert rows(folder) == whole
    assert {path.name for path in folder.iterdir()} >= {"metrics.jsonl", "metrics.csv"}


@pytest.mark.parametrize("damage", [b"", b"\xff\n", b"step\r\n\0\r\n", b"a," * 90_000 + b"\n7\n"])
def test_a_csv_that_was_damaged_stops_no_run(tiny, run, damage, capfd):
    folder = tiny("mine", "--logger", "csv", "--steps", "1", "--records.every", "1")
    (folder / "metrics.csv").write_bytes(damage)
    assert run("resume", "mine", "--steps", "2") == 0
    assert "Traceback" not in capfd.readouterr().err


def test_none_leaves_the_records_alone(tiny):
    folder = tiny("mine", "--logger", "none", "--steps", "1")
    names = {path.name for path in folder.iterdir()}
    assert "metrics.jsonl" in names
    assert not names & {"metrics.csv", "tensorboard", "wandb"}


def test_loggers_are_a_list_in_yaml_and_words_with_commas_on_the_command_line(tmp_path):
    config = tmp_path / "mine.yaml"
    for text, expected in (("[csv, wandb]", ["csv", "wandb"]), ("csv, wandb", ["csv", "wandb"])):
        config.write_text(f"logger: {text}\n")
        assert parse(["-c", str(config)]).logger == expected
        assert parse(["--logger", text]).logger == expected
    assert parse(["--steps", "1"]).logger == "tensorboard"
    assert loggers.chosen(parse(["--logger", "csv,csv"]).logger) == ["csv"]
    assert (
        "one of tensorboard, csv, wandb, none, or a list of them; default: tensorboard"
        in " ".join(help_text("gan").split())
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("tensorbord", "unknown value 'tensorbord' (did you mean 'tensorboard'?)"),
        ("csv,tensorbord", "unknown value 'tensorbord' (did you mean 'tensorboard'?)"),
        ("csv,none", "unknown value 'none'; choose from tensorboard, csv, wandb"),
        ("", "a value is needed"),
    ],
)
def test_an_unknown_logger_is_one_line(refused, value, words):
    assert f"--logger: {words}" in refused("fit", *TINY, "--logger", value)


def test_w_and_b_that_is_not_installed_is_one_line_with_the_command(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert "--logger wandb needs wandb" in refused("fit", *TINY, "--logger", "csv,wandb")


# ---- W&B itself, without a network ----


@pytest.fixture
def wandb(monkeypatch: Patch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The package, in offline mode, with nothing of the user's."""
    found = pytest.importorskip("wandb")
    home = tmp_path_factory.mktemp("home")
    for name in ("DIR", "API_KEY", "PROJECT", "NAME", "RUN_ID", "ENTITY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    for name in ("CONFIG_DIR", "CACHE_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(home / name))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_X_DISABLE_STATS", "true")
    found.teardown()
    yield found
    found.teardown()


def records(folder: Path) -> list[Any]:
    """What the newest session in wandb/ has kept: a file of LevelDB's log format."""
    from wandb.proto.wandb_internal_pb2 import Record

    (path,) = sorted(folder.glob("wandb/offline-run-*"))[-1].glob("*.wandb")
    data, place, parts, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        _, size, kind = struct.unpack_from("<IHB", data, place)
        left = 2**15 - place % 2**15
        if left < 7 or kind == 0:  # the rest of a block
            place += left
            continue
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or a last part
            found.append(Record.FromString(parts))
            parts = b""
    return found


def begun(folder: Path) -> Any:
    (found,) = [each.run for each in records(folder) if each.WhichOneof("record_type") == "run"]
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in each.item}
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
        for each in [record.history]
    ]


def test_w_and_b_gets_scalars_grids_and_all_options_and_a_resumed_run_its_id(
    tiny, run, wandb, capfd
):
    whole = weights(tiny("whole", *EACH, "--logger", "none"))
    folder = tiny("mine", *EACH, "--logger", "tensorboard,csv,wandb")
    assert same_bits(whole, weights(folder))
    assert "`wandb sync " in capfd.readouterr().err
    about = begun(folder)
    assert (about.project, about.display_name) == ("msngan", "mine")
    updates = [u for r in records(folder) for u in (*r.config.update, *r.run.config.update)]
    config = {each.key: json.loads(each.value_json) for each in updates if each.key}
    expected = yaml.safe_load((folder / "config.yaml").read_text())
    assert {name: config[name] for name in expected} == expected
    lines = history(folder)
    losses = {each["_step"]: each["critic_loss"] for each in lines if "critic_loss" in each}
    assert losses == {e["step"]: e["critic_loss"] for e in read_lines(folder / "metrics.jsonl")}
    assert [each["_step"] for each in lines if "samples" in str(each.keys())] == [0, 3, 6]
    pictures = folder.glob("wandb/offline-run-*/files/media/images/*.png")
    assert len([*pictures]) == 4  # three grids, and real images
    assert run("resume", "mine", "--steps", "7") == 0
    again = begun(folder)
    assert (again.run_id, again.project) == (about.run_id, "msngan")
    assert json.loads((folder / "wandb.json").read_text())["id"] == about.run_id


def test_w_and_b_that_fails_is_said_once_and_the_run_goes_on_offline(
    tiny, wandb, monkeypatch, at_step, capfd
):
    begin = wandb.init

    def unreachable(**options: Any) -> Any:
        if wandb.setup().settings.mode != "offline":
            raise wandb.errors.CommError("no route to host")
        made = begin(**options)
        log = made.log
        monkeypatch.setattr(made, "log", lambda *x, **y: broken[0](*x, **y) if broken else log(*x))
        return made

    def broken_log(*given: Any, **named: Any) -> None:
        raise wandb.Error("the service has ended")

    picture = wandb.Image
    monkeypatch.setattr(wandb, "Image", lambda x: broken_log() if broken else picture(x))

    broken: list[Any] = []
    at_step(2, lambda: broken.append(broken_log))
    at_step(4, broken.clear)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.setenv("WANDB_NAME", "first")
    monkeypatch.setattr(wandb, "login", lambda: True)
    monkeypatch.setattr(wandb, "init", unreachable)
    folder = tiny("mine", *EACH, "--logger", "wandb")
    shown = capfd.readouterr().err
    assert shown.count("warning: W&B cannot be reached: no route to host") == 1
    assert shown.count("step 3: wandb cannot be written: the service has ended; training") == 1
    assert shown.count("step 5: wandb can be written again") == 1
    assert (begun(folder).project, begun(folder).display_name) == ("theirs", "first")
    assert json.loads((folder / "wandb.json").read_text())["project"] == "theirs"
    assert (folder / "result.json").exists()


def test_w_and_b_without_a_key_is_refused_with_what_to_do(refused, wandb, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    line = refused("fit", *TINY, *QUIET, "--logger", "wandb")
    assert "login" in line
    assert "WANDB_MODE=offline" in line
