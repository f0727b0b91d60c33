"""README and the READMEs beside things: links, snippets, commands and tables of names hold."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from test_architecture import FLOORS, FORMER
from torch import nn

from msngan.__main__ import commands as known_commands
from msngan.data import DATASETS, datasets
from msngan.losses import LOSSES, PENALTIES, adversarial
from msngan.norms import NORMS
from msngan.runs.configs import known_configs, parse
from msngan.scores.protocol import preset

HIDDEN = {"__main__", *FORMER}
ROOT = Path(__file__).parent.parent
FOLDERS = ["", "configs", "msngan", "samples/gallery", "tests", "tests/recipes"]
FOLDERS += [
    "checkpoints/zoo",
    "msngan/scores",
    "msngan/norms",
    "msngan/networks",
    "msngan/study",
    "msngan/training",
]
PAGES = [*(ROOT / folder / "README.md" for folder in FOLDERS), ROOT / "msngan" / "DATA.md"]
page = pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(path: Path, kind: str) -> list[str]:
    parts = re.split(r"^```(.*)\n", path.read_text(), flags=re.MULTILINE)
    opened = zip(parts[1::4], parts[2::4], strict=False)  # the next two are the end and the text
    return [text for name, text in opened if name == kind]


def rows(path: Path, heading: str) -> list[list[str]]:
    """The cells of the table whose header begins with `heading`."""
    after = path.read_text().split(f"\n| {heading} |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in after]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def assert_same(heading: str, listed: list[str], known: Iterable[str]) -> None:
    lacks, wrong = sorted({*known} - {*listed}), sorted({*listed} - {*known})
    assert (lacks, wrong) == ([], []), f"README.md, table {heading}: add {lacks}, remove {wrong}"
    assert len(listed) == len(set(listed))


def test_the_readme_has_at_most_250_lines() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 250


@pytest.mark.quick
@page
def test_every_link_and_every_file_that_is_named_is_there(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target
    for name in re.findall(r"\b(?:tests|msngan|configs|samples/gallery)/[\w/]+\.\w+", text):
        assert (ROOT / name).exists() or Path(name).stem in ("mine", "NAME"), name


@pytest.mark.parametrize(
    ("heading", "known"),
    [
        ("`--model.norm`", NORMS),
        ("`--model.loss`", LOSSES),
        ("`--model.penalty`", set(PENALTIES) - {"none"}),
    ],
)
def test_the_tables_of_names_are_whole(heading: str, known: Any) -> None:
    listed = [name for row in rows(PAGES[0], heading) for name in names(row[0])]
    assert_same(heading, listed, known)


@pytest.mark.quick
def test_the_table_of_commands_is_whole() -> None:
    listed = [names(row[0])[0].split()[1] for row in rows(PAGES[0], "command")]
    assert_same("command", listed, known_commands())


@pytest.mark.quick
def test_every_config_is_in_the_page_of_configs() -> None:
    cells = [row[0] for row in rows(ROOT / "configs" / "README.md", "config")]
    patterns = [re.escape(name).replace(r"\*", r"\w+") for cell in cells for name in names(cell)]
    for name in known_configs():
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


@pytest.mark.quick
def test_the_table_of_data_sets_is_that_of_the_code() -> None:
    listed = {}
    for cells in rows(ROOT / "msngan" / "DATA.md", "`--data.dataset`"):
        facts = [int(cell) for cell in cells[3:]]
        listed |= {name: (names(cells[2]), *facts) for name in names(cells[0])}
    known = {
        name: ([*each.splits], each.size, each.channels, each.classes)
        for name, each in DATASETS.items()
        if each.size is not None
    }
    assert listed == known


def commands() -> list[str]:
    found = []
    for path in PAGES:
        for block in blocks(path, ""):
            for line in block.splitlines():
                text = line.split("#")[0].strip()
                if "msngan " in text and "pip install" not in text:
                    found.append("msngan " + text.split("msngan ", 1)[1])
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_every_command_line_has_options_that_exist(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, command, *words = shlex.split(line)
    if command == "fit":
        parse(words)
        return
    module = import_module(f"msngan.commands.{command}")
    own = words[:1] if command in ("bench", "extractor") else []  # their own commands
    with pytest.raises(SystemExit):
        module.main([*own, "--help"])
    text = capsys.readouterr().out
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    # resume takes the options of fit.
    missing = {option for option in options if option not in text}
    assert not missing or command == "resume"


def test_the_python_that_is_shown_runs(
    tiny: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tiny("digits_msn-s0-0", "--data.size", "32")
    for folder in ("", "msngan/norms", "msngan/scores"):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
        network.add_module("fc", nn.Linear(144, 2))
        x, y = torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 0, 1, 1])
        given: dict[str, Any] = {"torch": torch, "network": network, "x": x, "y": y}
        given["criterion"] = nn.CrossEntropyLoss()
        for block in blocks(ROOT / folder / "README.md", "python"):
            block = block.replace("max_steps=2000", "max_steps=2").replace("width=16", "width=2")
            exec(compile(block, f"{folder}/README.md", "exec"), given)
        if folder != "msngan/scores":
            torch.testing.assert_close(given["plain"](x), network.eval()(x), rtol=1e-4, atol=1e-5)
    assert "fd/embed-digits-" in capsys.readouterr().out
    (folders,) = blocks(ROOT / "samples/gallery/README.md", "python")
    exec(folders.replace('"cifar10", "mnist"', '"digits",').replace("1000", "30"), {})
    assert len([*Path("digits_30").glob("*/*.png")]) == 30


def test_the_map_of_rooms_is_that_of_the_architecture() -> None:
    listed = [names(cells[1]) for cells in rows(ROOT / "msngan" / "README.md", "floor")]
    assert listed == [[room for room in floor if room not in HIDDEN] for floor in FLOORS]


def test_what_is_shown_to_be_added_works() -> None:
    *_, norm = blocks(ROOT / "msngan" / "norms" / "README.md", "python")
    loss, data = blocks(ROOT / "msngan" / "README.md", "python")
    given: list[dict[str, Any]] = [{}, dict(vars(adversarial)), dict(vars(datasets))]
    for block, names in zip((norm, loss, data), given, strict=True):
        exec(block, names)
    weight = given[0]["ENTRIES"]["frobenius"].weight(nn.Linear(3, 4), "weight")(torch.ones(4, 4))
    assert weight.unique().tolist() == [0.25]
    ones, added = torch.ones(5), given[1]["LOSSES"]["squared_hinge"]
    assert (added.critic(ones, -ones), added.critic(-ones, ones)) == (0, 8)
    assert (added.generator(ones, ones), added.generator(ones, -ones)) == (0, 4)
    stripes = given[2]["DATASETS"]["stripes"].load(Path(), "all", 8, None, False)
    assert stripes.images.shape == (64, 1, 8, 8)
    assert stripes.images.unique().tolist() == [0, 255]


def test_the_yaml_that_is_shown_is_read(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study,) = blocks(ROOT / "configs" / "README.md", "yaml")
    (tmp_path / "mine.yaml").write_text(study)
    assert run("study", "mine.yaml", "--list", "--format", "json") == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2 * 2 * 3
    (loggers,) = blocks(ROOT / "msngan" / "training" / "README.md", "yaml")
    (tmp_path / "mine.yaml").write_text(loggers)
    assert parse(["--config", "mine.yaml"]).logger == ["tensorboard", "wandb"]
    (protocol,) = blocks(ROOT / "msngan" / "scores" / "README.md", "yaml")
    (tmp_path / "mine.yaml").write_text(protocol)
    assert preset(str(tmp_path / "mine.yaml"))[1].samples == 2000
