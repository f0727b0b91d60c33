"""TensorBoard's event file, written where and when the figures are made."""

from __future__ import annotations

import os
import socket
import time
from argparse import Namespace
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard import summary

from msngan.callbacks.saving import Saving


class Board(Logger):
    """Scalars, pictures and hyperparameters for TensorBoard, in one event file a session.

    Not Lightning's own: its writer has a thread, which dies with a traceback on a full disk. A
    display is worth no run, so a failure is said and never stops it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.saving = Saving("continue")
        self._file: BinaryIO | None = None

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

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._close()

    def _write(self, summaries: Iterable[Summary], step: int | None) -> None:
        with self.saving.attempt("tensorboard", step or 0):
            try:
                file = self._file or self._open()
                for each in summaries:
                    event = Event(wall_time=time.time(), summary=each, step=step)
                    RecordWriter(file).write(event.SerializeToString())
                file.flush()
            except OSError:
                self._close()  # its end may be cut; the next one begins a new file
                raise

    def _open(self) -> BinaryIO:
        self.folder.mkdir(exist_ok=True)  # not its parents: a run's folder may have vanished
        stem = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.folder / stem, "ab")  # noqa: SIM115  for as long as training is
        header = Event(wall_time=time.time(), file_version="brain.Event:2")
        RecordWriter(self._file).write(header.SerializeToString())
        return self._file

    def _close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):  # what it still holds finds no room either
                file.close()
