"""What a study's runs measured of their layers as tables: means over seeds, paired differences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from msngan.report.tables.study_scores import cell, name_of, of_them
from msngan.report.tables.table import Table, decimals, plus_minus
from msngan.runs.folder import counted

Json = dict[str, Any]
Columns = dict[str, tuple[str, str]]  # heading: end and measure
DRIFT: Columns = {
    "drift, largest": ("last", "drift_largest"),
    "drift": ("last", "drift_mean"),
    "signed drift": ("last", "drift_signed_mean"),
    "moved down": ("last", "moved_down"),
}
GRADIENTS: Columns = {
    "zero": ("last", "gradient_zero"),
    "small": ("last", "gradient_small"),
    "log10 sd": ("last", "log10_gradient_sd"),
    "span of log10 sd": ("last", "gradient_sd_span"),
}
OF_WEIGHTS: Columns = {
    "dead channels": ("last", "dead"),
    "stable rank, first": ("first", "stable_rank"),
    "stable rank, last": ("last", "stable_rank"),
    "operator norm, first": ("first", "operator_norm"),
    "operator norm, last": ("last", "operator_norm"),
    "log10 R": ("last", "log10_complexity"),
}
SUBSPACES: Columns = {
    "left subspace kept": ("last", "subspace_left"),
    "right subspace kept": ("last", "subspace_right"),
    "shared with the next, first": ("first", "subspace_link"),
    "shared with the next, last": ("last", "subspace_link"),
}
SMOOTHNESS: Columns = {
    "range of loss": ("last", "loss_range"),
    "largest range": ("last", "loss_range_peak"),
    "change of gradient": ("last", "gradient_change"),
    "largest change": ("last", "gradient_change_peak"),
    "beta": ("last", "beta_smoothness"),
    "largest beta": ("last", "beta_smoothness_peak"),
}
GAPS = {
    "training accuracy": "train_accuracy",
    "test accuracy": "test_accuracy",
    "gap of accuracy": "accuracy_gap",
    "gap of loss": "loss_gap",
}
LEGEND = [
    "mean ± standard deviation (ddof 1) over seeds, at each run's last measurement where a column"
    " does not say first; A - B: the mean of the differences paired by seed, and its 95 % interval,"
    " Student's t with n - 1.",
    "drift: mean over layers of the mean over channels of |mean now - mean at the first"
    " measurement| / sd now, of what enters the activation; signed: without the bars; moved down:"
    " share of layers whose signed drift is below 0.",
    "dead channels: nowhere above 0; mean over layers.",
    "operator norm: the largest of all layers, as maps at the size of their inputs. R: the spectral"
    " complexity of Bartlett et al. 2017. JSON has every layer, and both ends of training.",
]
OF_GRADIENTS = [
    "Of the parameters' gradient on one batch, means over layers. zero, small: share of entries"
    " that are exactly 0, or below 0.01 of their root mean square; log10 sd: of the entries' sd,"
    " without layers where it is 0; span: log10 of the largest over the smallest sd above 0 of all"
    " measurements.",
]
OF_SUBSPACES = [
    "mean cosine of the principal angles between two subspaces: 1 where they are the same, 0 where"
    " they are orthogonal. kept: the leading singular vectors now and at the first measurement;"
    " shared: the leading directions of a layer's outputs, and those in which the next layer reads"
    " its inputs. At the first measurement the weights are random. Means over layers.",
]
OF_SMOOTHNESS = [
    "Along minus the gradient of the loss on a fixed batch, up to 4 learning rates away: range of"
    " the loss; change of the gradient, relative to it, and per distance (beta). largest: of all"
    " measurements. It is the raw gradient, not the optimizer's step (Santurkar et al. 2018).",
]


def layer_tables(study: str, record: Json | None) -> Iterator[Table]:
    """record: see `msngan.study.layer_measures`."""
    if record is None:
        return
    notes: list[str]
    for title, columns, notes in (
        ("drift of the layers", DRIFT, []),
        ("gradients of the layers", GRADIENTS, OF_GRADIENTS),
        ("weights of the layers", OF_WEIGHTS, []),
        ("subspaces of the layers' weights", SUBSPACES, OF_SUBSPACES),
        ("smoothness of the loss", SMOOTHNESS, OF_SMOOTHNESS),
    ):
        known = {
            heading: (end, name)
            for heading, (end, name) in columns.items()
            if any(name in each[end] for each in record["results"])
        }
        if known:
            yield _table(f"{study}: {title}", record, known, notes)
    if record["gap"] is not None:
        yield _gap_table(study, record["gap"])
    yield Table("How to read the layers", notes=[*LEGEND, *record["remarks"]])


def layer_rows(record: Json | None, children: list[Json]) -> Iterator[Json]:
    """A row for each run, network and end of training, for CSV."""
    runs = {(each["row"], each["column"], each["seed"]): each["run"] for each in children}
    for each in record["results"] if record else ():
        for end, (at, seed) in product(("first", "last"), enumerate(each["seeds"])):
            place = (each["row"], each["column"], seed)
            about = dict(zip(("run", "row", "column", "seed"), (runs[place], *place), strict=True))
            found = dict(each[end])
            about |= {"network": each["network"], "step": found.pop("steps")[at]}
            yield about | {name: value["values"][at] for name, value in found.items()}


def _table(title: str, record: Json, columns: Columns, notes: Sequence[str] = ()) -> Table:
    networks = {each["network"] for each in record["results"]}
    rows = []
    for each in record["results"]:
        network = each["network"] if len(networks) > 1 else ""
        cells = [_cell(each[end].get(name)) for end, name in columns.values()]
        if any(cells):
            name = " ".join(filter(None, (name_of(each), network)))
            rows.append([name, str(len(each["seeds"])), *cells])
    ends = {heading: name for heading, (end, name) in columns.items() if end == "last"}
    rows += _differences(record["comparisons"], {h: ends.get(h, "") for h in columns}, networks)
    header = ["", "n", *columns]
    return Table(title, header, rows, notes=[*notes], right=frozenset(header[1:]))


def _gap_table(study: str, gap: Json) -> Table:
    rows = [
        [name_of(each), str(len(each["seeds"])), *(_cell(each.get(name)) for name in GAPS.values())]
        for each in gap["results"]
    ]
    rows += _differences(gap["comparisons"], GAPS, {""})
    lines = [f"training accuracy: of {gap['training']}; gap of loss: test minus training"]
    for each in gap["correlations"]:
        known = each["low"] is not None
        interval = f" [{each['low']:.2f}, {each['high']:.2f}]" if known else ""
        lines.append(
            f"rank correlation of R with the {each['of'][1].replace('_gap', '')}'s gap:"
            f" {each['spearman']:.2f}{interval} over {counted(each['items'], 'run')} of"
            f" {counted(each['groups'], 'arm')}"
        )
    notes = ["Spearman's rank correlation; the interval is a bootstrap over arms."]
    header = ["", "n", *GAPS]
    right = frozenset(header[1:])
    title = f"{study}: generalisation gap"
    return Table(title, header, rows, lines=lines, notes=notes[: len(lines) - 1], right=right)


def _differences(
    comparisons: list[Json], columns: dict[str, str], networks: set[str]
) -> list[list[str]]:
    """A row for each pair; columns: heading and measure, '' for none."""
    found: dict[tuple[str, ...], dict[str, Json]] = {}
    for each in comparisons:
        network = each.get("network", "") if len(networks) > 1 else ""
        found.setdefault((*each["of"], each["column"], network), {})[each["measure"]] = each
    rows = []
    for (a, b, column, network), measures in found.items():
        most = max(each["n"] for each in measures.values())
        cells = [_interval(measures.get(name), most) for name in columns.values()]
        if any(cells):
            rows.append(
                [" ".join(filter(None, (f"{a} - {b}", column, network))), str(most), *cells]
            )
    return rows


def _cell(found: Json | None) -> str:
    if found is None:
        return ""
    known = [value for value in found["values"] if value is not None]
    return cell({**found, "values": known}, len(found["values"]))


def _interval(found: Json | None, count: int) -> str:
    """'+0.12 [0.05, 0.19]', to two digits of half the interval's width."""
    if found is None:
        return ""
    of = of_them(found["n"], count)
    if not found["sd"]:  # of one value, or of equal ones, whose spread says nothing
        return plus_minus(found["mean"]) + of
    half = found["high"] - found["mean"]
    places = min(decimals(half, 2), 6)  # 6: of rounding errors alone
    low, mean, high = (f"{found[each]:+.{places}f}" for each in ("low", "mean", "high"))
    return f"{mean} [{low.lstrip('+')}, {high.lstrip('+')}]{of}"
