"""What a run of each task is made of, and what it prints at its start and end."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from pytorch_lightning import Callback

from msngan.classifier import Classifier
from msngan.data import ImageData, LabelledData
from msngan.gan import GAN
from msngan.runs import plugins, rng
from msngan.runs.configs import FitConfig
from msngan.runs.folder import Run, UserError, clock, counted, plural
from msngan.runs.hardware import memory
from msngan.runs.jsonl import read_lines
from msngan.runs.options import ADDED, group
from msngan.runs.plugins import explained
from msngan.training.callbacks.accuracy import Accuracy
from msngan.training.callbacks.checkpoints import Checkpoints
from msngan.training.callbacks.collapse_checks import CollapseChecks
from msngan.training.callbacks.dynamics import Dynamics
from msngan.training.callbacks.progress import Records, Samples
from msngan.training.callbacks.scores import Scores

LEAST_SHARE = 1e-3  # of a run's time that is worth a word
BYTES = 4 * 4  # of a float32 weight, its gradient, and Adam's two moments


def command_on(run: Run, command: str) -> str:
    """A command line on a run, with the plug-ins that it needs."""
    given = "".join(f" {shlex.quote(word)}" for word in plugins.words())
    return f"msngan {command} {run.name}{run.root_option}{given}"


def resume_command(run: Run) -> str:
    return command_on(run, "resume")


Groups = dict[str, type[Callback]]
OF_PLUGINS: Groups = {}  # the callbacks of plug-ins: each run has one of each
RECORDS: Groups = {"records": Records, "dynamics": Dynamics, "health": CollapseChecks}


class Task:
    """The data, the callbacks and the network of one run, made from its config.

    groups: the callbacks by the names of their option groups, in the order in which they are
    called; the last saves what the others have done. built: those of this run. steps: length of the
    run. data: given where it is loaded already.
    """

    module: ClassVar[type[GAN] | type[Classifier]]
    data_class: ClassVar[type[ImageData]] = ImageData
    groups: ClassVar[Groups]
    networks: ClassVar[tuple[str, ...]]  # names of the options that choose a network
    sized_by = "--model.width"
    steps_option = "--steps is"  # how the user asked for this many
    steps: int
    stopped: str | None = None  # why a callback ended the run before its last step

    def __init__(self, config: FitConfig, data: Any = None) -> None:
        self.config = config
        self.data = data or self.data_class(**config.group("data"))
        self.data.seed, self.data.endless = config.seed, True
        made = {name: kind(**config.group(name)) for name, kind in self.groups.items()}
        self.built = SimpleNamespace(**made)
        self.of_plugins = [kind(**config.group(name)) for name, kind in OF_PLUGINS.items()]

    @property
    def options(self) -> dict[str, Any]:
        """Every argument of the module, by name."""
        channels, size = self.data.shape
        own = {"seed": self.config.seed, "steps": self.steps, "channels": channels, "size": size}
        model = self.config.group("model")
        for network in self.networks:  # of a registered one; its options are under its name
            own[f"{network}_options"] = self.config.group(model[network]) or None
        return model | own

    def build(self) -> GAN | Classifier:
        """The networks, not yet trained; UserError for networks that memory cannot hold."""
        options = self.options  # reads the images, which are not to be on the meta device
        try:
            with rng.untouched(), torch.device("meta"):  # takes no memory
                need, have = BYTES * count(self._made(options)), memory()
            if have is None or need <= have:
                module = self._made(options)
                self._try(module)
                return module
            size = f"they take {need / 2**30:,.0f} GiB in training, of {have / 2**30:,.0f}"
        except (MemoryError, RuntimeError) as problem:
            if isinstance(problem, RuntimeError) and "allocate memory" not in str(problem):
                raise
            size = "they cannot be allocated"
        raise UserError(f"the networks do not fit into memory: {size}; lower {self.sized_by}")

    def _of_plugins(self, options: Mapping[str, Any]) -> list[str]:
        """The options that choose a network of a plug-in."""
        known = {name for names in ADDED.values() for name in names}
        return [network for network in self.networks if options[network] in known]

    def _made(self, options: dict[str, Any]) -> Any:
        own = [f"--model.{network} {options[network]}" for network in self._of_plugins(options)]
        with explained(" ".join(own)) if own else nullcontext():
            return self.module(**options)

    def _try(self, module: Any) -> None:
        """Run the networks of plug-ins once, on black images; UserError for what cannot train."""
        options = module.options
        for network in self._of_plugins(options):
            images = -torch.ones(2, options.channels, options.size, options.size)
            option = f"--model.{network} {options[network]}"
            with rng.untouched(), torch.no_grad(), explained(option):
                copy.deepcopy(module).eval().try_network(network, images)

    def prepare(self, device: torch.device) -> None:
        """Find everything that can be wrong with the input, before anything is written."""

    def times(self, seconds: float) -> str:
        """The shares of `seconds`, the time of training, that its callbacks have taken."""
        taken = {name: each.seconds for name, each in vars(self.built).items()}
        shares = [
            f"{name} {100 * own / max(seconds, 1e-9):.1f} %"
            for name, own in sorted(taken.items(), key=lambda each: -each[1])
            if own >= LEAST_SHARE * seconds
        ]
        of_which = f", of which {', '.join(shares)}" if shares else ""
        return f"  time         {clock(seconds)}{of_which}"

    def beginning(self, module: Any) -> str:
        """A line about what is trained."""
        raise NotImplementedError

    def ending(self, run: Run) -> list[str]:
        """Lines about what the run has written, and what can come next."""
        raise NotImplementedError

    def stopping(self, run: Run) -> list[str]:
        """Lines for `stopped`."""
        return []


class GanTask(Task):
    """A GAN: scores and grids beside the checkpoints."""

    module = GAN
    networks = ("generator", "critic")
    groups: ClassVar[Groups] = {
        **RECORDS,
        "scores": Scores,
        "samples": Samples,
        "checkpoint": Checkpoints,
    }

    def __init__(self, config: FitConfig, data: Any = None) -> None:
        super().__init__(config, data)
        self.data.parts = config.model.critic_steps * config.model.accumulate
        self.data.labelled = config.model.conditional
        self.steps = config.steps

    @property
    def options(self) -> dict[str, Any]:
        """Every argument of the GAN, by name; DataError where it needs labels and has none.

        Those of the augmentation are one argument, None where they ask for nothing.
        """
        labels = self.data.labels if self.config.model.conditional else None
        augment = self.config.group("augment")
        nothing = {name: each.default for name, each in group("gan", "augment").items()}
        own = {"augment": None if augment == nothing else augment}
        return super().options | {"classes": 0 if labels is None else self.data.classes} | own

    def prepare(self, device: torch.device) -> None:
        self.built.scores.prepare(self.data, device, self.options["classes"])

    def beginning(self, module: Any) -> str:
        data, model, policy = self.data, self.config.model, self.config.group("augment")["policy"]
        labels = (
            f"; {counted(data.classes, 'class', 'classes')}, {model.conditioning}"
            if model.conditional
            else ""
        )
        names = [policy] if isinstance(policy, str) else policy or []
        augmented = f"; augmented by {', '.join(names)}" if names else ""
        return (
            f"{counted(len(data.real), 'image')} of {data.dataset},"
            f" {data.shape[1]}x{data.shape[1]};"
            f" generator {count(module.generator):,}, critic {count(module.critic):,} parameters;"
            f" norm {model.norm}, loss {model.loss}, penalty {model.penalty}{labels}{augmented}"
        )

    def ending(self, run: Run) -> list[str]:
        scored = [f"  scores       {run.scores}"]
        return [
            f"  grids        {run.samples}",
            *(scored if read_lines(run.scores) else []),
            "next:",
            f"  {command_on(run, 'sample')}",
            f"  msngan leaderboard{run.root_option}",
            f"  {resume_command(run)} --steps N   (to train longer)",
        ]

    @property
    def stopped(self) -> str | None:  # type: ignore[override]
        return self.built.scores.collapse

    def stopping(self, run: Run) -> list[str]:
        """Which checkpoint to use, and how to go on after a collapse."""
        lines = [
            f"  scores       {run.scores}",
            "next:",
            f"  {resume_command(run)} --scores.stop_on_collapse false   (to go on all the same)",
        ]
        if (best := self.built.scores.best) is not None:
            lines.insert(0, f"  best         {run.best}  (step {best.step}: the one to use)")
            given = shlex.join(["msngan", "sample", str(run.best), *plugins.words()])
            lines.insert(3, f"  {given}")
        return lines


class ClassifierTask(Task):
    """A classifier: accuracies beside the checkpoints; a length in epochs or in steps."""

    module = Classifier
    networks = ("network",)
    data: LabelledData
    data_class = LabelledData
    groups: ClassVar[Groups] = {**RECORDS, "accuracy": Accuracy, "checkpoint": Checkpoints}
    sized_by = "--model.width or --model.depth"

    def __init__(self, config: FitConfig, data: Any = None) -> None:
        super().__init__(config, data)
        self.data.check()
        self.steps = config.steps or config.epochs * self.data.steps_per_epoch
        if not config.steps:
            self.steps_option = f"--epochs {config.epochs} makes"

    @property
    def options(self) -> dict[str, Any]:
        return super().options | {"classes": self.data.classes}

    def prepare(self, device: torch.device) -> None:
        self.data.images_of("validation")
        self.data.images_of("test")
        assert self.data.scale

    def beginning(self, module: Any) -> str:
        data, model = self.data, self.config.model
        released = ", as released" if model.as_released else ""
        epochs = self.steps / data.steps_per_epoch
        return (
            f"{counted(len(data.real), 'image')} of {data.dataset},"
            f" {data.shape[1]}x{data.shape[1]},"
            f" {len(data.images_of('validation')):,} to validate and"
            f" {len(data.images_of('test')):,} to test with,"
            f" {counted(data.classes, 'class', 'classes')};"
            f" {model.network}{released},"
            f" {count(module.network):,} parameters; norm {model.norm}, Adam at {model.lr:g};"
            f" {epochs:g} {plural(epochs, 'epoch')} of {counted(data.steps_per_epoch, 'step')}"
        )

    def ending(self, run: Run) -> list[str]:
        lines = []
        last, best = self.built.accuracy.last, self.built.accuracy.best
        if last is not None:
            lines.append(f"  accuracies   {run.accuracy}  (last: {_said(last)})")
        if best is not None:
            lines.append(f"  best         {run.best}  (by validation: {_said(best)})")
        lines += ["next:", f"  msngan report {run.name}{run.root_option}"]
        return [*lines, f"  {resume_command(run)} --epochs N   (to train longer)"]


TASKS: dict[str, type[Task]] = {each.module.task: each for each in (GanTask, ClassifierTask)}


def _said(line: dict[str, Any]) -> str:
    return f"epoch {line['epoch']:.3g}, {line['test_accuracy']:.2%} of the test images right"


def count(module: torch.nn.Module) -> int:
    """How many parameters are trained."""
    return sum(each.numel() for each in module.parameters() if each.requires_grad)
