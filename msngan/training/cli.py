"""The options of each task: LightningCLI with fixed classes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from jsonargparse import Namespace, set_parsing_settings
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from msngan.classifier import Classifier
from msngan.data import ImageData, LabelledData
from msngan.gan import GAN
from msngan.runs.folder import UserError
from msngan.training.callbacks import (
    Accuracy,
    Checkpoints,
    Dynamics,
    Health,
    Records,
    Samples,
    Scores,
)
from msngan.training.parser import NamedConfig, Parser, strict_yaml

# The Trainer's options that a step obeys. The rest either count epochs or validation, which do not
# exist here, or are refused in manual optimization.
TRAINER_OPTIONS = {"accelerator", "devices", "num_nodes", "deterministic", "benchmark"}
TRAINER_OPTIONS |= {"detect_anomaly", "profiler"}
# Not float16: two losses share one scaler, and a spectral norm has no business there.
Precision = Literal["32-true", "bf16-mixed", "64-true"]

PROG = {"gan": "msngan fit", "classifier": "msngan fit --task classifier"}
DESCRIPTIONS = {
    "gan": "Train a GAN. `msngan fit --task classifier --help` has a classifier's options.",
    "classifier": "Train a classifier. `msngan fit --help` has a GAN's options.",
}
# What PyYAML and jsonargparse raise for a value that is not what its tag says, as !!timestamp x,
# and for one with a NUL in it or nested too deep.
NONSENSE = (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError)


class FitCLI(LightningCLI):
    """Parses; building and training are msngan.training's. One subclass a task.

    Every option is a parameter of a fixed class, documented there; names come from the tables. A
    config is read as data: it cannot name a class or a function to import.
    """

    task: ClassVar[str]
    module_class: ClassVar[type[LightningModule]]
    data_class: ClassVar[type[ImageData]]
    hidden: ClassVar[set[str]]  # arguments of the model that `fit` sets
    callback_classes: ClassVar[dict[str, type[Callback]]]  # options by group
    changes = ""  # of the command line, as a run's name has them

    def __init__(self, args: list[str]) -> None:
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=["msngan"],
        )
        strict_yaml()
        super().__init__(
            self.module_class,
            self.data_class,
            save_config_callback=None,
            args=args,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_class=Parser,
            parser_kwargs={
                "allow_abbrev": False,
                "prog": PROG[self.task],
                "description": DESCRIPTIONS[self.task],
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
        tasks = Literal[self.task] if TYPE_CHECKING else Literal[(self.task,)]
        parser.add_argument("--task", type=tasks, default=self.task, help="What is trained.")
        self.add_budget(parser)
        parser.add_argument("--seed", type=int, default=0, help="Of every random number.")
        parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: all.")
        parser.add_argument(
            "--detect-anomaly",
            action="store_true",
            help="Name the layer that a NaN begins in; slower, the same bits.",
        )
        parser.add_argument(
            "--ckpt_path", type=str | None, default=None, help="Start a new run from a checkpoint."
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """None of Lightning's own: --seed above takes the place of --seed_everything."""

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        names = set(inspect.signature(Trainer).parameters)
        parser.add_class_arguments(
            Trainer, "trainer", skip=names - TRAINER_OPTIONS, instantiate=False
        )
        for action in parser._actions:
            if action.dest == "trainer.detect_anomaly":
                action.help = "The same as --detect-anomaly; torch's own mode stays off."
        parser.add_argument(
            "--trainer.precision", type=Precision, default="32-true", help="Of the arithmetic."
        )
        parser.add_class_arguments(self.module_class, "model", skip=self.hidden, instantiate=False)
        parser.add_class_arguments(self.data_class, "data")
        for group, kind in self.callback_classes.items():
            parser.add_class_arguments(kind, group)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        try:
            self.config: Namespace = parser.parse_args(args)
        except UserError:
            raise
        except NONSENSE as problem:
            reason = " ".join(str(problem).split())[:200] or type(problem).__name__
            raise UserError(f"an option's value cannot be read: {reason}") from problem

    def _set_seed(self) -> None:
        """Randomness is derived from --seed where it is drawn."""

    def instantiate_classes(self) -> None:
        """Left to msngan.training."""

    def add_budget(self, parser: LightningArgumentParser) -> None:
        """How long training is."""
        raise NotImplementedError


class GanCLI(FitCLI):
    """`task: gan`, which is the default."""

    task, module_class, data_class = "gan", GAN, ImageData
    hidden: ClassVar[set[str]] = {"seed", "steps", "channels", "size"}
    callback_classes: ClassVar[dict[str, type[Callback]]] = {
        "scores": Scores,
        "samples": Samples,
        "checkpoint": Checkpoints,
        "records": Records,
        "dynamics": Dynamics,
        "health": Health,
    }

    def add_budget(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--steps", type=int, default=100_000, help="Generator updates.")


class ClassifierCLI(FitCLI):
    """`task: classifier`."""

    task, module_class, data_class = "classifier", Classifier, LabelledData
    hidden: ClassVar[set[str]] = {"seed", "steps", "channels", "size", "classes"}
    callback_classes: ClassVar[dict[str, type[Callback]]] = {
        "accuracy": Accuracy,
        "checkpoint": Checkpoints,
        "records": Records,
        "dynamics": Dynamics,
        "health": Health,
    }

    def add_budget(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--epochs", type=int, default=10, help="Passes over the images.")
        parser.add_argument(
            "--steps", type=int | None, default=None, help="Updates, instead of epochs."
        )


TASKS: dict[str, type[FitCLI]] = {each.task: each for each in (GanCLI, ClassifierCLI)}
