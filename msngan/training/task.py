"""What a run of each task is made of, and what it says at its beginning and end."""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule

from msngan.data import ImageData
from msngan.runs.folder import Run


def resume_command(run: Run) -> str:
    return f"msngan resume {run.name}{place(run)}"


def place(run: Run) -> str:
    """The option that finds the run again, if it needs one."""
    return "" if run.root == Path() else f" --root {shlex.quote(str(run.root))}"


class Task(ABC):
    """One task's part in a run.

    built: what the parser has made of the config: data and callbacks.
    """

    name: str
    data: ImageData
    steps: int
    steps_option: str  # how the user asks for more of them, before a number

    def __init__(self, config: Any, built: Any) -> None:  # noqa: ANN401  jsonargparse's Namespaces
        self.config, self.built = config, built

    @property
    @abstractmethod
    def callbacks(self) -> list[Callback]:
        """Those of the task, in order; they come before the one that saves."""

    @property
    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Every argument of the module, by name."""

    @abstractmethod
    def module(self) -> LightningModule:
        """The networks, not yet trained."""

    @abstractmethod
    def prepare(self, device: torch.device) -> None:
        """All that can be wrong with the input is found here, before anything is written."""

    @abstractmethod
    def beginning(self, module: Any) -> str:  # noqa: ANN401  of self.module()
        """Lines about what is trained."""

    @abstractmethod
    def ending(self, run: Run) -> list[str]:
        """Lines about what the run has left, and what may come next."""

    @property
    def stopped(self) -> str | None:
        """Why the run was ended before its last step, if a callback of the task did so."""
        return None

    def stopping(self, run: Run) -> list[str]:
        """Lines for `stopped`."""
        return []


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
