"""The strict parser of `fit`: named configs, and errors in one line with a near name."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, get_loader, set_loader
from pytorch_lightning.cli import LightningArgumentParser

from msngan.runs.configs import find_config, known_configs
from msngan.runs.folder import UserError, did_you_mean
from msngan.runs.safe_read import check_yaml, load_yaml, read_text

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
            if word.removesuffix(".yaml") in known_configs():
                return f"unknown option {word!r}; a config is given as --config {word}"
            return f"unknown option {word!r}{_near(word, known)}; `{self.prog} --help` lists all"
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
    found = [(whole | last)[each] for each in near]
    if not found:  # a part of names: lr of generator_lr
        found = [name for name in known if word in re.split(r"[._]", name)]
    return f" (did you mean {' or '.join(map(repr, found[:3]))}?)" if found else ""


def strict_yaml() -> None:
    """Let jsonargparse build nothing from YAML that check_yaml refuses, in a text value neither."""
    import yaml

    plain = get_loader("yaml")
    if getattr(plain, "strict", False):
        return

    def load(text: str) -> Any:  # noqa: ANN401  any YAML value
        check_yaml(text)
        return plain(text)

    load.strict = True  # type: ignore[attr-defined]
    set_loader("yaml", load, (yaml.YAMLError, ValueError))


class NamedConfig(ActionConfigFile):
    """--config by path or by name: a regular file of plain YAML that names no other file."""

    def __call__(self, parser: Any, config: Any, values: Any, option: str | None = None) -> None:
        path = find_config(str(values))
        _check_content(path, {name.partition(".")[0] for name in _dotted(parser)})
        try:
            super().__call__(parser, config, str(path), option)
        except UserError as problem:  # explained already
            raise UserError(f"{path}: {problem}") from problem
        except (
            AttributeError,
            IndexError,
            TypeError,
            ValueError,
        ) as problem:  # `config: 1` is in it, say
            raise UserError(f"{path}: {parser._explain(str(problem))}") from problem
        parser.config_stems = [*getattr(parser, "config_stems", []), path.stem]


def _dotted(parser: Any) -> list[str]:  # noqa: ANN401  jsonargparse's
    return [action.dest for action in parser._actions if "." in action.dest]


def _check_content(path: Path, groups: set[str]) -> None:
    """UserError for what a config of options is not.

    A word in place of a group's options would be taken for the path of another file.
    """
    try:
        content = load_yaml(read_text(path))
        _check_texts(content)
    except OSError as problem:
        raise UserError(f"{path} cannot be read: {problem.strerror}") from problem
    except ValueError as problem:
        raise UserError(f"{path}: {problem}") from problem
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no options; write lines such as `steps: 1000`")
    if "config" in content:
        raise UserError(f"{path}: a config cannot name another; give --config once for each")
    for name in sorted(groups & content.keys()):
        if not isinstance(content[name], dict):
            raise UserError(f"{path}: {name} must be options, as {name}: {{name: value}}")


def _check_texts(value: Any) -> None:  # noqa: ANN401  any YAML value
    """ValueError for a text that jsonargparse would read as YAML with aliases.

    It does not always go through the loader that strict_yaml has set.
    """
    if isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            _check_texts(each)
    elif isinstance(value, str) and "&" in value and "*" in value:
        check_yaml(value)
