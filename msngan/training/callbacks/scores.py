"""Scores during training: by default the paper's five runs of 2000 samples; what they cost."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Annotated, Any, Literal, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from msngan.data import ImageData
from msngan.gan import GAN
from msngan.runs import distributed
from msngan.runs.checkpoint_files import read_checkpoint
from msngan.runs.folder import UserError, clock
from msngan.runs.jsonl import read_lines
from msngan.runs.option_values import check_ranges
from msngan.runs.options import AtLeastOne, Every, Range, Record, SetByFit
from msngan.runs.safe_read import number
from msngan.runs.score_records import better, score_line
from msngan.scores.protocol import KEYS, METRICS, metric_names, preset
from msngan.scores.reference import real_data_scores
from msngan.scores.scorer import Scored, Scorer
from msngan.training.callbacks.checkpoints import save_best
from msngan.training.callbacks.run_callback import Figures, RunCallback, data_of

SHARE = 0.05  # of a run's time; scores that take more are reported
ROLES = {usual: role for role, (usual, _) in KEYS.items()}  # role by usual name, as --scores.best
IN_A_ROW = 3  # evaluations that must agree; a single one may be an accident
FACTOR = 2  # this many times worse than the best is bad
NEAR_ZERO = 0.01  # of precision and recall, which are shares
PRESENT = 0.1  # a share that reached this and is near zero needs no confirmation
MEANING = {
    "precision": "hardly a sample lies among the real images",
    "recall": "hardly a real image lies among the samples, which is what mode collapse looks like",
}
REMEDY = (
    "if it does not recover, try a lower --model.generator_lr or --model.critic_lr, another"
    " --model.norm or a --model.penalty"
)

Line = dict[str, Any]  # of scores.jsonl


class Scores(RunCallback):
    """Scores the generator's moving average and appends a line to scores.jsonl.

    The extractor is chosen, named and loaded before the first step, never in the middle. Sampling
    and scoring leave training's random streams alone. Signs of a collapse are reported: a score
    worse than twice its best in three evaluations, precision or recall near zero.

    Args:
        every: steps between scores; 0: only at the end.
        protocol: evaluation protocol: paper (5 sets of 2000 samples), sngan, 50k, or a .yaml file.
        metrics: scores to compute, such as fid,kid: is, fid, kid and prc (precision, recall,
            density, coverage), of conditional GANs also agreement (with the labels) and intra (fid
            within classes); null: all but intra.
        best: score by which best.ckpt is chosen; with an embedded extractor, that extractor's score
            of the same kind (fd for fid).
        stop_on_collapse: stop the run, after saving, when the scores show a collapse.
        extractor: feature extractor: auto, embedded, embedded-vgg7, inception, dinov2-vit-b-14 or
            another network of its kind, or a .safetensors file from `msngan extractor fit`.
        inception_weights: file with the official Inception weights; null: that of the torch hub.
        extractor_weights: file with the weights of a DINOv2 or CLIP network.
        runs: number of sample sets; null: the protocol's.
        samples: samples in each set; null: the protocol's.
        enabled: compute scores.
        real: in Python, real images to compare with, uint8 (N, C, H, W); null: those of the
            ImageData that is trained on.
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
        extractor_weights: Record[str | None] = None,
        runs: Record[AtLeastOne | None] = None,
        samples: Record[Annotated[int, Range(2)] | None] = None,
        enabled: Record[bool] = True,
        real: SetByFit[Any] = None,
    ) -> None:
        given = dict(locals())
        check_ranges("gan", "scores", given)
        is_images = isinstance(real, Tensor) and real.dtype == torch.uint8 and real.ndim == 4
        if real is not None and not is_images:
            shape = f" of {real.dtype} {tuple(real.shape)}" if isinstance(real, Tensor) else ""
            raise UserError(
                f"Scores(real=...) is a {type(real).__name__}{shape}; give a tensor of images,"
                " uint8 (N, C, H, W)"
            )
        preset(protocol)
        self.metrics = metric_names("--scores.metrics", metrics)
        self.role = ROLES[best]  # as in Extractor.keys
        metric = next(name for name, roles in METRICS.items() if self.role in roles)
        if metric not in self.metrics:
            raise UserError(f"--scores.best {best} needs {metric} in --scores.metrics")
        self.every, self.enabled, self.stop_on_collapse = every, enabled, stop_on_collapse
        self.real: Tensor | None = real
        weights = ("inception_weights", "extractor_weights")
        passed = ("extractor", *weights, "protocol", "runs", "samples")
        self._options: dict[str, Any] = {name: given[name] for name in passed}
        self.collapse: str | None = None  # the sign that stopped the run
        self._scorer: Scorer | None = None
        self._lines: list[Line] = []
        self._after = -1  # only later scores choose the best: best.ckpt was chosen by another score

    def prepare(self, data: ImageData | Tensor, device: torch.device, classes: int = 0) -> None:
        """Choose and load the extractor and the reference; UserError if that is impossible.

        data: the data that is trained on, or real images, uint8 (N, C, H, W). classes: of a
        conditional GAN.
        """
        if not self.enabled:
            return
        start = time.monotonic()
        given = {"metrics": self.metrics, "needs": self.role, "classes": classes, **self._options}
        self._scorer = known = Scorer(data, via="torchmetrics", device=device, **given)
        protocol = known.protocol
        count = min(protocol.samples, protocol.reference_images)
        nearest = max(protocol.precision_neighbours, protocol.coverage_neighbours)
        if self.role in METRICS["prc"] and count <= nearest:
            raise UserError(
                f"--scores.best {self.role} needs more than {nearest} samples and real images, not"
                f" {count}; raise --scores.samples or use --scores.best fid"
            )
        # The real-data scores are computed here, once, so they do not count as a score's cost.
        of = known.reference, known.extractor, protocol, known.real.held_out
        real_data_scores(*of, known.extractor.roles(self.metrics))
        self._prepared = time.monotonic() - start

    @property
    def cost(self) -> str:
        """'scores took 0:12, 2.1 % of 9:40', of the time since training began."""
        elapsed = time.monotonic() - self._began[1]
        share = 100 * self._seconds / max(elapsed, 1e-9)
        return f"scores took {clock(self._seconds)}, {share:.1f} % of {clock(elapsed)}"

    @property
    def best(self) -> Point | None:
        """The best evaluation so far, by the score that chooses best.ckpt."""
        series = points(self._lines, self._key)
        later = [point for point in series if point.step > self._after]
        return best_of(later, self._key)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = (trainer.global_step, time.monotonic())
        self._seconds, self._scores, self._said = 0.0, 0, False
        if self._scorer is None and self.enabled:  # `fit` prepares before it writes anything
            data = self.real if self.real is not None else data_of(trainer)
            if data is None:
                raise UserError(
                    "Scores has no real images to compare with: give Scores(real=images), uint8"
                    " (N, C, H, W), or train on ImageData"
                )
            self._check_shape(data if isinstance(data, Tensor) else data.real, pl_module)
            classes = cast(GAN, pl_module).options.classes
            self.prepare(data, pl_module.device, classes)
        if self._scorer is None:
            return
        say = self.saving.say
        self._key = self._scorer.extractor.keys[self.role]
        self.keep_until(trainer, self.run.scores)
        self._weights = "ema" if cast(GAN, pl_module).ema is not None else "raw"
        like = {"protocol_id": self._scorer.protocol.id, "weights": self._weights, "source": "fit"}
        # The first process reads for all, so that all decide by the same lines.
        lines = distributed.decided(lambda: read_lines(self.run.scores))
        before = [line for line in lines if line.get("source") == "fit"]
        self._lines = comparable(before, like)
        say(f"{self._scorer.announcement} (ready after {clock(self._prepared)})")
        if self._scorer.warning:
            say(f"warning: {self._scorer.warning}")
        for each in self._scorer.left_out:
            say(each)
        if before and not self._lines:
            say("earlier scores are of another protocol; the best is chosen anew")
        elif (other := distributed.decided(self._chosen_by)) not in (None, self._key):
            self._after = trainer.global_step
            say(f"best.ckpt was chosen by {other}; it is chosen anew, by {self._key}")

    def _check_shape(self, real: Tensor, module: Any) -> None:
        """UserError before the first step, not at the first score."""
        made = module.sample(1, 0).shape[1:]
        if made != real.shape[1:]:
            makes, has = ("x".join(map(str, each)) for each in (made, real.shape[1:]))
            raise UserError(
                f"Scores compares with images of {has}, and the generator makes {makes}; give"
                f" Scores(real=...) of {makes}"
            )

    def _chosen_by(self) -> str | None:
        """The score that chose best.ckpt; None without the file or the note in it."""
        if not self.run.best.is_file():
            return None
        chosen = read_checkpoint(self.run.best)["msngan"].get("best")
        return str(chosen["score"]) if isinstance(chosen, dict) and "score" in chosen else None

    def after_step(self, trainer: Trainer, module: Any, figures: Figures) -> None:
        if self._scorer is None or not self.due(trainer, self.every):
            return
        start, step = time.monotonic(), trainer.global_step
        scored = self._scorer.score(module.sampler())
        seconds = time.monotonic() - start
        line = score_line(self.run.name, step, self._weights, "fit", scored.line, seconds)
        line["config"] = self.config_name
        self._lines.append(line)
        top = self.best
        top = top if top and top.step == step else None
        if top:
            line |= {"best": True, "best_by": self._key}
        self.append(trainer, self.run.scores, line)
        self._show(trainer, scored, f"{seconds:.1f} s{', the best' if top else ''}")
        if top:
            save_best(trainer, {"score": self._key, "value": top.value})
        self._check_collapse(trainer, self._scorer.extractor.keys)
        self._seconds += time.monotonic() - start
        self._scores += 1
        others = time.monotonic() - self._began[1] - self._seconds
        per_score, per_step = self._seconds / self._scores, others / (step - self._began[0])
        least = least_every(per_score, per_step)
        if 0 < self.every < least and self.every <= step and not self._said:
            self._said = True
            self.saving.say(
                f"{self.cost}; --scores.every {least} would keep it within {100 * SHARE:.0f} %,"
                " --scores.enabled false never scores"
            )

    def _show(self, trainer: Trainer, scored: Scored, note: str) -> None:
        means = {key: each["mean"] for key, each in scored.scores.items()}
        means = {key: mean for key, mean in means.items() if mean is not None}
        self.to_loggers(trainer, means)
        name = scored.protocol.extractor  # printed once, not beside each score
        text = scored.text.replace(f"/{name}", "")
        self.saving.say(f"step {trainer.global_step}: {text}  ({name}, {note})")
        if self._key in means:
            self.saving.note = f"{self._key.partition('/')[0]} {means[self._key]:.4g}"

    def _check_collapse(self, trainer: Trainer, keys: Mapping[str, str]) -> None:
        """Report signs in the newest score; stop if one is a collapse and that was asked for."""
        for sign in signs(self._lines, self._key, [keys["precision"], keys["recall"]]):
            remedy = f"; {REMEDY}" if sign.collapse else ""
            self.saving.say(f"warning: {sign.text}{remedy}")
            if sign.collapse and self.stop_on_collapse:
                self.collapse = sign.text
                trainer.should_stop = True


def least_every(per_score: float, per_step: float) -> int:
    """The least steps between scores that keep their cost within SHARE, by seconds of each.

    Not by the share so far: soon after a resume that is large, whatever the steps between scores.
    """
    return math.ceil(per_score * (1 / SHARE - 1) / max(per_step, 1e-9))


# Signs of a collapse: pure functions over the lines, so that a resumed run reports what an
# uninterrupted one does, and reports it once. The bounds are rules of thumb, not from any paper.


@dataclass(frozen=True)
class Point:
    """One evaluation's number; sd is None for a single sample set."""

    step: int
    value: float
    sd: float | None = None


@dataclass(frozen=True)
class Sign:
    """What the newest evaluation shows, in a sentence; collapse: whether that is a collapse."""

    text: str
    collapse: bool


def comparable(lines: Sequence[Line], newest: Line) -> list[Line]:
    """The lines that `fit` wrote for the same kind of weights under the same protocol."""
    same = ("protocol_id", "weights", "source")
    return [line for line in lines if all(line.get(name) == newest.get(name) for name in same)]


def points(lines: Sequence[Line], key: str) -> list[Point]:
    """The evaluations that have a number for this score, in order."""
    found = []
    for line in lines:
        score = _score(line, key)
        value, sd = number(score.get("mean")), number(score.get("sd"))
        if value is not None and isinstance(step := line.get("step", 0), int):
            found.append(Point(step, value, sd))
    return found


def best_of(series: Sequence[Point], key: str) -> Point | None:
    """The best of a score's evaluations, the earliest of equals."""
    sign = -1 if better(key) == "higher" else 1
    return min(series, key=lambda point: sign * point.value, default=None)


def signs(lines: Sequence[Line], key: str, shares: Sequence[str]) -> list[Sign]:
    """What the last of these comparable lines is the first to show.

    key: the score that chooses the best. shares: precision and recall, if there are any. A failed
    score is reported but is no evidence: it neither counts as a bad evaluation nor ends a row.
    """
    found = [Sign(text, False) for text in _failed(lines, [key, *shares])]
    top = best_of(points(lines, key), key)
    since = top.step if top else -1
    texts = [
        _vanished(points(lines, share), share, since)
        for share in shares
        if points(lines[-1:], share)
    ]
    if points(lines[-1:], key):
        texts.insert(0, _far_from_best(points(lines, key), key))
    return found + [Sign(text, True) for text in texts if text is not None]


def _score(line: Line, key: str) -> dict[str, Any]:
    scores = line.get("scores")
    score = scores.get(key) if isinstance(scores, dict) else None
    return score if isinstance(score, dict) else {}


def _far_from_best(series: Sequence[Point], key: str) -> str | None:
    """Text if the newest evaluation is the third in a row far from the best before it."""
    top, row = series[0], 0
    for point in series:
        top = best_of([top, point], key) or point
        row = row + 1 if _far(point, top, key) else 0
    if row != IN_A_ROW:
        return None
    bound = "more than twice" if better(key) == "lower" else "less than half"
    return (
        f"{key} is {series[-1].value:.4g} at step {series[-1].step}, {bound} its best"
        f" ({top.value:.4g} at step {top.step}) in {row} evaluations in a row"
    )


def _far(point: Point, top: Point, key: str) -> bool:
    if better(key) == "higher":
        return point.value < top.value / FACTOR
    # The best kernel distance is zero up to noise and may be negative: the bound is then twice
    # the noise.
    return point.value > FACTOR * max(abs(top.value), top.sd or 0)


def _vanished(series: Sequence[Point], key: str, since: int) -> str | None:
    """Text if a share falls to near zero, or was never larger and is near it a third time in a row.

    Only evaluations after `since`, the step of the best score, count for a row: shares are near
    zero at the start of a run that gets better.
    """
    low = list(takewhile(lambda point: point.value < NEAR_ZERO, reversed(series)))
    peak = max(series, key=lambda point: point.value)
    had = peak.value >= PRESENT
    row = len(low) if had else sum(point.step > since for point in low)
    if row != (1 if had else IN_A_ROW):
        return None
    before = f"was {peak.value:.2g} at step {peak.step}"
    if not had:
        before = f"near 0 in {row} evaluations since the best score, at step {since}"
    meaning = MEANING[key.partition("/")[0]]
    return f"{key} is {series[-1].value:.2g} at step {series[-1].step} ({before}): {meaning}"


def _failed(lines: Sequence[Line], keys: Sequence[str]) -> list[str]:
    """What fails in the newest line and did not fail in the one before, by reason."""
    reasons: dict[str, list[str]] = {}
    for key in dict.fromkeys(keys):
        now, *before = (_reason(line, key) for line in reversed(lines[-2:]))
        if now is not None and before in ([], [None]):
            reasons.setdefault(now, []).append(key)
    step = lines[-1].get("step")
    return [f"no {', '.join(named)} at step {step}: {reason}" for reason, named in reasons.items()]


def _reason(line: Line, key: str) -> str | None:
    """Why a score failed; None if it did not, or was not asked for."""
    score = _score(line, key)
    return str(score.get("reason", "unknown")) if score and not points([line], key) else None
