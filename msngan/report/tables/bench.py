"""The tables of `msngan bench`: ratios, never times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msngan.report.tables.table import Table

Record = dict[str, Any]

CLOSE = 0.02  # above a floor: as near as such times can be told apart

LEGEND = [
    "95%: interval of the median, by bootstrap over rounds. of minima: the smallest time over the"
    " baseline's smallest. Rows whose intervals overlap are not ordered.",
]
NORMS_LEGEND = [
    "operations: dispatched beyond those of none, in a pass with its update and in the critic's"
    " share of a GAN step (real, fake, generator's pass); PyTorch's without freezing the critic in"
    " the generator's pass, as plain loops have it.",
    "torch / own work: time of torch SN's work on the weights in a GAN step over that of this"
    " norm's, without the passes.",
    "activations, peak: most bytes alive at once in a pass over none's; activations are the part"
    " that grows with the batch, peak is all.",
]
FLOOR_LEGEND = [
    "floor: the bytes and products that the norm cannot avoid, at the bandwidth of a large copy"
    " and the rate of none's own pass. What a cache keeps can be faster. reached: the measured"
    " interval holds it and ends at most 2 % above; open: it holds it and is wider.",
]


def as_tables(record: Record) -> Iterator[Table]:
    kind = record["benchmark"]
    if kind == "norms":
        yield _norms(record)
        yield _floors(record)
    elif kind == "step":
        yield _steps(record)
    else:
        yield _folds(record)


def _lines(record: Record) -> list[str]:
    settings = record["settings"]
    what = f"width {settings['width']}, batch {settings['batch']}"
    if record["benchmark"] != "step":
        what += f", {settings['dtype']}"
    return lines_about(record, what)


def lines_about(record: Record, what: str) -> list[str]:
    """Where and how it was measured; `what`: its sizes."""
    hardware, settings = record["hardware"], record["settings"]
    device = hardware["gpu"] if settings["device"] == "cuda" else hardware["processor"]
    return [
        f"{device}, {hardware['cores']} cores; torch {record['versions']['torch']};"
        f" msngan {record['versions']['msngan']}",
        f"{what}; threads {record['threads']}; {record['rounds']} rounds, interleaved;"
        f" clock: {record['clock']}",
    ]


def spread(ratio: dict[str, float]) -> list[str]:
    """Cells: median, 95%, of minima."""
    return [
        f"{ratio['median']:.3f}",
        f"{ratio['low']:.3f} to {ratio['high']:.3f}",
        f"{ratio['of_minima']:.3f}",
    ]


def _sorted(record: Record, key: str) -> list[dict[str, Any]]:
    return sorted(record["results"], key=lambda row: row[key]["median"])


def _norms(record: Record) -> Table:
    columns = ["norm", "time / none", "95%", "of minima", "floor"]
    extra = ["operations a pass", "a step", "torch / own work", "activations", "peak"]
    known = record["floors"]["norms"]
    rows = []
    for row in _sorted(record, "ratio"):
        floor = known.get(row["name"])
        own, counted, memory = row["own_work"], row["operations"], row["memory"]["ratio"]
        rows.append(
            [
                row["name"],
                *spread(row["ratio"]),
                f"{floor['ratio']:.3f}" if floor else "",
                f"{counted['pass']['extra']:+d}",
                f"{counted['step']['extra']:+d}",
                f"{own['less_than_torch']['median']:.1f}" if own else "",
                f"{memory['peak_activations']:.3f}",
                f"{memory['peak']:.3f}",
            ]
        )
    return Table(
        "Forward, backward and update of the critic",
        [*columns, *extra],
        rows,
        _lines(record),
        [*LEGEND, *references(record), *NORMS_LEGEND],
        right=frozenset({*columns, *extra} - {"norm"}),
        extra=len(extra),
        keys=1,
    )


def _floors(record: Record) -> Table:
    measured = {row["name"]: row["ratio"] for row in record["results"]}
    rows = []
    for name, floor in record["floors"]["norms"].items():
        ratio = measured.get(name)
        cells = ["", "", ""]
        if ratio:
            cells = [*spread(ratio)[:2], _verdict(ratio, floor["ratio"])]
        rows.append([name, f"{floor['bytes'] / 1e6:.1f}", f"{floor['ratio']:.3f}", *cells])
    return Table(
        "Floors",
        ["norm", "MB moved", "floor", "measured", "95%", "verdict"],
        rows,
        notes=FLOOR_LEGEND,
        right=frozenset({"MB moved", "floor", "measured", "95%"}),
    )


def _verdict(ratio: dict[str, float], floor: float) -> str:
    if ratio["low"] > floor:
        return f"{100 * (ratio['median'] - floor):+.1f} % over it"
    return "reached" if ratio["high"] <= floor + CLOSE else "open: more rounds"


def _steps(record: Record) -> Table:
    columns = ["variant", "throughput", "95%", "of minima"]
    rows = [
        [row["name"], *spread(row["throughput"])] for row in reversed(_sorted(record, "throughput"))
    ]
    ours = (
        "ours: GAN under Trainer.fit by the recipe of configs/cifar_msn.yaml, from the end of one"
        " batch to the end of a later one, the loader and the moving average included."
    )
    return Table(
        "GAN steps a second, relative to the plain loop",
        columns,
        rows,
        _lines(record),
        [*LEGEND, *references(record), ours, *_left_out(record)],
        right=frozenset(columns[1:]),
    )


def references(record: Record) -> list[str]:
    return [f"{name}: {text}." for name, text in record["references"].items()]


def _left_out(record: Record) -> list[str]:
    """What was not run, by reason."""
    reasons: dict[str, list[str]] = {}
    for each in record["skipped"]:
        reasons.setdefault(each["reason"], []).append(each["name"])
    return [f"not run ({reason}): {'; '.join(names)}" for reason, names in reasons.items()]


def _folds(record: Record) -> Table:
    columns = ["critic", "time / none", "95%", "of minima", "largest difference"]
    rows = [
        [row["name"], *spread(row["ratio"]), f"{row['largest_difference']:.1e}"]
        for row in _sorted(record, "ratio")
    ]
    difference = (
        "largest difference: of the folded critic's logits from the trained one's, in float32,"
        " relative to the largest."
    )
    return Table(
        "Inference of the critic",
        columns,
        rows,
        _lines(record),
        [*LEGEND, difference],
        right=frozenset(columns[1:]),
    )


def as_csv(record: Record) -> tuple[list[str], list[dict[str, Any]]]:
    """A row for each variant: every number but the seconds of single rounds and bytes."""
    about = {
        "benchmark": record["benchmark"],
        "processor": record["hardware"]["processor"],
        "gpu": record["hardware"]["gpu"] if record["settings"]["device"] == "cuda" else None,
        "torch": record["versions"]["torch"],
        "threads": record["threads"],
        "rounds": record["rounds"],
    }
    rows = [about | dict(_flat(row)) for row in record["results"]]
    return list(dict.fromkeys(name for row in rows for name in row)), rows


def _flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if value is None or name in ("by_name", "total") or isinstance(value, list):
            continue
        if name == "memory":
            value = {"ratio": value["ratio"]}
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", value
