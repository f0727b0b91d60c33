"""Libraries that only some of msngan needs: the extras of pyproject.toml."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from msngan.runs.folder import UserError


def imported(name: str, what: str, libraries: str | None = None) -> ModuleType:
    """The module `name`; UserError with the command that installs it where it is missing.

    what: what needs it, as the error says it. libraries: what pip installs; None: `name`.
    """
    try:
        return import_module(name)
    except ImportError as problem:
        raise UserError(
            f"{what} needs {name.partition('.')[0]}, which is not installed here; run `pip install"
            f" {libraries or name}`"
        ) from problem
