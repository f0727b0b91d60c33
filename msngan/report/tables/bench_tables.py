"""The tables and CSV of `msngan bench`: ratios, never times; and the tables of `msngan params`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from msngan.bench.settings import REBUILT
from msngan.report.tables.table import Table
from msngan.runs.folder import counted

Record = dict[str, Any]

INTERVAL = (
    "95%: interval of the median, by bootstrap over rounds. of minima: the smallest time over the"
    " baseline's smallest. Rows whose intervals overlap are not ordered."
)
NORMS_NOTES = [
    "lower bound: counts only the memory traffic and products that the norm cannot avoid, at the"
    " bandwidth of a large copy and the speed of none's own pass. Data that stays in a cache can be"
    " faster.",
    "operations: dispatched beyond those of none, in a pass with its update and in the critic's"
    " share of a GAN step (real, fake and generator's pass). PyTorch's are counted without freezing"
    " the critic in the generator's pass, as in a plain loop.",
    "torch / own work: time of torch SN's work on the weights in a GAN step over that of this norm,"
    " without the passes.",
    "activations, peak: most bytes alive at once in a pass, relative to none; activations are the"
    " part that grows with the batch.",
]
STEP_NOTE = (
    "ours: GAN under Trainer.fit by the recipe of configs/cifar_msn.yaml, from the end of one batch"
    " to the end of a later one, including the loader and the moving average."
)
PEAK_NOTE = (
    "of peak: floating-point operations of a step's products and convolutions a second, over those"
    " of a large square matrix product in the same precision on the same device, measured in turns;"
    " float32 is TF32 in both where convolutions may take it."
)
GPU_NOTES = [
    "CUDA graph: the kernels of a step are recorded once and launched together; recording: time of"
    " the step in which that is done, over that of a step.",
    "launches, waits: calls of CUDA a step that start something on the GPU and that wait for it; -"
    " where the profiler does not see them. host: time that launching a step takes the CPU, over"
    " that of a step; near 1 the GPU waits for the CPU.",
]
SIGMA_NOTES = [
    "step N: the largest singular value of W', in float64, over what the norm promises, of all"
    " layers, after the critic's N-th update; for scaled and bidirectional norms of what each"
    " bounds. largest: of all updates, and its step.",
    "one vector, one iteration: as in the paper and in torch.nn.utils.spectral_norm, by the same"
    " code, from a settled start.",
    "cost: time of an update of all layers over a forward and backward pass of the critic, measured"
    " in turns over the whole run; median and its 95% interval.",
]
DATA_NOTES = [
    "start: from `fit`, after its imports, to the first batch, by the recipe of"
    " configs/folder_msn.yaml. The first start decodes all images, later ones open the cache.",
    "private memory: anonymous pages of the process, which the system cannot drop; the pages of the"
    " cache's file are shared by all processes and can be dropped.",
    "fetching: a batch in training's random order over a step of the same recipe.",
]


def bench_tables(record: Record) -> Iterator[Table]:
    """The tables of any benchmark's record."""
    made = {"norms": _norms, "step": _step, "sigma": _sigma, "data": _data}
    yield from made[record["benchmark"]](record)


def measured(record: Record) -> list[str]:
    """Where and how a record was measured."""
    hardware, settings = record["hardware"], record["settings"]
    device = hardware["gpu"] if settings["device"] == "cuda" else hardware["processor"]
    of_step = record["benchmark"] == "step"  # its rows name their precision
    names = [name for name in ("width", "batch", "seed") if name in settings]
    sizes = [f"{name} {settings[name]}" for name in names]
    sizes += [settings["dtype"]] if "dtype" in settings and not of_step else []
    return [
        f"{device}, {counted(hardware['cores'], 'core')}; torch {record['versions']['torch']};"
        f" msngan {record['versions']['msngan']}",
        f"{', '.join(sizes)}; threads {record['threads']}; rounds {record['rounds']}, interleaved;"
        f" clock: {record['clock']}",
    ]


def _table(
    record: Record,
    title: str,
    columns: list[str],
    rows: list[list[str]],
    notes: list[str],
    keys: int = 1,
) -> Table:
    """A table of ratios under where and how they were measured."""
    references = [f"{name}: {text}." for name, text in record.get("references", {}).items()]
    notes = [INTERVAL, *references, *notes] if references else notes
    return Table(title, columns, rows, measured(record), notes, frozenset(columns[keys:]), keys)


def lower_bounds(record: Record) -> dict[str, Any]:
    """The bounds by norm; empty for a benchmark without them."""
    return record.get("lower_bounds", {}).get("norms", {})


def _spread(ratio: dict[str, float]) -> list[str]:
    """Cells: median, 95%, of minima."""
    interval = f"{ratio['low']:.3f} to {ratio['high']:.3f}"
    return [f"{ratio['median']:.3f}", interval, f"{ratio['of_minima']:.3f}"]


def by_median(record: Record, key: str) -> list[Record]:
    """The results, the fastest first: by a ratio of times upwards, by a throughput downwards.

    Those that could not be measured are left out.
    """
    downwards = key == "throughput"
    rows = [row for row in record["results"] if row[key]]
    return sorted(rows, key=lambda row: row[key]["median"], reverse=downwards)


def _norms(record: Record) -> Iterator[Table]:
    columns = ["norm", "time / none", "95%", "of minima", "lower bound", "operations a pass"]
    columns += ["a step", "torch / own work", "activations", "peak"]
    bounds = lower_bounds(record)
    rows = []
    for row in by_median(record, "ratio"):
        own, counted, memory = row["own_work"], row["operations"], row["memory"]["ratio"]
        rows.append(
            [
                row["name"],
                *_spread(row["ratio"]),
                f"{bounds[row['name']]['ratio']:.3f}" if row["name"] in bounds else "",
                f"{counted['pass']['extra']:+d}",
                f"{counted['step']['extra']:+d}",
                f"{own['less_than_torch']['median']:.1f}" if own else "",
                f"{memory['peak_activations']:.3f}",
                f"{memory['peak']:.3f}",
            ]
        )
    title = "Forward, backward and update of the critic"
    yield _table(record, title, columns, rows, NORMS_NOTES)


def _step(record: Record) -> Iterator[Table]:
    """What is of a GPU alone: on a CPU, convolutions need fewer operations than are counted."""
    found = by_median(record, "throughput")
    columns, notes = ["variant", "throughput", "95%", "of minima"], [STEP_NOTE]
    rows = [[row["name"], *_spread(row["throughput"])] for row in found]
    if "images_per_second" in found[0]:
        columns += ["of peak", "images/s", "launches", "waits", "host", "recording"]
        notes = [*notes, PEAK_NOTE, *GPU_NOTES]
        rows = [[*cells, *_on_gpu(row)] for cells, row in zip(rows, found, strict=True)]
    for row in record["results"]:
        if row not in found:
            rows.append([row["name"], *["-"] * (len(columns) - 1)])
            notes = [*notes, f"{row['name']}: {row['not_captured']}."]
    yield _table(record, "GAN steps per second, relative to the plain loop", columns, rows, notes)


def _on_gpu(row: Record) -> list[str]:
    """Cells: share of peak, images a second, launches, waits, host, recording."""
    calls = ["-" if row[name] is None else f"{row[name]:,.1f}" for name in ("launches", "waits")]
    host = f"{row['host']['median']:.2f}"
    recording = f"{row['recording']['median']:,.0f}" if "recording" in row else "-"
    peak = f"{row['share_of_peak']['median']:.3f}"
    return [peak, f"{row['images_per_second']:,.0f}", *calls, host, recording]


def _sigma(record: Record) -> Iterator[Table]:
    shown = sorted({step for row in record["results"] for step in row["at"]}, key=int)
    columns = ["recipe", "estimator", *(f"step {step}" for step in shown), "largest", "at step"]
    columns += [f"above {record['allowed']}", "cost", "95%"]
    rows = []
    for row in record["results"]:
        at = [f"{row['at'][step]:.3f}" if step in row["at"] else "" for step in shown]
        above = f"{row['above_allowed']} of {row['measured_updates']}"
        largest = [f"{row['largest']:.3f}", str(row["largest_step"]), above]
        rows.append([row["recipe"], row["estimator"], *at, *largest, *_spread(row["cost"])[:2]])
    title = "Largest singular value of W', 1 where sigma is exact"
    yield _table(record, title, columns, rows, SIGMA_NOTES, keys=2)


def _data(record: Record) -> Iterator[Table]:
    rows = []
    for row in record["results"]:
        cells = _spread(row["ratio"])[:2] if "ratio" in row else [f"{row['value']:.3g}", ""]
        unit = row.get("unit", "of the baseline's time" if "goal" in row else "of threads' time")
        rows.append([row["name"], *cells, unit, row.get("goal", "")])
    images, size = record["settings"]["images"], record["settings"]["size"]
    title = f"{images:,} images of {size}x{size}, JPEG and PNG in turns"
    columns = ["measurement", "value", "95%", "unit", "goal"]
    table = _table(record, title, columns, rows, DATA_NOTES)
    yield replace(table, right=frozenset(("value", "95%")))


def as_csv(record: Record) -> list[dict[str, Any]]:
    """A row for each variant: every number except the seconds of single rounds and bytes."""
    about = {
        "benchmark": record["benchmark"],
        "processor": record["hardware"]["processor"],
        "gpu": record["hardware"]["gpu"] if record["settings"]["device"] == "cuda" else None,
        "torch": record["versions"]["torch"],
        "threads": record["threads"],
        "rounds": record["rounds"],
    }
    return [about | dict(_flat(row)) for row in record["results"]]


def _flat(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if value is None or name == "total" or isinstance(value, list):
            continue
        if name == "memory":
            value = {"ratio": value["ratio"]}
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}_")
        else:
            yield f"{prefix}{name}", value


# What each form is called in a heading, and what it is.
HEADINGS = {"default": "genuine", "code": "their code"}
LEGEND = {
    "as_released": "as_released: the networks of the authors' code, without a gain, which Table III"
    " counts; = marks the same number.",
    "rebuilt": "rebuilt: in the form that Table III counts, see below; = marks the same number.",
    "default": "genuine: the norm on every layer, and no bias that it cancels; vs none and buffers"
    " (values that are stored but not trained) are of this form.",
    "conv_bias": "conv_bias: genuine, with the biases that the norm cancels.",
    "after_layer": "after_layer: genuine, with the norm on the output of each convolution, as in"
    " the paper's equations 6 and 7, and not before each activation.",
    "code": "their code: what the authors' code counts; its MSN has a gain.",
}

Row = dict[str, Any]


def params_tables(rows: list[Row]) -> Iterator[Table]:
    """The legend, then one table a network. rows: of `msngan.bench.parameters.Count`."""
    shown = {row["form"] for row in rows}
    yield Table(
        "Parameters of networks under norms, beside Table III of arXiv:1907.04003",
        lines=[line for form, line in LEGEND.items() if form in shown],
    )
    for network in dict.fromkeys(row["network"] for row in rows):
        yield _network([row for row in rows if row["network"] == network])


def _network(rows: list[Row]) -> Table:
    """A row for each norm and a column for each form, those beyond the default last."""
    found = {(row["norm"], row["form"]): row for row in rows}
    present = list(dict.fromkeys(row["form"] for row in rows))
    rebuilt = [form for form in present if form in REBUILT]
    extra = [form for form in LEGEND if form in present and form not in (*rebuilt, "default")]
    published = {row["norm"]: row["table_iii"] for row in rows if row["table_iii"]}
    columns = ["norm", *(["Table III"] if published else []), *rebuilt, "genuine", "vs none"]
    columns += ["buffers", *(HEADINGS.get(form, form) for form in extra)]
    cells = []
    for norm in dict.fromkeys(row["norm"] for row in rows):
        own, told = found[norm, "default"], published.get(norm)
        more = own["against_none"]
        counts = {form: found.get((norm, form), {}).get("parameters") for form in present}
        line = [norm, *([_number(told)] if published else [])]
        line += [_number(counts[form], told) for form in rebuilt]
        line += [_number(own["parameters"]), f"{more:+,}" if more else _number(more)]
        cells.append([*line, _number(own["buffers"]), *(_number(counts[form]) for form in extra)])
    # A note that holds for several forms of a norm is shown once, at the first.
    notes: dict[tuple[str, str], str] = {}
    for row in rows:
        form = str(row["form"])
        notes.setdefault((row["norm"], row["note"]), HEADINGS.get(form, form))
    about = rows[0]
    images = f"{about['channels']} x {about['size']} x {about['size']}"
    return Table(
        f"{about['network']}: width {about['width']}, images of {images}",
        columns,
        cells,
        notes=[f"{norm}, {form}: {note}." for (norm, note), form in notes.items() if note],
        right=frozenset(columns[1:]),
    )


def _number(value: int | None, published: int | None = None) -> str:
    """The count, marked by = if it is the published one."""
    if value is None:
        return ""
    return f"= {value:,}" if value == published else f"{value:,}"
