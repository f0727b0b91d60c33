"""`bench norms`: forward and backward of the critic under each norm, against none."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

from msngan.bench.floors import Machine, as_record, bandwidth, floors, flops_of, sizes
from msngan.bench.footprint import Footprint
from msngan.bench.passes import Variant
from msngan.bench.ratios import ratio
from msngan.bench.references import DESCRIPTIONS, NAIVE, OLD_TORCH, TORCH
from msngan.bench.rounds import Clock, Watcher, clock_of, interleaved
from msngan.bench.settings import Settings, record

BASELINE = "none"
CONTIGUOUS = (
    BASELINE,
    "batch",
    "spectral",
    "mean_spectral",
    TORCH,
)  # also measured as most programs lay tensors out
OWN = "own work of "

Times = dict[str, list[float]]


def run(settings: Settings, watcher: Watcher) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    clock = clock_of(settings.device, settings.threads)
    variants = variants_of(settings)
    footprints = [Footprint.of(variant) for variant in variants]
    measures = {}
    for variant in variants:
        images = variant.laid_out(settings.images())
        measures[variant.name] = clock.repeated(partial(variant.both_ways, images))
        work = variant.own_work()
        if work is not None and variant.norm not in (OLD_TORCH, NAIVE):
            measures[OWN + variant.name] = clock.repeated(work)
    seconds = interleaved(measures, settings.rounds, watcher)
    rows = [
        _row(variant, seconds) | footprint.against(footprints[0])
        for variant, footprint in zip(variants, footprints, strict=True)
    ]
    found = _floors(variants[0], seconds[BASELINE], clock)
    return record(
        "norms", settings, clock.name, BASELINE, rows, floors=found, references=DESCRIPTIONS
    )


def variants_of(settings: Settings) -> list[Variant]:
    """none, first; the other norms; what PyTorch has."""
    norms = [BASELINE, *(name for name in settings.norms if name != BASELINE)]
    made = [Variant.of(name, settings) for name in (*norms, TORCH, OLD_TORCH, NAIVE)]
    contiguous = [name for name in (*norms, TORCH) if name in CONTIGUOUS]
    return made + [Variant.of(name, settings, contiguous=True) for name in contiguous]


def _row(variant: Variant, seconds: Times) -> dict[str, Any]:
    return {
        "name": variant.name,
        "norm": variant.norm,
        "kind": "reference" if variant.reference else "norm",
        "layout": variant.layout,
        "parameters": sum(each.numel() for each in variant.critic.parameters()),
        "ratio": asdict(ratio(seconds[variant.name], seconds[BASELINE])),
        "seconds": seconds[variant.name],
        "own_work": _own_work(variant, seconds),
    }


def _own_work(variant: Variant, seconds: Times) -> dict[str, Any] | None:
    """The norm's work on weights in a GAN step; less_than_torch: how many times less than
    PyTorch's; of_pass: as a share of one pass under none."""
    own = seconds.get(OWN + variant.name)
    if own is None:
        return None
    return {
        "seconds": own,
        "less_than_torch": asdict(ratio(seconds[OWN + TORCH], own)),
        "of_pass": asdict(ratio(own, seconds[BASELINE])),
    }


def _floors(plain: Variant, seconds: list[float], clock: Clock) -> dict[str, object]:
    settings = plain.settings
    images = settings.images()
    flops = flops_of(lambda: plain.both_ways(images))
    machine = Machine(bandwidth(settings.device, clock), flops / min(seconds))
    element = 2 if settings.dtype == "bfloat16" else 4
    weights, activations = sizes(plain.critic, images, element)
    return as_record(machine, floors(weights, activations, median(seconds), machine))
