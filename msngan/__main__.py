"""The command table. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from importlib import import_module

from msngan import __version__
from msngan.runs.folder import Failure, UserError, did_you_mean

COMMANDS = {
    "fit": "train a GAN or a classifier: --config NAME, then any option",
    "resume": "continue a run exactly where it stopped",
    "sample": "draw images from a run or checkpoint",
    "export": "write a run's generator as a safetensors file, which contains no code",
    "evaluate": "score runs, checkpoints or any images under a named protocol",
    "leaderboard": "rank the runs, each protocol by itself",
    "params": "count each norm's parameters in the paper's networks, beside its Table III",
    "study": "train a grid of runs, resumable as a whole, and end in one table",
    "figures": "draw the paper's Figures 1 to 6 from runs, as released and as stated",
    "report": "write a run, a study or all runs as one self-contained HTML page",
    "configs": "list the configs and studies that are known by name",
    "bench": "measure what a norm costs",
    "extractor": "train or list the small feature extractors that scores use",
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: msngan COMMAND [options]",
            "",
            "GANs and classifiers under mean spectral normalization, with reproducible scores.",
            "",
            *lines,
            "",
            "`msngan COMMAND --help` says more. First: msngan fit --config digits_msn.yaml",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command. 0 done, 2 bad input, 1 failure, 128 + n stopped by signal n."""
    if argv is None:  # a person's command line, to whom our source lines say nothing
        warnings.formatwarning = lambda message, *_, **__: f"msngan: warning: {message}\n"
    arguments = sys.argv[1:] if argv is None else argv
    try:
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
    if command not in COMMANDS:
        near = did_you_mean(command, list(COMMANDS))
        raise UserError(f"unknown command {command!r}{near}; `msngan --help` lists them")
    code: int = import_module(f"msngan.commands.{command}").main(list(arguments))
    return code


def _fail(code: int, problem: Exception) -> int:
    text = " ".join(str(problem).split())
    print(f"msngan: error: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
