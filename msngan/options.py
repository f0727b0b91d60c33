"""The strict parser of `fit`: LightningCLI with named configs and short errors.

Every option is a parameter of a fixed class, documented there; names come from the tables. A config
is read as data: it cannot name a class or a function to import.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import warnings
from typing import Any, Literal, NoReturn

from jsonargparse import ActionConfigFile, Namespace, set_parsing_settings
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from msngan import checks
from msngan.callbacks import Checkpoints, Records, Samples, Scores
from msngan.config import find_config
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.runs import UserError, did_you_mean

# The Trainer's options that a GAN's step obeys. The rest either count epochs or validation, which
# do not exist here, or are refused in manual optimization.
TRAINER_OPTIONS = {"accelerator", "devices", "num_nodes", "deterministic", "benchmark"}
TRAINER_OPTIONS |= {"detect_anomaly", "profiler"}
# Not float16: two losses share one scaler, and a spectral norm has no business there.
Precision = Literal["32-true", "bf16-mixed", "64-true"]


# jsonargparse's ways to say that an option does not exist; the last quoted word is the option.
UNKNOWN = r"(?:accept (?:option|key) |^Option |[Uu]nrecognized arguments: (?:--)?)'?([\w.]+)"


class Parser(LightningArgumentParser):
    """Answers an error with one line, exit code 2 and a near name."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        # LightningArgumentParser is built with exit_on_error, so raising leaves parse_args.
        raise UserError(self._explain(message))

    def _explain(self, message: str) -> str:
        message = re.sub(r"\s+", " ", message).strip()
        kind = r'[Kk]ey "([\w.]+)": (.*)'
        if match := re.search(kind, message):
            name, problem = match.groups()
            if literal := re.search(r"Literal\[(.*)\]\. Got value: (.*)", problem):
                known = re.findall(r"'([^']*)'", literal.group(1))
                word = literal.group(2)
                return f"--{name}: no {word!r}{did_you_mean(word, known)}; use {', '.join(known)}"
            if union := re.search(r"Subtypes: \[(.*)\] Errors: .* Given value: (.*)", problem):
                return f"--{name}: {_no_kind_of(*union.groups())}"
            problem = re.sub(
                r"Expected a <class '(\w+)'>\. Got value: (.*)", r"\2 is no \1", problem
            )
            return f"--{name}: {problem}"
        unknown = re.search(UNKNOWN, message)
        known = [action.dest for action in self._actions]
        if unknown and unknown.group(1) not in known:
            word = unknown.group(1)
            return f"unknown option {word!r}{_near(word, known)}; `msngan fit --help` lists all"
        return message


def _no_kind_of(kinds: str, value: str) -> str:
    """That a value is of none of the kinds, which are in jsonargparse's words."""
    kinds = re.sub(r"<class '(\w+)'>", r"\1", kinds).replace("NoneType", "null")
    names = re.split(r", (?![^\[]*\])", kinds)
    example = {"list": "; a list is written [0, head]", "dict": "; one is written {name: value}"}
    written = example.get(names[0].partition("[")[0], "")
    return f"{value!r} is neither {' nor '.join(names)}{written}"


def _near(word: str, known: list[str]) -> str:
    """A known option like `word`, with or without the group that it belongs to."""
    whole = {name: name for name in known}
    last = {name.rpartition(".")[2]: name for name in known if "." in name}
    near = difflib.get_close_matches(word, [*whole, *last], n=1)
    return f" (did you mean {(whole | last)[near[0]]!r}?)" if near else ""


class NamedConfig(ActionConfigFile):
    """--config by path or by name."""

    def __call__(self, parser: Any, config: Any, values: Any, option: str | None = None) -> None:
        path = find_config(str(values))
        try:
            super().__call__(parser, config, str(path), option)
        except UserError as problem:  # explained already
            raise UserError(f"{path}: {problem}") from problem
        except (TypeError, ValueError) as problem:
            raise UserError(f"{path}: {parser._explain(str(problem))}") from problem
        parser.config_stems = [*getattr(parser, "config_stems", []), path.stem]


class FitCLI(LightningCLI):
    """Parses; building and training are msngan.training's."""

    def __init__(self, args: list[str]) -> None:
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=["msngan"],
        )
        super().__init__(
            GAN,
            ImageData,
            save_config_callback=None,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=Parser,
            parser_kwargs={
                "allow_abbrev": False,
                "prog": "msngan fit",
                "description": "Train a GAN.",
            },
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        parser = self.parser_class(**kwargs)
        parser.add_argument(
            "-c", "--config", action=NamedConfig, help="Config file, or the name of a known one."
        )
        parser.add_argument("--run", type=str | None, default=None, help="Name of the run.")
        parser.add_argument(
            "--root", type=str, default=".", help="Folder of checkpoints/, samples/."
        )
        parser.add_argument("--steps", type=int, default=100_000, help="Generator updates.")
        parser.add_argument("--seed", type=int, default=0, help="Of every random number.")
        parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all.")
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Start a new run from a checkpoint."
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """None of Lightning's own: --seed above takes the place of --seed_everything."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        import inspect

        names = set(inspect.signature(Trainer).parameters)
        parser.add_class_arguments(
            Trainer, "trainer", skip=names - TRAINER_OPTIONS, instantiate=False
        )
        parser.add_argument(
            "--trainer.precision", type=Precision, default="32-true", help="Of the arithmetic."
        )
        hidden = {"seed", "steps", "channels", "size"}
        parser.add_class_arguments(GAN, "model", skip=hidden, instantiate=False)
        parser.add_class_arguments(ImageData, "data")
        parser.add_class_arguments(Scores, "scores")
        parser.add_class_arguments(Samples, "samples")
        parser.add_class_arguments(Checkpoints, "checkpoint")
        parser.add_class_arguments(Records, "records")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config: Namespace = parser.parse_args(args)

    def _set_seed(self) -> None:
        """Randomness is derived from --seed where it is drawn."""

    def instantiate_classes(self) -> None:
        """Left to msngan.training."""


def parse(args: list[str]) -> FitCLI:
    """Parse and check what single types cannot say; raises UserError."""
    quiet()
    cli = FitCLI(args)
    # Plain ints, checked here: jsonargparse's own kinds of int would end up in checkpoints.
    for name, least in (("steps", 1), ("seed", 0), ("threads", 0)):
        checks.at_least(f"--{name}", cli.config[name], least)
    return cli


def quiet() -> None:
    """Keep third parties' advertisements and notices about their own insides from the terminal."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="pytorch_lightning")
