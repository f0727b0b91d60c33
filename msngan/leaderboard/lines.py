"""The lines of scores.jsonl, each checked before it is believed: the files may come from anyone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msngan.runs.folder import Run, UserError, all_runs, did_you_mean, now

Json = Any  # what json.loads returns; every use is checked

# Names that only the official Inception network may use: the first three in any form, the others
# as they stand, for `precision/NAME` says which network it is of.
OFFICIAL_FAMILIES = {"fid", "is", "kid"}
OFFICIAL = OFFICIAL_FAMILIES | {"precision", "recall", "density", "coverage"}
# Fields of a protocol that older lines lack, and that are in no id where they are this.
UNSAID = {"precision_neighbours": 3, "coverage_neighbours": 5}
LARGEST = 1e100  # of a number; its square is still a number


@dataclass(frozen=True)
class Score:
    """One metric of one line. mean is None if it failed, for `reason`.

    sd is the spread (ddof 1) over `runs` drawings of samples from the same weights, None if there
    was one; it says nothing about another training seed.
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
    """What real data scores under the protocol; kind says how that was found."""

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


def clean(value: Json, levels: int = 20) -> Json:
    """Any JSON value, its strings and keys cut to 300 characters and rid of unprintable ones.

    ValueError if it is nested deeper than `levels`, which no score is.
    """
    if isinstance(value, str):
        value = value[:300]
        return value if value.isprintable() else "".join(filter(str.isprintable, value))
    if isinstance(value, (dict, list)) and not levels:
        raise ValueError("nested too deep")
    if isinstance(value, dict):
        return {clean(key): clean(each, levels - 1) for key, each in value.items()}
    return [clean(each, levels - 1) for each in value] if isinstance(value, list) else value


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
        raise UserError(f"--root {str(root)!r} is no folder")
    scored = [Run(path.parent.name, root) for path in root.glob("checkpoints/*/scores.jsonl")]
    trained = [run for run in all_runs(root) if run.task == "gan"]
    known = {run.name: run for run in [*trained, *scored]}
    for name in names:
        if name not in known:
            near = did_you_mean(name, list(known))
            raise UserError(f"no run {name!r} in {root / 'checkpoints'}{near}")
    return [known[name] for name in sorted(set(names) or known)]


def read(runs: list[Run]) -> tuple[list[Entry], list[str]]:
    """Every sound line of the runs, and a warning for each line that had to be left out."""
    entries: list[Entry] = []
    warnings: list[str] = []
    meaning: dict[str, tuple[dict[str, Json], str]] = {}
    for run in runs:
        if not run.scores.exists() or run.scores.is_fifo():  # a pipe would be waited for
            continue
        try:
            text = run.scores.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            warnings.append(clean(f"{run.scores}: {error.strerror}; file left out"))
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            where = f"{clean(str(run.scores))}, line {number}"
            try:
                if line.strip():
                    entry = parse(_loads(line), run.name)
                    # a name moves no number, and older lines lack fields that are in no id
                    defined = {**UNSAID, **entry.protocol, "name": None}
                    first, place = meaning.setdefault(entry.protocol_id, (defined, where))
                    if first != defined:
                        raise ValueError(f"its protocol_id means another protocol in {place}")
                    entries.append(entry)
            except ValueError as error:
                warnings.append(f"{where}: {error}; line left out")
    return entries, warnings


def _loads(line: str) -> Json:
    """Strict JSON: neither NaN nor an infinity, not even one written as 1e999."""
    try:
        return json.loads(line, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None


def _finite(word: str) -> float:
    if math.isfinite(value := float(word)):
        return value
    raise ValueError(word)


def parse(record: Json, run: str) -> Entry:
    """An Entry of one line's record; ValueError says which field is missing or wrong.

    The run's name is its folder's, which is what every command takes, not the line's.
    """
    record = clean(_want({"line": record}, "line", dict))
    if record.get("format") != 1:
        raise ValueError(f"format {record.get('format')!r} is not known, only 1 is")
    protocol = _want(record, "protocol", dict)
    for key, kind in {"name": str, "dataset": str, "extractor": str}.items():
        _want(protocol, key, kind)
    official = _want(protocol, "official_inception", bool)
    runs = _count(protocol, "runs", 1)
    _count(protocol, "samples", 1)
    weights = _want(record, "weights", str)
    if weights not in ("ema", "raw"):
        raise ValueError(f"weights {weights!r} is neither 'ema' nor 'raw'")
    step = _count(record, "step", 0)
    scores = {}
    if not _want(record, "scores", dict):
        raise ValueError("'scores' is empty")
    for name, score in record["scores"].items():
        if not official and (name in OFFICIAL or name.partition("/")[0] in OFFICIAL_FAMILIES):
            raise ValueError(f"{name!r} is not from the official Inception network")
        source, time = (record.get(key) for key in ("source", "time"))
        scores[name] = _score(name, score, runs, step, source and str(source), time and str(time))
    return Entry(
        run=clean(run),
        config=_want(record, "config", str),
        weights=weights,
        step=step,
        protocol_id=_want(record, "protocol_id", str),
        protocol=protocol,
        scores=scores,
        floors=_floors(record.get("floors")),
        dimensions=_count(record, "dimensions", 1) if "dimensions" in record else None,
    )


def _want(record: dict[str, Json], key: str, kind: type) -> Json:
    if key not in record:
        raise ValueError(f"no {key!r}")
    if not isinstance(record[key], kind):
        raise ValueError(f"{key!r} is no {kind.__name__}")
    if kind is str and not record[key]:
        raise ValueError(f"{key!r} is empty")
    return record[key]


def _count(record: dict[str, Json], key: str, least: int) -> int:
    value = _want(record, key, int)
    if isinstance(value, bool) or value < least:
        raise ValueError(f"{key!r} is no whole number from {least}")
    return value


def _number(name: str, value: Json) -> float:
    try:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if number and abs(float(value)) <= LARGEST:
            return float(value)
    except OverflowError:
        pass
    raise ValueError(f"{name!r} holds something that is no number, or too large")


def _score(
    name: str, score: Json, runs: int, step: int, source: str | None, time: str | None
) -> Score:
    score = _want({name: score}, name, dict)
    if "mean" not in score:
        raise ValueError(f"{name!r} has no 'mean'")
    if score["mean"] is None:
        reason = str(score.get("reason") or "no reason recorded")
        return Score(step, None, None, runs, (), reason, source, time)
    mean = _number(name, score["mean"])
    sd = None if score.get("sd") is None else _number(name, score["sd"])
    if sd is not None and sd < 0:
        raise ValueError(f"{name!r} has a negative 'sd'")
    values = tuple(_number(name, each) for each in _want({"values": [], **score}, "values", list))
    return Score(step, mean, sd, len(values) or runs, values, None, source, time)


def _floors(floors: Json) -> dict[str, Floor]:
    found = {}
    for name, floor in _want({"floors": {} if floors is None else floors}, "floors", dict).items():
        floor = _want({name: floor}, name, dict)
        if floor.get("mean") is not None:
            found[name] = Floor(_number(name, floor["mean"]), _want(floor, "kind", str))
    return found
