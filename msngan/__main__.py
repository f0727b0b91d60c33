"""The commands of msngan/commands. Nothing heavy is imported before one is chosen."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from importlib import import_module
from pathlib import Path

from msngan import __version__
from msngan.runs import plugins
from msngan.runs.folder import Failure, UserError, did_you_mean

FIRST = ("fit", "resume", "sample", "export", "evaluate", "leaderboard")  # as the help lists them


def commands() -> dict[str, str]:
    """Every command and what it does: its file begins with msngan, its name, a colon and that."""
    found = {}
    for path in sorted(Path(__file__).with_name("commands").glob("*.py")):
        with path.open(encoding="utf-8") as file:
            before, _, text = file.readline().partition(": ")
        if before == f'"""msngan {path.stem}':
            found[path.stem] = text.strip().strip('."')
    return {name: found[name] for name in dict.fromkeys([*FIRST, *found])}


def usage() -> str:
    known = commands()
    width = max(map(len, known))
    lines = [f"  {name:{width}}  {text}" for name, text in known.items()]
    return "\n".join(
        [
            "usage: msngan COMMAND [options]",
            "",
            "GANs and classifiers under mean spectral normalization, with reproducible scores.",
            "",
            *lines,
            "",
            "`msngan COMMAND --help` says more. First: msngan fit --config digits_msn.yaml",
            "--plugin FILE.py, at any command, runs that file first: your own networks and data.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. 0 done, 2 bad input, 1 failure, 128 + n stopped by signal n."""
    if argv is None:  # a person's command line, to whom our source lines say nothing
        warnings.formatwarning = lambda message, *_, **__: f"msngan: warning: {message}\n"
    arguments = sys.argv[1:] if argv is None else argv
    try:
        if argv is None and "_ARGCOMPLETE" in os.environ:  # the script of `msngan completion` asks
            code = import_module("msngan.commands.completion").answer(commands())
        else:
            code = _run(*arguments or ["--help"])
        sys.stdout.flush()  # here, where a reader that has gone is no error
        return code
    except UserError as problem:
        return _fail(2, problem)
    except Failure as problem:
        return _fail(1, problem)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output (head, say) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the exit
        return 0
    except OSError as problem:
        if problem.errno != errno.ENAMETOOLONG:
            raise
        return _fail(2, UserError(f"no file can have so long a name: {str(problem.filename)[:60]}"))


def _run(command: str, *arguments: str) -> int:
    if command in ("-h", "--help", "help"):
        print(usage())
        return 0
    if command == "--version":
        print(f"msngan {__version__}")
        return 0
    if command not in (known := commands()):
        near = did_you_mean(command, list(known))
        raise UserError(f"unknown command {command!r}{near}; `msngan --help` lists them")
    names, rest = plugins.split(arguments)
    plugins.load(names)
    code: int = import_module(f"msngan.commands.{command}").main(rest)
    return code


def _fail(code: int, problem: Exception) -> int:
    text = " ".join(str(problem).split())
    print(f"msngan: error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
