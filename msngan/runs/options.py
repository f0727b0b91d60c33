"""The table of options of `msngan fit`: what each is called, takes, does and changes, by task.

An option is a parameter of a class or function listed in SOURCES, and is stated nowhere else: its
type and default are in the signature, its help in the docstring's Args, its range and its role in
the annotation:

    width: Network[Count] = 64

The command line, the check of a config, what `resume` may change, which runs count as the same
experiment, and the kinds of options in a checkpoint are all derived from this table. The sources
are read as text, because importing them would import torch, which takes seconds.
"""

from __future__ import annotations

import ast
import math
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import msngan
from msngan.runs.folder import UserError

LARGEST = 2**63 - 1  # the largest int that torch can hold
LARGEST_FLOAT = 1e30  # what is computed from one, a step of Adam's, is still a float32


@dataclass(frozen=True)
class Range:
    """The numbers from `least` to `most`, both included, or above and below a bound. Finite."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    multiple: int | None = None

    def problem(self, value: float) -> str | None:
        """What is wrong with a value, in words; None for one inside."""
        if not math.isfinite(value):
            return f"{value} is not a finite number"
        if self.below is not None and not (self.least or 0) <= value < self.below:
            return f"{value} is not in [{self.least or 0:g}, {self.below:g})"
        if self.above is not None and value <= self.above:
            return f"{value} is not a positive number"
        if self.least is not None and value < self.least:
            return f"{value} is less than {self.least:g}"
        if self.multiple and value % self.multiple:
            return f"{value} is not a multiple of {self.multiple}; choose 32 or 64, for instance"
        most = self.most or (LARGEST if isinstance(value, int) else LARGEST_FLOAT)
        return f"{value} is more than {most}" if value > most else None

    def __str__(self) -> str:
        if self.below is not None:
            return f"in [{self.least or 0:g}, {self.below:g})"
        if self.above is not None:
            return f"above {self.above:g}"
        if self.multiple:
            return f"a multiple of {self.multiple}"
        return f"at least {self.least:g}" if self.most is None else f"{self.least} to {self.most:,}"


@contextmanager
def named(option: str) -> Iterator[None]:
    """A ValueError inside is the user's, about this option."""
    try:
        yield
    except ValueError as problem:
        raise UserError(f"{option}: {problem}") from problem


PACKAGE = Path(msngan.__file__).parent
T = TypeVar("T")


class Role(Enum):
    """What an option changes. `Network[int]` in a signature gives a parameter its role."""

    NETWORK = "shapes the network: resume refuses another value"
    TRAINING = "shapes training: resume reports another value; runs that differ are two arms"
    REPEAT = "seed, place and machine: resume reports another value; the experiment is the same"
    RECORD = "what is recorded, and where: resume takes another value; the experiment is the same"


Network = Annotated[T, Role.NETWORK]
Repeat = Annotated[T, Role.REPEAT]
Record = Annotated[T, Role.RECORD]
SetByFit = Annotated[T, "set by fit"]  # a parameter that `fit` computes; not an option

Count = Annotated[int, Range(1, 2**20)]
AtLeastOne = Annotated[int, Range(1)]
MOST_THREADS = 1024  # no machine has more cores, and some thousands end a process
Threads = Annotated[int, Range(0, MOST_THREADS)]  # 0 means all cores
Every = Annotated[int, Range(0)]  # a period; 0 means never
Positive = Annotated[float, Range(above=0)]
NotNegative = Annotated[float, Range(0)]
Loggers = list[Literal["tensorboard", "csv", "wandb"]]
Fraction = Annotated[float, Range(0, below=1)]

MODULE = "module"  # a network that was given as a module, in stored options
OwnOptions = dict[str, bool | int | float | str | None] | None  # of a registered network, by name

# Former and short names: in old configs, records and checkpoints, and on the command line.
FORMER = {
    "model.passes": "model.critic_batch",
    "trainer.detect_anomaly": "detect_anomaly",
    "on_save_error": "checkpoint.on_save_error",
}


@dataclass(frozen=True)
class Option:
    """One option. name: as on the command line, model.width. type: with ranges, without roles."""

    name: str
    type: Any
    default: Any
    help: str
    role: Role = Role.TRAINING
    set_by_fit: bool = False


def run(
    run: Record[str | None] = None,
    root: Record[str] = ".",
    task: Network[Literal["gan", "classifier"]] = "gan",
    seed: Repeat[Every] = 0,
    threads: Repeat[Threads] = 0,
    detect_anomaly: Record[bool] = False,
    logger: Record[Literal["tensorboard", "csv", "wandb", "none"] | Loggers] = "tensorboard",
    ckpt_path: str | None = None,
) -> None:
    """Options that belong to no class.

    Args:
        run: name of the run; null: a name from the config, the changed options and the seed.
        root: folder that holds checkpoints/ and samples/.
        task: what to train.
        seed: seed of the weights, the order of the data and all noise.
        threads: CPU threads per process; 0: as many as there are cores.
        detect_anomaly: report the first layer that produces NaN or infinity. Slower; the results
            are unchanged.
        logger: where losses, scores and grids go besides metrics.jsonl, scores.jsonl and samples/;
            several as tensorboard,csv. csv takes no grids; wandb needs `pip install wandb`.
        ckpt_path: checkpoint file to start a new run from.
    """


def gan_length(steps: AtLeastOne = 100_000) -> None:
    """How long a GAN trains.

    Args:
        steps: number of generator updates.
    """


def classifier_length(epochs: AtLeastOne = 10, steps: AtLeastOne | None = None) -> None:
    """How long a classifier trains.

    Args:
        epochs: number of passes over the training images.
        steps: number of updates; overrides epochs; null: as many as the epochs take.
    """


def trainer(
    accelerator: Repeat[str] = "auto",
    devices: list[int] | int | str = "auto",
    num_nodes: AtLeastOne = 1,
    precision: Literal["32-true", "bf16-mixed", "64-true"] = "32-true",
    deterministic: Repeat[bool | Literal["warn"] | None] = None,
    benchmark: Repeat[bool | None] = None,
    profiler: Record[str | None] = None,
    cuda_graph: Repeat[Literal["auto", "off"]] = "auto",
) -> None:
    """Options of Lightning's Trainer that apply here. The others count epochs or validation, or
    do not work in manual optimization. Not float16: it needs a loss scale, and two losses share it.

    Args:
        accelerator: hardware to train on: cpu, gpu, or auto.
        devices: number of processes on each machine, or the GPUs to use, such as [0, 1].
        num_nodes: number of machines.
        precision: floating-point precision of training.
        deterministic: use only deterministic algorithms on a GPU (resume is then exact there);
            warn: say where there is none; null: no.
        benchmark: let cuDNN choose the fastest algorithms by measuring them; null: no.
        profiler: Lightning profiler: simple or advanced; null: none.
        cuda_graph: auto: launch the kernels of a step on a GPU together, as a CUDA graph, where
            that is possible; off: one by one.
    """


# Where the options of each group are stated: module and name; "" is the group without a prefix.
_RUN, _TRAINER = ("runs.options", "run"), ("runs.options", "trainer")
_BOTH = {
    "checkpoint": [("training.callbacks.checkpoints", "Checkpoints")],
    "records": [("training.callbacks.progress", "Records")],
    "dynamics": [("training.callbacks.dynamics", "Dynamics")],
    "health": [("training.callbacks.collapse_checks", "CollapseChecks")],
}
SOURCES: dict[str, dict[str, list[tuple[str, str]]]] = {
    "gan": {
        "": [_RUN, ("runs.options", "gan_length")],
        "trainer": [_TRAINER],
        "model": [("gan.module", "GAN")],
        "augment": [("losses.augment", "Augment")],
        "data": [("data", "ImageData")],
        "scores": [("training.callbacks.scores", "Scores")],
        "samples": [("training.callbacks.progress", "Samples")],
        **_BOTH,
    },
    "classifier": {
        "": [_RUN, ("runs.options", "classifier_length")],
        "trainer": [_TRAINER],
        "model": [("classifier", "Classifier")],
        "data": [("data", "LabelledData")],
        "accuracy": [("training.callbacks.accuracy", "Accuracy")],
        **_BOTH,
    },
}

OWN_IMAGES = ("folder", "hub")  # data sets of which the root says which images they are

# What plug-ins have added: table (CRITICS, say) -> name -> the options under that name.
ADDED: dict[str, dict[str, list[Option]]] = {}
# The task whose runs have the options of what is added to a table; both tasks for the others.
TASK_OF = {"GENERATORS": "gan", "CRITICS": "gan", "NETWORKS": "classifier"}


def add(table: str, name: str, own: list[Option]) -> None:
    """Add a name to a table of names, and its options to the table of options as `name.option`."""
    ADDED.setdefault(table, {})[name] = own
    for each in (parameters, options_of, group, _roles):
        each.cache_clear()


def added_to(task: str) -> dict[str, list[Option]]:
    """The options that plug-ins have added for a task, by the name that they are under."""
    return {
        name: own
        for table, names in ADDED.items()
        for name, own in names.items()
        if own and TASK_OF.get(table, task) == task
    }


@cache
def parameters(task: str) -> dict[str, Option]:
    """Every option of the task by its dotted name, and what `fit` sets itself beside them."""
    found: dict[str, Option] = {}
    for group, sources in SOURCES[task].items():
        for module, name in sources:
            found |= {option.name: option for option in _stated(module, name, group)}
    for own in added_to(task).values():
        found |= {option.name: option for option in own}
    found["task"] = replace(found["task"], default=task)
    return found


@cache
def options_of(task: str) -> dict[str, Option]:
    """Every option of the task by its dotted name."""
    return {name: each for name, each in parameters(task).items() if not each.set_by_fit}


@cache
def group(task: str, name: str) -> dict[str, Option]:
    """The options of a group, and what `fit` sets itself, by their names in the group."""
    start = f"{name}."
    known = parameters(task).items()
    return {each.removeprefix(start): option for each, option in known if each.startswith(start)}


def present_names(values: Any, group: str) -> Any:
    """Stored options of a group by their present names; what is not a mapping as it is."""
    if not isinstance(values, dict):
        return values
    start = f"{group}."
    names = {name: FORMER.get(f"{start}{name}", f"{start}{name}") for name in values}
    return {names[name].removeprefix(start): value for name, value in values.items()}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a config by their dotted, present names. UserError for a group without any."""
    groups = {group for sources in SOURCES.values() for group in sources if group}
    groups |= {name for task in SOURCES for name in added_to(task)}
    found: dict[str, Any] = {}
    for key, value in config.items():
        if key in groups and not isinstance(value, Mapping):
            raise UserError(f"{key} must be options, as {key}: {{name: value}}")
        inner = {f"{key}.{own}": each for own, each in value.items()} if key in groups else None
        found |= {str(key): value} if inner is None else inner
    return {FORMER.get(name, name): value for name, value in found.items()}


def is_free(name: str, config: Mapping[str, Any]) -> bool:
    """Whether two runs that differ in this option are the same experiment.

    name: dotted. config: all options, by dotted names. An unknown option tells runs apart, unless
    all that is known of its group only records.
    """
    if name == "data.root" and config.get("data.dataset") in OWN_IMAGES:
        return False
    known, start = _roles(), name.partition(".")[0] + "."
    alike = [role for each, role in known.items() if each.startswith(start)]
    roles = [known[name]] if name in known else alike
    return bool(roles) and all(role in (Role.REPEAT, Role.RECORD) for role in roles)


@cache
def _roles() -> dict[str, Role]:
    """Of every option of all tasks; a test holds that the tasks agree."""
    return {name: option.role for task in SOURCES for name, option in options_of(task).items()}


def _stated(module: str, name: str, group: str) -> Iterator[Option]:
    """The options that one signature and its docstring state."""
    module, node = _find(module, name)
    names = _Names(module)
    texts = helps(ast.get_docstring(node) or "")  # type: ignore[arg-type]
    if isinstance(node, ast.ClassDef):
        (node,) = (each for each in node.body if getattr(each, "name", "") == "__init__")
    assert isinstance(node, ast.FunctionDef)
    arguments = [each for each in node.args.args if each.arg != "self"]
    for argument, default in zip(arguments, node.args.defaults, strict=True):
        assert argument.annotation is not None
        kind, marks = without_marks(names.value_of(argument.annotation))
        roles = [mark for mark in marks if isinstance(mark, Role)]
        yield Option(
            f"{group}.{argument.arg}".lstrip("."),
            kind,
            names.value_of(default),
            texts[argument.arg],
            roles[-1] if roles else Role.TRAINING,
            len(marks) > len(roles),
        )


def without_marks(kind: Any) -> tuple[Any, list[Any]]:
    """An annotation without the marks of role, and those marks."""
    if get_origin(kind) is not Annotated:
        return kind, []
    inner, *marks = get_args(kind)
    ranges = [mark for mark in marks if isinstance(mark, Range)]
    others = [mark for mark in marks if not isinstance(mark, Range)]
    return (Annotated[inner, ranges[0]] if ranges else inner), others


def helps(docstring: str) -> dict[str, str]:
    """The text of each argument in a docstring's Args section."""
    section = docstring.partition("Args:\n")[2]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in found}


@cache
def _tree(module: str) -> ast.Module:
    path = PACKAGE.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text(encoding="utf-8"))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those at the top level of a module; of an `if TYPE_CHECKING`, what runs."""
    for node in body:
        if isinstance(node, ast.If):
            yield from _statements(node.orelse or node.body)
        else:
            yield node


def _find(module: str, name: str) -> tuple[str, ast.AST]:
    """Where a module gets a name from, and what is there: a definition or a value."""
    for node in _statements(_tree(module).body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("msngan."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(str(node.module).removeprefix("msngan."), alias.name)
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                return module, node.value
    raise KeyError(name)


class _Names(dict[str, Any]):
    """The names that a module's annotations and defaults use; for a table, its keys suffice."""

    def __init__(self, module: str) -> None:
        super().__init__()
        self.module = module

    def __missing__(self, name: str) -> Any:
        if name in globals() and name not in ("run", "trainer"):
            return globals()[name]
        if name in typing.__all__:
            return getattr(typing, name)
        module, node = _find(self.module, name)
        value = _Names(module).value_of(node)
        return value | ADDED[name] if name in ADDED else value

    def value_of(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Dict):
            found: dict[Any, None] = {}
            for key, value in zip(node.keys, node.values, strict=True):
                found |= self.value_of(value) if key is None else {self.value_of(key): None}
            return found
        code = compile(ast.Expression(node), self.module, "eval")  # type: ignore[arg-type]
        return eval(code, {}, self)
