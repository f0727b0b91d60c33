"""msngan configs: the configs that --config knows by name."""

from __future__ import annotations

from msngan.commands.parser import Parser
from msngan.config import known_configs, summary


def main(argv: list[str]) -> int:
    Parser(prog="msngan configs", description="List the known configs.").parse_args(argv)
    known = known_configs()
    width = max(map(len, known), default=0)
    for name, path in sorted(known.items()):
        print(f"{name:{width}}  {summary(path)}")
    return 0
