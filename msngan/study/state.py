"""How far a study's run is, read from its folder and nowhere else, so that a kill loses nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from msngan.runs.configs import find_config
from msngan.runs.folder import Run, UserError, is_locked
from msngan.runs.jsonl import newest
from msngan.runs.options import is_free
from msngan.runs.safe_read import number, object_or_empty, read_config
from msngan.study.plan import OWN, SEED, Child, Options, flat
from msngan.study.study_files import Place, base_options

BUDGET = ("steps", "epochs")  # may grow: the run is resumed with more
FINISHED = ("done", "collapsed", "diverged")


@dataclass(frozen=True)
class State:
    """word: 'to do', 'part' (to be resumed), 'running', or one of FINISHED.

    step and total: of training; total is None while it is not known. speed: steps a second. newest:
    the newest accuracy or score in words. reason: of a divergence or collapse.
    """

    word: str
    step: int = 0
    total: int | None = None
    speed: float | None = None
    newest: str = ""
    reason: str | None = None


def steps(state: State) -> str:
    """'38/190': how many are done, and of how many."""
    if state.word == "to do":
        return ""
    return f"{state.step}/{'?' if state.total is None else state.total}"


class Reader:
    """Looks at runs of one place; a base config is read once."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._bases: dict[str, Options] = {}
        self._epochs: dict[str, float] = {}  # steps of one, by the data

    def run(self, child: Child) -> Run:
        return Run(child.name, self.place.root)

    def look(self, child: Child, own: bool = False) -> State:
        """own: this process holds the run's lock. UserError for a folder of another config."""
        run = self.run(child)
        locks = (self.place.log(child.name), run.lock)
        running = not own and any(map(is_locked, locks))
        if not run.config.is_file():
            return State("running" if running else "to do")
        config = _config(run)
        grown = self._grown(child, config)
        result = object_or_empty(run.result)
        word = result.get("status")
        if running or word not in FINISHED or (grown and word == "done"):
            word = "running" if running else "part"
        return self._progress(run, config | grown, word, result)

    def grown(self, child: Child) -> Options:
        """The steps or epochs that the study asks for beyond those of the run's config.

        UserError where the two differ in anything that the trained network depends on.
        """
        return self._grown(child, _config(self.run(child)))

    def _grown(self, child: Child, config: Options) -> Options:
        if child.config not in self._bases:
            self._bases[child.config] = base_options(find_config(child.config))
        grown, different = {}, []
        for name, wanted in (self._bases[child.config] | child.options).items():
            have = config.get(name, wanted)  # an older run lacks a newer option
            if have == wanted or (name != SEED and is_free(name, config)):
                continue
            whole = isinstance(have, int) and isinstance(wanted, int)
            if name in BUDGET and whole and wanted > have:
                grown[name] = wanted
                continue
            there, asked = (json.dumps(each, default=str) for each in (have, wanted))
            different.append(f"{name} {there} there, {asked} asked")
        if different:
            raise UserError(
                f"{self.run(child).folder} holds another run: {', '.join(different)}; give the"
                " study another name with --name, or move that folder away"
            )
        return grown

    def _progress(self, run: Run, config: Options, word: str, result: dict[str, Any]) -> State:
        metrics, accuracy = map(newest, (run.metrics, run.accuracy))
        own = {name: config[name] for name in config if name.startswith("data.")}
        data = json.dumps(own, default=str)
        at, epoch = number(accuracy.get("step")), number(accuracy.get("epoch"))
        if at and epoch:
            self._epochs[data] = at / epoch
        total = config["steps"] if isinstance(config.get("steps"), int) else None
        if total is None and data in self._epochs and isinstance(config.get("epochs"), int):
            total = round(config["epochs"] * self._epochs[data])
        steps = [number(each.get("step")) or 0 for each in (metrics, accuracy, result)]
        step, speed = int(max(steps)), number(metrics.get("steps_per_second"))
        return State(word, step, total, speed, _in_words(run, accuracy), result.get("reason"))


def _config(run: Run) -> Options:
    try:
        found = read_config(run.config)
    except (OSError, ValueError) as problem:
        raise UserError(f"{run.config} cannot be read: {problem}") from problem
    kept = {name: value for name, value in found.items() if name not in OWN}
    return flat(kept, str(run.config))


def _in_words(run: Run, accuracy: dict[str, Any]) -> str:
    """The newest accuracy, of the validation images where there are any; else the newest score."""
    for part in ("validation", "test"):
        if (value := number(accuracy.get(f"{part}_accuracy"))) is not None:
            return f"{part} {100 * value:.2f} %"
    scores = newest(run.scores).get("scores")
    for name, score in scores.items() if isinstance(scores, dict) else ():
        if isinstance(score, dict) and (mean := number(score.get("mean"))) is not None:
            return f"{name.partition('/')[0]} {mean:.4g}"
    return ""
