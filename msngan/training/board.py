"""TensorBoard's event file, written where and when the figures are made."""

from __future__ import annotations

import io
import os
import socket
import time
from argparse import Namespace
from collections.abc import Iterable
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from msngan.runs.atomic import add
from msngan.runs.folder import Run
from msngan.training.callbacks.saving import Saving


class Board(Logger):
    """Scalars, pictures and hyperparameters for TensorBoard, in one event file a session.

    Not Lightning's own: its writer has a thread, which dies with a traceback on a full disk. A
    display is worth no run, so a failure is said and never stops it.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.folder = run.folder / "tensorboard"
        self.saving = Saving("continue", run)
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self.path = self.folder / name

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder.parent)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._write([summary.scalar(name, value) for name, value in metrics.items()], step)

    @rank_zero_only
    def log_picture(self, tag: str, picture: Tensor, step: int) -> None:
        """picture: uint8 (C, H, W)."""
        self._write([summary.image(tag, picture, dataformats="CHW")], step)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        given = vars(params) if isinstance(params, Namespace) else params
        plain = {
            name: value if isinstance(value, (bool, int, float, str)) else str(value)
            for name, value in given.items()
        }
        self._write(summary.hparams(plain, {}), None)

    def _write(self, summaries: Iterable[Summary], step: int | None) -> None:
        events = [Event(wall_time=time.time(), summary=each, step=step) for each in summaries]
        with self.saving.attempt("tensorboard", step or 0):
            self.folder.mkdir(exist_ok=True)  # not its parents: the run's folder may have vanished
            if not self.path.exists():
                events.insert(0, Event(wall_time=time.time(), file_version="brain.Event:2"))
            block = io.BytesIO()
            for event in events:
                RecordWriter(block).write(event.SerializeToString())
            # At once: of an event in part, no reader would read on.
            add(self.path, block.getvalue())
