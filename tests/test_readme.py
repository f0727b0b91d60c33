"""README and the READMEs beside things: links, snippets, commands, tables and numbers hold."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from msngan.__main__ import COMMANDS
from msngan.losses import LOSSES, PENALTIES
from msngan.norms import NORMS
from msngan.runs.configs import known_configs
from msngan.runs.fit_config import parse

ROOT = Path(__file__).parent.parent
FOLDERS = ["", "configs", "msngan", "msngan/scores", "msngan/norms", "samples/gallery", "tests"]
PAGES = [ROOT / folder / "README.md" for folder in FOLDERS]
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


def test_the_readme_has_at_most_250_lines() -> None:
    assert len(PAGES[0].read_text().splitlines()) <= 250


@page
def test_every_link_leads_to_a_file(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


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
    assert sorted(listed) == sorted(known)


def test_the_table_of_commands_is_whole() -> None:
    listed = [names(row[0])[0].split()[1] for row in rows(PAGES[0], "command")]
    assert sorted(listed) == sorted(COMMANDS)


def test_every_config_is_in_the_page_of_configs() -> None:
    cells = [row[0] for row in rows(ROOT / "configs" / "README.md", "config")]
    patterns = [re.escape(name).replace(r"\*", r"\w+") for cell in cells for name in names(cell)]
    for name in known_configs():
        assert any(re.fullmatch(pattern, name) for pattern in patterns), name


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
    with pytest.raises(SystemExit):
        module.main(["--help"])
    text = capsys.readouterr().out
    options = {word.partition("=")[0] for word in words if word.startswith("--")}
    # resume takes the options of fit.
    missing = {option for option in options if option not in text}
    assert not missing or command == "resume"


@pytest.mark.parametrize(
    "path", [PAGES[0], ROOT / "msngan" / "norms" / "README.md"], ids=["README", "norms"]
)
def test_the_python_that_is_shown_runs(path: Path, tiny: Callable[..., Path]) -> None:
    tiny("digits_msn-s0-0")
    layers = [nn.Conv2d(3, 4, 3), nn.Flatten()]
    network = nn.Sequential(*layers)
    network.add_module("fc", nn.Linear(144, 2))
    given: dict[str, Any] = {
        "torch": torch,
        "network": network,
        "criterion": nn.CrossEntropyLoss(),
        "x": torch.randn(5, 3, 8, 8),
        "y": torch.tensor([0, 1, 0, 1, 1]),
    }
    for block in blocks(path, "python"):
        exec(block, given)
    x = given["x"]
    torch.testing.assert_close(given["plain"](x), given["network"].eval()(x), rtol=1e-4, atol=1e-5)


def test_the_table_of_speed_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "samples/gallery/bench_core.json").read_text())
    ratios = {row["name"]: row["ratio"] for row in record["results"]}
    checked = 0
    for row in rows(ROOT / "msngan" / "norms" / "README.md", "norm"):
        for name in names(row[0]):
            ours = {"torch.nn.utils.parametrizations.spectral_norm": "torch SN"}.get(name, name)
            if ours in ratios and row[1].count(".") == 1:
                assert float(row[1]) == pytest.approx(ratios[ours]["median"], abs=6e-4)
                low, high = (float(each) for each in row[2].split(" to "))
                assert low == pytest.approx(ratios[ours]["low"], abs=6e-4)
                assert high == pytest.approx(ratios[ours]["high"], abs=6e-4)
                checked += 1
    assert checked >= 4


def test_the_result_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "samples/gallery/cifar10.json").read_text())
    header, _, *lines = (
        PAGES[0].read_text().split("| config | critic |")[1].split("\n\n")[0].splitlines()
    )
    steps = [int(re.sub(r"\D", "", cell)) for cell in header.strip("|").split("|")]
    for line in lines:
        name, _, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        run = record["runs"][f"{names(name)[0]}-w16-s0"]
        found = {score["step"]: score["fd"]["mean"] for score in run["scores"]}
        for step, cell in zip(steps, cells, strict=True):
            if cell != "–":
                assert cell == f"{found[step]:.2f}"


def test_the_table_of_accuracy_is_that_of_its_record() -> None:
    record = json.loads((ROOT / "samples/gallery/bench_sigma.json").read_text())
    text = (ROOT / "msngan" / "norms" / "README.md").read_text()
    table = text.split("| | step 1 |")[1].split("\n\n")[0].splitlines()
    listed = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]
    measured = [row for row in record["results"] if row["measured_updates"] == 2000]
    assert len(listed) == len(measured) == 8
    for cells, row in zip(listed, measured, strict=True):
        assert ("one vector" in cells[0]) == ("one vector" in row["name"])
        assert "one vector" in cells[0] or row["name"].startswith(names(cells[0])[0])
        for step, cell in zip(("1", "10", "100", "500", "2000"), cells[1:6], strict=True):
            assert cell == f"{row['at'][step]:.3f}"
        assert cells[6] == f"{row['largest']:.3f}, {row['largest_step']:,}"
        assert cells[7].split(" of ")[0] == f"{row['above_allowed']:,}"
