"""msngan completion: print the completion script of bash or zsh."""

from __future__ import annotations

import os
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from msngan.commands import fit
from msngan.commands.parser import Parser, option
from msngan.runs import plugins
from msngan.runs.configs import is_study, known_configs, parse, top_level
from msngan.runs.extras import imported
from msngan.runs.folder import Run, UserError, all_runs
from msngan.runs.options import options_of
from msngan.scores.protocol import PRESETS

SHELLS = ("bash", "zsh")
DESCRIPTION = """\
Print a script that completes commands, options, their values, and the names of runs, configs and
studies. For every new shell, add a line to ~/.bashrc or, below compinit, to ~/.zshrc:
source <(msngan completion bash)"""


def main(argv: list[str]) -> int:
    made = Parser(prog="msngan completion", description=DESCRIPTION)
    option(made, "shell", "the shell that is to complete", choices=SHELLS)
    shell = made.parse_args(argv).shell
    library = imported("argcomplete", "msngan completion")
    print(library.shellcode(["msngan"], shell=shell), end="")
    return 0


def answer(commands: dict[str, str]) -> int:
    """Answer the script: the command line is in its variables, the answer goes to its pipe.

    commands: each and what it does. No torch, no plug-in: nothing of the person's is run.
    """
    library = imported("argcomplete", "msngan completion")
    typed = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
    _, _, _, words, _ = library.split_line(typed)
    if len(words) < 2:
        made = Parser(prog="msngan")
        made.add_argument("--version", action="store_true", help="print the version and exit")
        several = made.add_subparsers()
        for name, text in commands.items():
            several.add_parser(name, help=text)
        library.autocomplete(made, always_complete_options=False, exit_method=sys.exit)
    if words[1] not in commands:
        return 2
    os.environ["_ARGCOMPLETE"] = "2"  # the word at which the parser's begin
    task = _task(words[2:])
    if words[1] == "fit":
        _complete(_fit(task), task, always_complete_options=True)
    Parser.asked = partial(_complete, task=task)
    code: int = import_module(f"msngan.commands.{words[1]}").main([])
    return code


def _task(words: list[str]) -> str:
    """What a command line of `fit`, or of `resume`, trains, as far as it is written."""
    if any(Run(word).task == "classifier" for word in words):
        return "classifier"
    with suppress(UserError):
        _, words = plugins.split(words)
    for part in (words, words[:-1]):
        with suppress(UserError):
            return parse(part).task
    return "gan"


def _fit(task: str) -> ArgumentParser:
    """The parser of `fit`, whose options complete their values."""
    made = fit.parser(task)
    for action in made._actions:
        if found := options_of(task).get(action.dest):
            names = [x for x in fit.kinds(found) if get_origin(x) is Literal]
            values = [str(value) for each in names for value in get_args(each)]
            if bool in fit.kinds(found):
                values += ["true", "false"]
            if values:  # not `choices`, which the words before the cursor would have to be
                action.completer = partial(_values, values)  # type: ignore[attr-defined]
    return made


def _values(values: list[str], **_: object) -> list[str]:
    return values


def _complete(made: ArgumentParser, task: str, always_complete_options: bool = False) -> None:
    """Write what can stand at the cursor, and end the process."""
    import argcomplete

    if isinstance(made, Parser) and made.others:  # resume takes the options of fit
        known = made._option_string_actions
        for action in _fit(task)._actions:
            if not known.keys() & {*action.option_strings}:
                made._add_action(action)
    if plugins.FLAG not in made._option_string_actions:
        made.add_argument(plugins.FLAG, help="Python file that is run first: your own code")
    parsers = [made]
    for action in made._actions:
        if isinstance(action.choices, dict):
            parsers += action.choices.values()
    for action in (action for each in parsers for action in each._actions):
        if action.dest in COMPLETERS and not (action.dest == "run" and action.option_strings):
            action.completer = COMPLETERS[action.dest]  # type: ignore[attr-defined]
    argcomplete.autocomplete(
        made, always_complete_options=always_complete_options, exit_method=sys.exit
    )


def _files(prefix: str, *endings: str) -> list[str]:
    """Folders, and files with one of these endings."""
    from argcomplete.completers import FilesCompleter

    return [*FilesCompleter(endings)(prefix)]


def _runs(prefix: str, parsed_args: Any, **_: object) -> list[str]:
    root = Path(getattr(parsed_args, "root", None) or ".")
    names = [run.name for run in all_runs(root)]
    return names + _files(prefix, "ckpt", "safetensors", "onnx", "pt")


def _configs(prefix: str, *, studies: bool = False, **_: object) -> list[str]:
    known = known_configs().items()
    names = [name for name, path in known if is_study(top_level(path)) == studies]
    return names + _files(prefix, "yaml", "yml")


def _datasets(**_: object) -> list[str]:
    return [*get_args(options_of("gan")["data.dataset"].type)]


def _protocols(prefix: str, **_: object) -> list[str]:
    return [*PRESETS, *_files(prefix, "yaml", "yml")]


# What completes an argument of this name, of any command.
COMPLETERS: dict[str, Callable[..., list[str]]] = {
    **dict.fromkeys(("run", "runs", "target", "targets", "compare"), _runs),
    "config": _configs,
    "study": partial(_configs, studies=True),
    "dataset": _datasets,
    "protocol": _protocols,
}
