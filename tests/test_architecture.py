"""Imports point down, and what should be quick imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import msngan
from msngan.runs.folder import counted, plural

PACKAGE = Path(msngan.__file__).parent
FLOORS = [  # from the top: a room imports from the floors below it only
    ["__main__", "commands"],
    ["report", "register"],
    ["study", "bench"],
    ["training"],
    ["gan", "classifier", "scores", "models"],
    ["networks", "losses"],
    ["norms", "data", "leaderboard"],
    ["runs"],
]
FLOOR = {room: index for index, rooms in enumerate(FLOORS) for room in rooms}
FORMER = {"models"}  # former names of rooms


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The parts of msngan that a file imports when it runs, in functions too."""
    found = set()
    tree = ast.parse(path.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("msngan"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("msngan.")}
    return {name for name in found if name != "__version__"}


def rooms() -> dict[str, list[Path]]:
    """Each room of msngan with its files."""
    found: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path != PACKAGE / "__init__.py":
            found.setdefault(part(path), []).append(path)
    return found


@pytest.mark.parametrize("room", sorted(FLOOR))
def test_a_room_imports_from_the_floors_below_it_only(room: str) -> None:
    others = set().union(*(imports(path) for path in rooms()[room])) - {room}
    assert not {other for other in others if FLOOR[other] <= FLOOR[room]}


def test_the_house_has_fifteen_rooms_on_at_most_eight_floors() -> None:
    assert set(rooms()) == set(FLOOR)
    assert len(set(rooms()) - FORMER - {"__main__"}) <= 15
    assert len(FLOORS) <= 8


def loaded_after(*arguments: object) -> set[str]:
    code = (
        "import sys, msngan.__main__ as m\n"
        "try: m.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print('\\nLOADED', *[n for n in sys.modules if '.' not in n])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(shown.stdout.rsplit("LOADED", 1)[1].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["configs"],
        ["leaderboard"],
        ["leaderboard", "--help"],
        ["sample", "--help"],
        ["resume", "--help"],
        ["evaluate", "--help"],
        ["evaluate", "nothing"],
        ["study", "--help"],
        ["study", "nothing"],
        ["figures", "--help"],
        ["figures", "nothing"],
        ["report", "--help"],
        ["report", "nothing"],
        ["params", "--help"],
        ["params", "--width", "0"],
        ["extractor", "--help"],
        ["fti"],
        ["fit", "--config", "nothing"],
        ["fit", "--help"],
        ["fit", "--steps", "x"],
        ["resume", "nothing"],
        ["sample", "nothing"],
        ["sample"],
    ],
    ids=" ".join,
)
def test_help_and_usage_errors_do_not_import_torch(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not loaded_after(*arguments) & {"torch", "pytorch_lightning", "torchvision"}


def test_help_takes_less_than_importing_numpy() -> None:
    # A fact about what is imported: the help loads none of what numpy needs.
    assert not loaded_after("--help") & {"numpy", "rich", "yaml"}


READERS = {  # who may call what reads a format; each has one policy
    r"json\.loads?\(|JSONDecoder\(": {"runs/safe_read.py"},
    r"yaml\.(safe_|full_|unsafe_)?load\(": {"runs/safe_read.py"},
    r"np\.load\(|NpzFile": set[str](),
    r"safe_open\(|safetensors\.torch\.load": {"runs/safe_read.py"},
    r"torch\.load\(": {"runs/checkpoint_files.py"},
    r"jit\.load\(|onnx\.load|InferenceSession\(": {"networks/generator_programs.py"},
}


@pytest.mark.parametrize("call", READERS)
def test_files_of_a_format_are_read_in_one_place(call: str) -> None:
    texts = {path.relative_to(PACKAGE).as_posix(): path for path in PACKAGE.rglob("*.py")}
    assert {name for name, path in texts.items() if re.search(call, path.read_text())} == READERS[
        call
    ]


# Words of what is counted, behind a number of it; each in a message that can say 1 of it.
THINGS = """
    batches channels classes columns cores epochs evaluations features GPUs grids images labels
    layers lines measurements members neighbours pairs pixels processes rows runs samples
    seeds sets splits steps values vectors
"""
BEHIND = re.compile(
    rf" (?:(?:more|other|test|real|whole|training) )?({'|'.join(THINGS.split())})\b(?!/)"
)
# By file: what is counted there is more than one, or what stands before is no number.
SEVERAL = {
    "data/datasets.py": "images",
    "data/image_files.py": "images",
    "report/html/run_section.py": "layers grids",
    "data/hub.py": "columns",
    "data/pictures.py": "pixels",
    "report/generator_card.py": "images pixels samples",
    "report/html/pictures.py": "pixels",
    "networks/attention.py": "pixels",
    "report/figures/run_records.py": "runs",
    "networks/updates.py": "processes",
    "training/launch.py": "processes",
    "scores/protocol.py": "samples splits",
    "scores/scorer.py": "samples images",
    "scores/evaluation.py": "samples",
    "leaderboard/ranking.py": "samples features",
    "study/plan.py": "runs",
    "runs/checkpoint_files.py": "members",
    "runs/distributed.py": "rows",
    "scores/embedded.py": "channels",
    "scores/distances.py": "rows",
    "report/tables/bench_tables.py": "images",
    "scores/model_card.py": "images",
    "training/callbacks/scores.py": "evaluations samples",
}


@pytest.mark.quick
def test_a_number_and_the_word_behind_it_agree() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for text in parts:
                if isinstance(text, ast.Constant) and re.search(r"[a-z]\(s\)", str(text.value)):
                    found.append(f"{name}:{text.lineno}: {text.value}")
            for value, text in zip(parts, parts[1:], strict=False):
                if not isinstance(value, ast.FormattedValue) or not isinstance(text, ast.Constant):
                    continue
                behind, number = BEHIND.match(str(text.value)), ast.unparse(value.value)
                constant = number.rpartition(".")[2].isupper()
                if behind and not constant and behind[1] not in SEVERAL.get(name, "").split():
                    found.append(f"{name}:{value.lineno}: {{{number}}}{text.value}")
    assert not found, f"use msngan.runs.folder.counted or plural: {found}"
    assert [counted(count, "run") for count in (0, 1, 1234)] == ["0 runs", "1 run", "1,234 runs"]
    assert plural(1.0, "class", "classes") == "class"
