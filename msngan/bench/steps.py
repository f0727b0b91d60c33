"""`bench step`: whole GAN steps of the flagship recipe against a plain loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import count
from typing import Any

from torch import nn

from msngan.bench.plain import PlainLoop
from msngan.bench.ratios import ratio
from msngan.bench.references import DESCRIPTIONS, TORCH
from msngan.bench.rounds import Watcher, interleaved, reader_of
from msngan.bench.settings import Settings, record
from msngan.bench.trained import Recipe, Synthetic, fit_seconds
from msngan.gan import GAN
from msngan.norms import Centring, convert

BASELINE = "plain loop"
DESCRIPTION = (
    "torch SN, float32, contiguous, separate passes, the critic not frozen in the generator's half,"
    " no moving average; networks, loss, optimizers and batch as ours"
)
DISCARDED, MEASURED = 1, 3  # steps of a fit
HALF = "bf16-mixed"

Measures = dict[str, Callable[[], float]]


def run(settings: Settings, watcher: Watcher) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    clock, read = reader_of(settings.device, settings.threads)
    data = Synthetic(settings.batch)
    measures: Measures = {BASELINE: _plain(settings, data, read)}
    skipped: list[dict[str, str]] = []
    wanted = recipes(settings, skipped)
    for recipe in wanted:
        gan = recipe.gan(settings)
        if recipe.compile and (reason := _cannot(gan, data, recipe, settings, read)):
            skipped.append({"name": recipe.name, "reason": reason})
        else:
            measures[recipe.name] = _ours(gan, data, recipe, settings, read)
    seconds = interleaved(measures, settings.rounds, watcher)
    rows = [_plain_row(seconds)]
    rows += [_row(recipe, seconds) for recipe in wanted if recipe.name in seconds]
    about = {BASELINE: DESCRIPTION, TORCH: DESCRIPTIONS[TORCH]}
    steps = {"discarded_steps": DISCARDED, "measured_steps": MEASURED}
    return record(
        "step", settings, clock, BASELINE, rows, skipped=skipped, references=about, **steps
    )


def recipes(settings: Settings, skipped: list[dict[str, str]]) -> list[Recipe]:
    """What is measured. What this machine or these settings leave out goes to `skipped`."""
    found = []
    for norm in settings.norms:
        found += [Recipe(norm, channels_last=False), Recipe(norm), Recipe(norm, HALF)]
        if centres(norm):
            both = [Recipe(norm), Recipe(norm, HALF)]
            found += [replace(each, passes="separate") for each in both]
            found += [replace(each, statistics="last") for each in both]
        compiled = [Recipe(norm, compile=True), Recipe(norm, HALF, compile=True)]
        graphs = Recipe(norm, HALF, compile=True, mode="reduce-overhead")
        if not settings.compile:
            skipped += [{"name": x.name, "reason": "needs --compile"} for x in (*compiled, graphs)]
            continue
        found += compiled
        if settings.device == "cuda":
            found.append(graphs)
        else:
            skipped.append({"name": graphs.name, "reason": "needs a GPU, with --device cuda"})
    return found


def centres(norm: str) -> bool:
    """Whether the norm subtracts means that the generator's half can take over."""
    made = convert(nn.Conv2d(1, 1, 1), norm)
    return any(isinstance(part, Centring) for part in made.modules())


def _plain(settings: Settings, data: Synthetic, read: Callable[[], float]) -> Callable[[], float]:
    loop = PlainLoop(settings)
    real = (data.real.float() / 127.5 - 1).to(settings.device)
    batches = real.split(settings.batch)
    whole = [batch for batch in batches if len(batch) == settings.batch]
    numbers = count()

    def measure() -> float:
        start = 0.0
        for step in range(DISCARDED + MEASURED):
            if step == DISCARDED:
                start = read()
            loop.step(whole[next(numbers) % len(whole)])
        return (read() - start) / MEASURED

    return measure


def _ours(
    gan: GAN, data: Synthetic, recipe: Recipe, settings: Settings, read: Callable[[], float]
) -> Callable[[], float]:
    lengths = {"discarded": DISCARDED, "measured": MEASURED}
    return lambda: fit_seconds(gan, data, recipe, settings, read, **lengths)


def _cannot(
    gan: GAN, data: Synthetic, recipe: Recipe, settings: Settings, read: Callable[[], float]
) -> str | None:
    """Compile and run a few steps; the reason in one line if that fails, else None."""
    try:
        fit_seconds(gan, data, recipe, settings, read, discarded=1, measured=1)
    except Exception as problem:  # noqa: BLE001  a compiler may fail in any way
        first = next(iter(str(problem).splitlines()), "")
        return f"{type(problem).__name__}: {first}"
    return None


def _plain_row(seconds: dict[str, list[float]]) -> dict[str, Any]:
    return {
        "name": BASELINE,
        "norm": TORCH,
        "kind": "reference",
        "layout": "contiguous",
        "precision": "float32",
        "compiled": None,
        "throughput": asdict(ratio(seconds[BASELINE], seconds[BASELINE])),
        "seconds": seconds[BASELINE],
    }


def _row(recipe: Recipe, seconds: dict[str, list[float]]) -> dict[str, Any]:
    mine = seconds[recipe.name]
    return {
        "name": recipe.name,
        "norm": recipe.norm,
        "kind": "norm",
        "layout": "channels_last" if recipe.channels_last else "contiguous",
        "precision": "bfloat16" if recipe.precision == HALF else "float32",
        "passes": recipe.passes,
        "generator_statistics": recipe.statistics,
        "compiled": (recipe.mode or "default") if recipe.compile else None,
        "throughput": asdict(ratio(seconds[BASELINE], mine)),
        "seconds": mine,
    }
