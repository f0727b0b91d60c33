"""msngan configs: list the configs and studies that are known by name."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

from msngan.commands.parser import Parser
from msngan.runs.configs import is_study, known_configs, summary, top_level

GROUPS = {
    "gan": "GANs: msngan fit --config NAME",
    "classifier": "Classifiers: msngan fit --config NAME",
    "study": "Studies of many runs: msngan study NAME",
}


def main(argv: list[str]) -> int:
    description = "List the known configs and studies, by what they train."
    Parser(prog="msngan configs", description=description).parse_args(argv)
    known = known_configs()
    width = max(map(len, known), default=0)
    groups: dict[str, list[str]] = {name: [] for name in GROUPS}
    # Folded for a person only: what a pipe reads has one line a config.
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for name, path in sorted(known.items()):
        start, rest = f"  {name:{width}}  ", " " * (width + 4)
        lines = textwrap.wrap(
            summary(path),
            max(room, width + 24),
            initial_indent=start,
            subsequent_indent=rest,
            break_on_hyphens=False,
        )
        groups[group_of(path)] += lines or [start.rstrip()]
    shown = [[GROUPS[name], *lines] for name, lines in groups.items() if lines]
    print("\n\n".join("\n".join(lines) for lines in shown))
    return 0


def group_of(path: Path) -> str:
    content = top_level(path)
    if is_study(content):
        return "study"
    return "classifier" if content.get("task") == "classifier" else "gan"
