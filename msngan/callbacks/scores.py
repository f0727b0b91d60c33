"""Scores during training: the paper's five runs of 2000 samples, stamped with their protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pytorch_lightning import Callback, LightningModule, Trainer

from msngan import checks
from msngan.callbacks.base import RunCallback
from msngan.callbacks.checkpoints import Checkpoints
from msngan.callbacks.progress import Progress
from msngan.runs import append_line, keep_until, read_lines, score_line
from msngan.scoring import Scorer

if TYPE_CHECKING:
    import torch

    from msngan.data import ImageData
    from msngan.gan import GAN


class Scores(RunCallback):
    """Scores the generator's moving average and appends a line to scores.jsonl.

    The extractor is chosen, said and loaded before the first step, never in the middle. Sampling
    and scoring take nothing from training's random streams.

    Args:
        every: steps between scores; 0: only at the end.
        protocol: sizes of the evaluation; `paper` is 5 runs of 2000 samples.
        extractor: auto, embedded, inception, or a .safetensors file of `msngan extractor fit`.
        inception_weights: file of the official Inception weights; null: the torch hub's.
        runs: null: the protocol's.
        samples: of a run; null: the protocol's.
        enabled: false switches scores off.
    """

    def __init__(
        self,
        every: int = 5000,
        protocol: Literal["paper", "sngan", "50k"] = "paper",
        extractor: str = "auto",
        inception_weights: str | None = None,
        runs: int | None = None,
        samples: int | None = None,
        enabled: bool = True,
    ) -> None:
        checks.at_least("--scores.every", every, 0)
        checks.at_least("--scores.runs", runs, 1)
        checks.at_least("--scores.samples", samples, 2)
        self.every, self.protocol, self.extractor = every, protocol, extractor
        self.inception_weights, self.runs, self.samples = inception_weights, runs, samples
        self.enabled = enabled
        self.seconds = 0.0  # spent on scores, for the run's summary
        self._scorer: Scorer | None = None
        self._best: float | None = None

    def prepare(self, data: ImageData, device: torch.device) -> None:
        """Choose and load the extractor and the reference; UserError if they cannot be had."""
        if not self.enabled:
            return
        self._scorer = Scorer(
            data,
            extractor=self.extractor,
            protocol=self.protocol,
            device=device,
            inception_weights=self.inception_weights,
            runs=self.runs,
            samples=self.samples,
            backend="torchmetrics",
        )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._scorer is None:
            return
        keep_until(self.run.scores, trainer.global_step)
        key = self._scorer.keys["frechet"]
        lines = [x for x in read_lines(self.run.scores) if key in x.get("scores", {})]
        values = [line["scores"][key]["mean"] for line in lines]
        self._best = min((v for v in values if v is not None), default=None)
        _say(trainer, self._scorer.announcement)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._scorer is None or not self.due(trainer, self.every):
            return
        start = time.monotonic()
        gan = cast("GAN", pl_module)
        result = self._scorer.score(gan.sampler())
        seconds = time.monotonic() - start
        self.seconds += seconds
        weights = "ema" if gan.ema is not None else "raw"
        line = score_line(self.run.name, trainer.global_step, weights, "fit", result.line, seconds)
        line["config"] = self.config_name
        append_line(self.run.scores, line)
        means = {
            k: score["mean"] for k, score in result.scores.items() if score["mean"] is not None
        }
        for logger in trainer.loggers:
            logger.log_metrics(means, trainer.global_step)
        _say(trainer, f"step {trainer.global_step}: {result.text}")
        key = self._scorer.keys["frechet"]
        if key in means:
            self._judge(trainer, key, means[key])

    def _judge(self, trainer: Trainer, key: str, frechet: float) -> None:
        """Show the score, and keep the weights if none was better."""
        for progress in _callbacks(trainer, Progress):
            progress.note = f"{key.split('/')[0]} {frechet:.4g}"
        if self._best is None or frechet < self._best:
            self._best = frechet
            for checkpoints in _callbacks(trainer, Checkpoints):
                checkpoints.save_best(trainer)


def _say(trainer: Trainer, text: str) -> None:
    for progress in _callbacks(trainer, Progress):
        progress.say(text)


C = TypeVar("C", bound=Callback)


def _callbacks(trainer: Trainer, kind: type[C]) -> list[C]:
    """The trainer's callbacks of one kind."""
    known: list[Callback] = getattr(trainer, "callbacks")  # noqa: B009  set where mypy does not look
    return [callback for callback in known if isinstance(callback, kind)]
