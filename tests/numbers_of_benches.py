"""Numbers of the benchmarks, and of what a step asks of a GPU."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from page_numbers import interval, load, num, rows

from msngan.leaderboard.seeds import summary


def norm_cost(critic: str, norm: str, ends: bool = False) -> str:
    """The time of a pass and its update over that without a norm, or its interval's ends."""
    found = rows(f"bench_norms_{critic}")[norm]["ratio"]
    if ends:
        return f"{found['low']:.3f} to {found['high']:.3f}"
    return f"{found['median']:.3f}"


def dearer(arm: str) -> str:
    """How many times as long a step takes as the same one without what `arm` names, by rounds."""
    of = rows("bench_conditional")
    plain = of["none, float32, channels_last"]["seconds"]
    these = of[f"none, float32, channels_last, {arm}"]["seconds"]
    return num(median(a / b for a, b in zip(these, plain, strict=True)), 2)


def launches() -> str:
    """The rows of what a step asks of a GPU, under each norm."""
    found = []
    for row in load("launches")["rows"]:
        batches = ", separate batches" if row["critic_batch"] == "separate" else ""
        work, waits = (f"{row['after'][key]:,.0f}" for key in ("work", "waits"))
        found.append(f"| `{row['norm']}`{batches} | {work} | {waits} |")
    return " ".join(found)


def captured() -> str:
    """What a step is as a CUDA graph, under each norm with which it can be one."""
    graphs = [row["graph"] for row in load("launches")["rows"]]
    of = {(each["graphs"], each["work"]) for each in graphs if not each["not_captured"]}
    ((launches, work),) = of
    return f"{launches:.0f} launch and {work:.0f} small ones"


def faster(network: str, layout: str) -> str:
    """Steps per second of each norm relative to batch norm."""
    cells = []
    for norm in ("none", "spectral", "mean_spectral", "torch SN", "naive MSN"):
        found = rows("bench_classify")[f"{network}, {norm}, {layout}"]["throughput"]
        less = {key: found[key] - 1 for key in ("low", "high")}
        ends = {
            "none": " %",
            "spectral": f" {interval(less)}",
            "mean_spectral": f" {interval(less)}",
        }
        cells.append(num(100 * (found["median"] - 1), sign="+") + ends.get(norm, ""))
    return " | ".join(cells)


def sigma(recipe: str, estimator: str = "the norm's own") -> str:
    row = rows("bench_sigma")[f"{recipe}; {estimator}"]
    cells = [num(each, 3) for each in row["at"].values()]
    cells += [f"{row['largest']:.3f}, {row['largest_step']:,}", f"{row['above_allowed']:,}"]
    return " | ".join(cells)


def sigmas(key: str, vectors: int, *norms: str) -> list[Any]:
    """Of the runs of 2,000 updates."""
    long = (row for row in rows("bench_sigma").values() if row["measured_updates"] == 2000)
    found = [row for row in long if row["vectors"] == vectors and row["norm"] in norms]
    return [100 * row[key]["median"] if key == "cost" else row[key] for row in found]


def core(norm: str) -> str:
    row, bound = rows("bench_core")[norm], load("bench_core")["floors"]["norms"].get(norm)
    ratio, more = row["ratio"], row["operations"]["step"]["extra"]
    cells = [num(ratio["median"], 3), f"{ratio['low']:.3f} to {ratio['high']:.3f}"]
    cells += [num(bound["ratio"], 3) if bound else "", num(more, 0)]
    return " | ".join([*cells, num(row["memory"]["ratio"]["peak_activations"], 3)])


def time_of(norm: str, layout: str = "", record: str = "bench_core", measure: str = "ratio") -> Any:
    return rows(record)[norm + layout][measure]["median"]


def slower(norm: str, layout: str = "") -> float:
    """Than batch norm, in %."""
    return 100 * (time_of(norm, layout) / time_of("batch", layout) - 1)


def widest(record: str, names: Iterable[str], measure: str) -> float:
    """The largest half width of their intervals."""
    found = [rows(record)[name][measure] for name in names]
    return max((each["high"] - each["low"]) / 2 for each in found)


def steps(norm: str, more: str = "") -> str:
    settings = ("float32, contiguous", "float32, channels_last", "bfloat16, channels_last")
    found = [rows("bench_step").get(f"{norm}, {each}{more}") for each in settings]
    return " | ".join(num(row["throughput"]["median"], 2) if row else "" for row in found)


def wide(norm: str, precision: str, more: str = "") -> dict[str, float]:
    """Steps a second over those of the plain loop, with SNGAN's critic."""
    found = rows("bench_step_wide")[f"{norm}, {precision}, channels_last{more}"]["throughput"]
    return {key: found[key] for key in ("median", "low", "high")}


def fd_of(form: str) -> str:
    found = load("power_iteration")["scores"][form]
    return f"{found['mean_1500']:.2f} ± {found['sd_1500']:.2f}"


def update_minus_pass() -> Any:
    found = load("power_iteration")["scores"]
    pairs = zip(found["update"]["runs"], found["pass"]["runs"], strict=True)
    return summary([update["1500"] - each["1500"] for update, each in pairs])


def others(part: str, digits: int = 1) -> list[str]:
    """Time of torchmetrics, torch-fidelity and scipy over ours."""
    found = rows("bench_scores")
    names = [f"{part}: {by}" for by in ("torchmetrics", "torch-fidelity", "scipy sqrtm")]
    ratios = [found[name]["ratio"] if name in found else None for name in names]
    return [f"{num(r['median'], digits)} {interval(r, digits, 1)}" if r else "" for r in ratios]
