"""Plug-ins: a person's own networks, norms, losses, data sets and callbacks, by name.

A plug-in is a Python file, or an installed package with an entry point in the group GROUP, that
calls the functions of `msngan.register`. It runs with all the rights of its user, so only a person
names it: `--plugin` on a command line. A config, a study or a checkpoint cannot. No torch here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from msngan.runs.folder import UserError, did_you_mean

GROUP = "msngan.plugins"  # of entry points
FLAG = "--plugin"
LONGEST = 4096  # characters of a path


@dataclass(frozen=True)
class Plugin:
    """A plug-in that has run. name: as given; of a file, its path. sha256: of the file."""

    name: str
    sha256: str


LOADED: dict[str, Plugin] = {}  # by the file's absolute path, or the name of the entry point


def split(words: Iterable[str]) -> tuple[list[str], list[str]]:
    """The plug-ins that a command line names, and its other words."""
    names, rest = [], []
    left = list(words)
    while left:
        word, equals, value = left.pop(0).partition("=")
        if word != FLAG:
            rest.append(word + equals + value)
            continue
        if not equals and left and not left[0].startswith("-"):
            value = left.pop(0)
        if not value:
            raise UserError(f"{FLAG} needs a value: a Python file, or an installed plug-in's name")
        names.append(value)
    return names, rest


def load(names: Iterable[str]) -> None:
    """Run the plug-ins that have not run yet; UserError, in one line, for one that fails."""
    for name in names:
        path = Path(name).expanduser()
        is_file = path.suffix == ".py" or path.is_file()
        key = str(path.resolve()) if is_file else name
        if key in LOADED:
            continue
        code, origin = _of_file(path) if is_file else _of_package(name)
        try:
            with redirect_stdout(sys.stderr):  # a command's output may be read by a program
                code()
        except KeyboardInterrupt:
            raise
        except UserError as problem:
            raise UserError(f"{FLAG} {name}: {problem}") from problem
        except BaseException as problem:  # SystemExit too: it would end the command without a word
            raise UserError(f"{FLAG} {name}: {_told(problem, origin)}") from problem
        LOADED[key] = Plugin(name, hashlib.sha256(origin.read_bytes()).hexdigest())


def _of_file(path: Path) -> tuple[Callable[[], object], Path]:
    """What runs the file as a module of its own, and the file."""
    if not path.is_file():
        what = "not a regular file" if path.exists() else "no such file"
        raise UserError(f"{FLAG} {path}: {what}; give the path of a Python file")
    folder = path.resolve().parent
    _check_beside(path, folder)
    name = f"msngan_plugin_{path.stem}"
    while name in sys.modules:  # of a file of the same name in another folder
        name += "_"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{FLAG} {path} is not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where pickle and dataclasses look for its classes

    def run() -> None:
        assert spec.loader is not None
        sys.path.insert(0, str(folder))  # for modules that lie beside it
        try:
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(folder))
            sys.path.append(str(folder))  # for those that its functions import later

    return run, path


def _check_beside(path: Path, folder: Path) -> None:
    """UserError if a module beside the file would be another plug-in's of the same name."""
    for other in {Path(key).parent for key in LOADED if key.endswith(".py")} - {folder}:
        for module in other.glob("*.py"):
            is_beside = (folder / module.name).is_file() and str(module) not in LOADED
            if is_beside and getattr(sys.modules.get(module.stem), "__file__", "") == str(module):
                raise UserError(
                    f"{FLAG} {path}: {module} has been imported by another plug-in, and"
                    f" {folder / module.name} could not be; rename one"
                )


def _of_package(name: str) -> tuple[Callable[[], object], Path]:
    """What imports an installed plug-in, and the file of the module that it names."""
    from importlib import metadata  # not at every start

    known = {each.name: each for each in metadata.entry_points(group=GROUP)}
    if name not in known:
        has = f"installed are {', '.join(sorted(known))}" if known else "none is installed"
        raise UserError(
            f"{FLAG} {name}: no such plug-in{did_you_mean(name, list(known))}; give the path of a"
            f" Python file, or the name of an installed plug-in ({has})"
        )
    try:
        spec = importlib.util.find_spec(known[name].module)
    except ImportError as problem:
        raise UserError(f"{FLAG} {name}: {problem}") from problem
    if spec is None or spec.origin is None:
        raise UserError(f"{FLAG} {name}: there is no module {known[name].module}")
    return known[name].load, Path(spec.origin)


@contextmanager
def explained(option: str) -> Iterator[None]:
    """An exception in a plug-in's code is one line about this option, with its place in a file."""
    try:
        yield
    except UserError as problem:
        if str(problem).startswith("--"):  # it names an option already
            raise
        raise UserError(f"{option}: {problem}") from problem
    except Exception as problem:
        own = _calls_in(LOADED, problem)
        where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}: " if own else ""
        text = " ".join(str(problem).split())
        raise UserError(f"{option}: {where}{type(problem).__name__}: {text}") from problem


def _calls_in(files: Container[str], problem: BaseException) -> list[traceback.FrameSummary]:
    """The calls on the way to a problem that are in these files, the innermost last."""
    frames = traceback.extract_tb(problem.__traceback__)
    return [each for each in frames if str(Path(each.filename).resolve()) in files]


def _told(problem: BaseException, origin: Path) -> str:
    """What went wrong, and in which line of the plug-in."""
    own = [each.lineno for each in _calls_in({str(origin.resolve())}, problem)]
    text = str(problem)
    if isinstance(problem, SyntaxError):
        text, file = problem.msg, Path(problem.filename or origin)
        if file.resolve() == origin.resolve():
            own = [problem.lineno] if problem.lineno else []
        elif problem.lineno:  # in a module that the plug-in imports
            text += f" ({file.name}, line {problem.lineno})"
    where = f"line {own[-1]}: " if own else ""
    said = f"{where}{type(problem).__name__}: {text}".removesuffix(": ")
    if "relative import" in text:
        said += "; import a file beside it by its name alone, as `import NAME`"
    return said


def words() -> list[str]:
    """The words of a command line that load what is loaded."""
    return [word for each in LOADED.values() for word in (FLAG, each.name)]


def loaded() -> list[dict[str, str]]:
    """What a run records of the plug-ins: name and sha256 of each."""
    return [asdict(each) for each in LOADED.values()]


def check_recorded(about: Mapping[str, Any], what: str) -> list[str]:
    """Lines about plug-ins that have changed since `about`, a run's environment, was written.

    what: names the run. UserError for one that is not loaded now.
    """
    said = []
    recorded = about.get("plugins")
    for each in recorded if isinstance(recorded, list) else []:
        if not isinstance(each, dict) or not isinstance(each.get("name"), str):
            continue
        name, before = each["name"], each.get("sha256")
        now = [plugin for plugin in LOADED.values() if Path(plugin.name).name == Path(name).name]
        if not name.isprintable() or len(name) > LONGEST:  # a run's folder may come from anyone
            name = f"{name!a:.80}"
        if not now:
            raise UserError(f"{what} was made with a plug-in; give {FLAG} {name}, which is code")
        if before not in [plugin.sha256 for plugin in now]:  # two may be of one name
            said.append(f"plug-in {name} has changed since the run began; its new code runs")
    return said


@dataclass(frozen=True)
class Carrying:
    """`target` for a process of its own, which loads the plug-ins of this one first."""

    target: Callable[..., None]
    names: tuple[str, ...]

    def __call__(self, *arguments: Any) -> None:
        load(self.names)
        self.target(*arguments)


def carrying(target: Callable[..., None]) -> Callable[..., None]:
    """The target of another process, with the plug-ins of this one; itself where there are none."""
    return Carrying(target, tuple(LOADED)) if LOADED else target
