"""The lines of scores.jsonl, each checked before it is used: the files may come from anyone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msngan.runs.folder import Run, UserError, all_runs, did_you_mean, now
from msngan.runs.jsonl import lines
from msngan.runs.safe_read import clean, number

Json = Any  # any JSON value; every use is checked

# Names that only the official Inception network may use: the families in any form, the others
# as they stand; `precision/NAME` says which network it is from.
OFFICIAL_FAMILIES = {"fid", "is", "kid", "intra-fid"}
OFFICIAL = OFFICIAL_FAMILIES | {"precision", "recall", "density", "coverage", "agreement"}
# Fields of a protocol that older lines lack, and that are in no id where they have these values.
UNSAID = {
    **{"precision_neighbours": 3, "coverage_neighbours": 5, "labels": "reference"},
    **{"truncation": None, "standing": 0},
}
DRAWN = {  # of these, how samples were drawn, in words
    "labels": "{} labels",
    "truncation": "truncation {}",
    "standing": "standing statistics (batches: {})",
}
# In the order of columns; the family of a metric is its name before the slash.
BETTER = {
    "fid": "lower",
    "fd": "lower",
    "is": "higher",
    "cs": "higher",
    "kid": "lower",
    "kd": "lower",
    "precision": "higher",
    "recall": "higher",
    "density": "higher",  # a share of neighbours, not of images: it can exceed 1
    "coverage": "higher",
    "agreement": "higher",
    "intra-fid": "lower",
    "intra-fd": "lower",
}


def how_drawn(protocol: Mapping[str, Json]) -> list[str]:
    """In words, how the samples of a protocol were drawn, where that is not the usual way."""
    said = {**UNSAID, **protocol}
    changed = {name: said[name] for name in DRAWN if said[name] != UNSAID[name]}
    return [DRAWN[name].format(clean(str(value))[:40]) for name, value in changed.items()]


def family(metric: str) -> str:
    return metric.partition("/")[0]


def better(metric: str) -> str | None:
    """'lower', 'higher', or None for a metric whose direction is not known."""
    return BETTER.get(family(metric))


@dataclass(frozen=True)
class Score:
    """One metric of one line. mean is None if it failed, for `reason`.

    sd is the spread (ddof 1) over `runs` sample sets from the same weights, None if there was one;
    it says nothing about another training seed.
    """

    step: int
    mean: float | None
    sd: float | None
    runs: int
    values: tuple[float, ...]
    reason: str | None
    source: str | None
    time: str | None


@dataclass(frozen=True)
class Floor:
    """The real-data score under the protocol; kind says how it was found."""

    mean: float
    kind: str


@dataclass(frozen=True)
class Entry:
    """One line of a scores.jsonl, checked, its strings without control characters.

    dimensions: how many features the extractor has; None where the line does not say.
    """

    run: str
    config: str
    weights: str
    step: int
    protocol_id: str
    protocol: dict[str, Json]
    scores: dict[str, Score]
    floors: dict[str, Floor]
    dimensions: int | None = None


def score_line(
    run: str, step: int, weights: str, source: str, scored: dict[str, Any], seconds: float = 0.0
) -> dict[str, Any]:
    """A line of scores.jsonl: what was scored, when, and `scored`: protocol, scores and floors."""
    return {
        "format": 1,
        "run": run,
        "step": step,
        "weights": weights,
        "source": source,
        "time": now(),
        "seconds": round(seconds, 2),
        **scored,
    }


def find_runs(names: list[str], root: Path = Path()) -> list[Run]:
    """The named runs, or every one that has a config or scores, in order of name."""
    if not root.is_dir():
        raise UserError(f"--root {str(root)!r} is not a folder")
    scored = [Run(path.parent.name, root) for path in root.glob("checkpoints/*/scores.jsonl")]
    trained = [run for run in all_runs(root) if run.task == "gan"]
    known = {run.name: run for run in [*trained, *scored]}
    for name in names:
        if name not in known:
            near = did_you_mean(name, list(known))
            raise UserError(f"no run {name!r} in {root / 'checkpoints'}{near}")
    return [known[name] for name in sorted(set(names) or known)]


def read_scores(runs: list[Run]) -> tuple[list[Entry], list[str]]:
    """Every valid line of the runs, and a warning for each line that was skipped.

    One protocol_id stands for one protocol, that of the first line that has it. A name changes no
    number, and older lines lack fields that are in no id.
    """
    entries: list[Entry] = []
    warnings: list[str] = []
    meaning: dict[str, tuple[dict[str, Json], str]] = {}
    for run in runs:
        name = clean(str(run.scores))
        try:
            if run.scores.is_dir():
                raise ValueError("it is a folder")
            for line in lines(run.scores):
                where = f"{name}: line {line.number}"
                if (record := line.record) is None:
                    if line.whole:  # and not one that a kill has cut
                        warnings.append(f"{where} is not valid JSON and was skipped")
                    continue
                try:
                    entry = parse(record, run.name)
                except ValueError as problem:
                    warnings.append(f"{where} was skipped: {problem}")
                    continue
                defined = {**UNSAID, **entry.protocol, "name": None}
                first, place = meaning.setdefault(entry.protocol_id, (defined, where))
                if first == defined:
                    entries.append(entry)
                else:
                    told = f"its protocol_id means another protocol in {place}"
                    warnings.append(f"{where} was skipped: {told}")
        except (OSError, ValueError) as problem:
            reason = problem.strerror if isinstance(problem, OSError) else problem
            warnings.append(f"{name} was skipped: {reason}")
    return entries, warnings


def parse(record: dict[str, Json], run: str) -> Entry:
    """An Entry of one line's record; ValueError says which field is missing or wrong.

    The run's name is its folder's, which is what every command takes, not the line's.
    """
    if record.get("format") != 1:
        raise ValueError(f"format {record.get('format')!r} is not known, only 1 is")
    protocol = _want(record, "protocol", dict)
    for name in ("name", "dataset", "extractor"):
        _want(protocol, name, str)
    official = _want(protocol, "official_inception", bool)
    runs = _want(protocol, "runs", int, least=1)
    _want(protocol, "samples", int, least=1)
    weights = _want(record, "weights", str)
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights {weights!r} is neither 'ema' nor 'raw'")
    step = _want(record, "step", int, least=0)
    said: Json = {
        name: str(record[name]) if record.get(name) else None for name in ("source", "time")
    }
    scores = {}
    for name in _want(record, "scores", dict):
        if not official and (name in OFFICIAL or name.partition("/")[0] in OFFICIAL_FAMILIES):
            raise ValueError(f"{name!r} is not from the official Inception network")
        scores[name] = Score(step=step, **_score(record["scores"], name, runs, said))
    if not scores:
        raise ValueError("'scores' is empty")
    floors = {"floors": {}} if record.get("floors") is None else record
    return Entry(
        run=clean(run),
        config=_want(record, "config", str),
        weights=weights,
        step=step,
        protocol_id=_want(record, "protocol_id", str),
        protocol=protocol,
        scores=scores,
        floors={
            name: Floor(_number(name, floor["mean"]), _want(floor, "kind", str))
            for name in _want(floors, "floors", dict)
            if (floor := _want(floors["floors"], name, dict)).get("mean") is not None
        },
        dimensions=_want(record, "dimensions", int, least=1) if "dimensions" in record else None,
    )


def _score(
    scores: dict[str, Json], name: str, runs: int, said: dict[str, str | None]
) -> dict[str, Json]:
    """The fields of one metric's Score but its step."""
    score = _want(scores, name, dict)
    if "mean" not in score:
        raise ValueError(f"{name!r} has no 'mean'")
    if score["mean"] is None:
        reason = str(score.get("reason") or "no reason recorded")
        return {"mean": None, "sd": None, "runs": runs, "values": (), "reason": reason, **said}
    sd = None if score.get("sd") is None else _number(name, score["sd"])
    if sd is not None and sd < 0:
        raise ValueError(f"{name!r} has a negative 'sd'")
    values = tuple(_number(name, each) for each in _want({"values": [], **score}, "values", list))
    about: Json = {"sd": sd, "runs": len(values) or runs, "values": values, "reason": None}
    return {"mean": _number(name, score["mean"]), **about, **said}


def _want(record: dict[str, Json], key: str, kind: type, least: int | None = None) -> Json:
    """The value, which is of this kind; of a string, not empty; of an integer, `least` or more."""
    if key not in record:
        raise ValueError(f"no {key!r}")
    if type(record[key]) is not kind:
        raise ValueError(f"{key!r} is not a {kind.__name__}")
    value = record[key]
    if value == "":
        raise ValueError(f"{key!r} is empty")
    if least is not None and value < least:
        raise ValueError(f"{key!r} is less than {least}")
    return value


def _number(name: str, value: Json) -> float:
    if (found := number(value)) is None:
        raise ValueError(f"{name!r} holds something that is not a number, or too large")
    return float(found)
