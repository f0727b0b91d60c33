"""Scores during training: the paper's five runs of 2000 samples, stamped with their protocol."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from pytorch_lightning import LightningModule, Trainer

from msngan.runs import distributed as processes
from msngan.runs.bounds import Range
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.jsonl import read_lines
from msngan.runs.options import AtLeastOne, Every, Record
from msngan.runs.score_records import score_line
from msngan.scores.floors import floors
from msngan.scores.measuring import roles_of
from msngan.scores.presets import metric_names, preset
from msngan.scores.scorer import Scored, Scorer
from msngan.training.callbacks import watch
from msngan.training.callbacks.base import RunCallback, callbacks_of
from msngan.training.callbacks.checkpoints import Checkpoints
from msngan.training.callbacks.cost import Cost
from msngan.training.callbacks.progress import Progress, clock
from msngan.training.callbacks.wanted import check_sizes, role_of

if TYPE_CHECKING:
    import torch

    from msngan.data import ImageData
    from msngan.gan import GAN


class Scores(RunCallback):
    """Scores the generator's moving average and appends a line to scores.jsonl.

    The extractor is chosen, said and loaded before the first step, never in the middle. Sampling
    and scoring take nothing from training's random streams. Signs of a collapse are said: a score
    worse than twice its best in three evaluations, precision or recall near zero.

    Args:
        every: steps between scores; 0: only at the end.
        protocol: evaluation protocol: paper (5 sets of 2000 samples), sngan, 50k, or a .yaml file.
        metrics: scores to compute, such as fid,kid: is, fid, kid and prc (precision, recall,
            density, coverage); null: all.
        best: score by which best.ckpt is chosen; with an embedded extractor, that extractor's score
            of the same kind (fd for fid).
        stop_on_collapse: stop the run, after saving, when the scores show a collapse.
        extractor: feature extractor: auto, embedded, inception, or a .safetensors file from `msngan
            extractor fit`.
        inception_weights: file with the official Inception weights; null: that of the torch hub.
        runs: number of sample sets; null: the protocol's.
        samples: samples in each set; null: the protocol's.
        enabled: compute scores.
    """

    def __init__(
        self,
        every: Record[Every] = 5000,
        protocol: Record[str] = "paper",
        metrics: Record[list[str] | str | None] = None,
        best: Record[
            Literal["fid", "is", "kid", "precision", "recall", "density", "coverage"]
        ] = "fid",
        stop_on_collapse: Record[bool] = False,
        extractor: Record[str] = "auto",
        inception_weights: Record[str | None] = None,
        runs: Record[AtLeastOne | None] = None,
        samples: Record[Annotated[int, Range(2)] | None] = None,
        enabled: Record[bool] = True,
    ) -> None:
        preset(protocol)
        self.metrics = metric_names("--scores.metrics", metrics)
        self.role = role_of(best, self.metrics)
        self.every, self.protocol, self.extractor = every, protocol, extractor
        self.inception_weights, self.runs, self.samples = inception_weights, runs, samples
        self.enabled, self.stop_on_collapse = enabled, stop_on_collapse
        self.collapse: str | None = None  # what stopped the run
        self._scorer: Scorer | None = None
        self._lines: list[watch.Line] = []
        self._after = -1  # the step whose scores the best.ckpt there is was not chosen by

    def prepare(self, data: ImageData, device: torch.device) -> None:
        """Choose and load the extractor and the reference; UserError if they cannot be had."""
        if not self.enabled:
            return
        start = time.monotonic()
        self._scorer = Scorer(
            data,
            extractor=self.extractor,
            protocol=self.protocol,
            device=device,
            inception_weights=self.inception_weights,
            runs=self.runs,
            samples=self.samples,
            via="torchmetrics",
            metrics=self.metrics,
        )
        check_sizes(self.role, self._scorer.protocol)
        # What real images score is found once, and is no part of what a score costs.
        known, roles = self._scorer, roles_of(self.metrics)
        floors(known.reference, known.extractor, known.protocol, known.real.held_out, roles)
        self._prepared = time.monotonic() - start

    @property
    def cost(self) -> str:
        """'scores took 0:12, 2.1 % of 9:40', of the time since training began."""
        return self._cost.text(time.monotonic() - self._began[1])

    @property
    def best(self) -> watch.Point | None:
        """Of the named score, so far."""
        series = watch.points(self._lines, self._key)
        return watch.best([point for point in series if point.step > self._after], self._key)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = (trainer.global_step, time.monotonic())
        self._cost = Cost(self.every, self.steps)
        if self._scorer is None:
            return
        self._key = self._scorer.keys[self.role]
        if trainer.is_global_zero:
            self.keep_until(trainer, self.run.scores)
        self._weights = "ema" if cast("GAN", pl_module).ema is not None else "raw"
        like = {"protocol_id": self._scorer.protocol.id, "weights": self._weights, "source": "fit"}
        # Read by one process: what the others decide by must be the same.
        lines = processes.decided(lambda: read_lines(self.run.scores))
        before = [line for line in lines if line.get("source") == "fit"]
        self._lines = watch.comparable(before, like)
        _say(trainer, f"{self._scorer.announcement} (ready after {clock(self._prepared)})")
        if before and not self._lines:
            _say(trainer, "the scores so far are of another protocol; the best is chosen anew")
        elif (other := processes.decided(self._chosen_by)) not in (None, self._key):
            self._after = trainer.global_step
            _say(trainer, f"best.ckpt was chosen by {other}; it is chosen anew, by {self._key}")

    def _chosen_by(self) -> str | None:
        """The score that best.ckpt was chosen by, where there is one and it says so."""
        if not self.run.best.is_file():
            return None
        chosen = read_checkpoint(self.run.best)["msngan"].get("best")
        return str(chosen["score"]) if isinstance(chosen, dict) and "score" in chosen else None

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._scorer is None or not self.due(trainer, self.every):
            return
        start, step = time.monotonic(), trainer.global_step
        scored = self._scorer.score(cast("GAN", pl_module).sampler())
        seconds = time.monotonic() - start
        line = score_line(self.run.name, step, self._weights, "fit", scored.line, seconds)
        line["config"] = self.config_name
        self._lines.append(line)
        top = self.best
        if top is not None and top.step == step:
            line |= {"best": True, "best_by": self._key}
        if trainer.is_global_zero:
            self.append(trainer, self.run.scores, line)
        self._show(trainer, scored, f"{seconds:.1f} s{', the best' if 'best' in line else ''}")
        if top is not None and top.step == step:
            for checkpoints in callbacks_of(trainer, Checkpoints):
                checkpoints.save_best(trainer, {"score": self._key, "value": top.value})
        self._judge(trainer)
        self._cost.add(time.monotonic() - start)
        now, done = time.monotonic() - self._began[1], step - self._began[0]
        if remedy := self._cost.remedy(now, done):
            _say(trainer, remedy)

    def _show(self, trainer: Trainer, scored: Scored, note: str) -> None:
        means = {
            key: score["mean"] for key, score in scored.scores.items() if score["mean"] is not None
        }
        for logger in trainer.loggers:
            logger.log_metrics(means, trainer.global_step)
        name = scored.protocol.extractor  # once, not seven times
        text = scored.text.replace(f"/{name}", "")
        _say(trainer, f"step {trainer.global_step}: {text}  ({name}, {note})")
        if self._key in means:
            for progress in callbacks_of(trainer, Progress):
                progress.note = f"{self._key.partition('/')[0]} {means[self._key]:.4g}"

    def _judge(self, trainer: Trainer) -> None:
        """Say what the newest score is a sign of, and stop if that is a collapse and wanted."""
        assert self._scorer is not None
        keys = self._scorer.keys
        for sign in watch.signs(self._lines, self._key, [keys["precision"], keys["recall"]]):
            remedy = f"; {watch.REMEDY}" if sign.collapse else ""
            _say(trainer, f"warning: {sign.text}{remedy}")
            if sign.collapse and self.stop_on_collapse:
                self.collapse = sign.text
                trainer.should_stop = True


def _say(trainer: Trainer, text: str) -> None:
    for progress in callbacks_of(trainer, Progress):
        progress.say(text)
