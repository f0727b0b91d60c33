"""Figures 1, 3 and 4 of the paper, and beyond it dead units, norms and complexity.

What the authors' code plots is in the left column: arXiv 1907.04003, and its released code.
"""

from __future__ import annotations

from collections.abc import Sequence

from msngan.report.figures.arms import Arm
from msngan.report.figures.drift import DRIFT
from msngan.report.figures.grids import (
    LOG_INDEX,
    STEP,
    Column,
    both,
    channels,
    grid,
    released,
    stated,
)
from msngan.report.figures.quantities import Curve, over_runs
from msngan.report.figures.records import shared_layers, with_dynamics
from msngan.report.figures.sheet import Sheet, line, logarithmic
from msngan.report.figures.style import style
from msngan.report.figures.words import (
    MEANS,
    PROJECTED,
    entries,
    seeds,
    smoothing,
    smooths,
    subject,
)

Made = tuple[Sheet, list[str]]
WEIGHTS = (
    "(a) As released: the code logs the mean of the weights, not of what the layer puts out; the"
    " mean drift that the paper speaks of is of pre-activations. The released x axis is the log"
    " index, labelled as epoch. Of a layer under a spectral norm it is the normed weight, which the"
    " code writes over the weight."
)


def sparsity(arms: Sequence[Arm], wanted: Sequence[str]) -> Made:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    share = recorded[0].runs[0][1].threshold
    columns = [
        Column(
            "(a) As released: exact zeros of the gradient",
            "zero entries (fraction)",
            released("gradient_zero"),
            LOG_INDEX,
            positive=True,
        ),
        Column(
            f"(b) As stated: |gradient| < {share:g} of its rms",
            "small entries (fraction)",
            both(stated("gradient_small"), stated("gradient_zero", 0.7)),
            positive=True,
        ),
    ]
    notes = [
        "(a) The code counts entries of one batch's weight gradient that are exactly 0. After ReLU"
        " such entries come from channels that are dead on the whole batch; after LeakyReLU there"
        " are next to none. The authors measure the first batch of each epoch, without smoothing."
        f" {PROJECTED}, and has no exact zeros.",
        f"(b) Thick, with markers: entries below {share:g} of the layer's rms; thin: exact zeros.",
    ]
    title = "Figure 1: gradient sparsity"
    return grid(title, columns, arms, recorded, layers, notes + seeds(recorded)), remarks


def weight_spread(arms: Sequence[Arm], wanted: Sequence[str]) -> Made:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    columns = [
        Column(
            "(a) As released: weights, mean ± sd/2",
            "weight",
            released("effective_mean", smooths(recorded), spread="effective_sd"),
            LOG_INDEX,
        ),
        Column("(b) As stated: pre-activation means", "mean of a channel", channels),
    ]
    notes = [
        f"{WEIGHTS} {smoothing(recorded)}",
        "(b) Mean over channels of the means of what enters the activation, on a fixed batch; the"
        " band holds the channels from the 10th to the 90th percentile.",
        *seeds(recorded, "(a) the first; (b) their mean, as far as all of them go"),
    ]
    title = "Figure 3: mean drift, with spread"
    return grid(title, columns, arms, recorded, layers, notes), remarks


def weight_means(arms: Sequence[Arm], wanted: Sequence[str]) -> Made:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    columns = [
        Column(
            "(a) As released: mean of the weights",
            "weight",
            released("effective_mean", smooths(recorded)),
            LOG_INDEX,
        ),
        Column("(b) As stated: drift of pre-activations", "drift (sd)", stated("drift")),
    ]
    notes = [f"{WEIGHTS} {smoothing(recorded)}", f"(b) {DRIFT}"]
    title = "Figure 4: mean drift"
    return grid(title, columns, arms, recorded, layers, notes + seeds(recorded)), remarks


def dead(arms: Sequence[Arm], wanted: Sequence[str]) -> Made:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    columns = [
        Column("Dead channels", "dead channels (fraction)", stated("dead"), positive=True),
        Column("Offset of the channels", "|mean| / sd", stated("offset"), positive=True),
    ]
    notes = [
        "Dead: nowhere above 0 on a fixed batch, before the activation.",
        *seeds(recorded, MEANS),
    ]
    return grid("Dead units", columns, arms, recorded, layers, notes), remarks


def norms(arms: Sequence[Arm], wanted: Sequence[str]) -> Made:
    recorded, remarks = with_dynamics(arms)
    layers = shared_layers(recorded, wanted)
    columns = [
        Column("Operator norm of the layer", "norm", stated("operator_norm"), logarithmic=True),
        Column("Spectral norm of the matrix", "norm", stated("matrix_norm"), logarithmic=True),
        Column("Stable rank of the matrix", "rank", stated("stable_rank")),
    ]
    notes = [
        "Of the weight that the layer computes with. The matrix is (outputs) x (inputs x kernel);"
        " the operator is the layer as a map, which a unit matrix norm does not hold to 1.",
        *seeds(recorded, MEANS),
    ]
    return grid("Norms of the layers", columns, arms, recorded, layers, notes), remarks


def complexity(arms: Sequence[Arm], wanted: Sequence[str]) -> Made:
    """A panel for each network, not layer; `wanted` chooses nothing here."""
    recorded, remarks = with_dynamics(arms)
    names = list(dict.fromkeys(n for each in recorded for _, r in each.runs for n in r.networks))
    notes = [
        "Bartlett, Foster & Telgarsky 2017 (Eq. 4 of the paper, with the power 2/3 that it leaves"
        " out): the product of the layers' operator norms, times the power 3/2 of the sum of"
        " (length / norm)^(2/3), the length being summed over a layer's outputs.",
        *seeds(recorded, MEANS),
    ]
    title = f"Spectral complexity{subject(arms)}"
    sheet = Sheet(title, entries(arms, recorded), notes, (1, len(names)))
    for axes, name in zip(sheet.axes[0], names, strict=True):
        for each in recorded:
            curves = [
                Curve(r.step * 1.0, r.spectral_complexity[:, r.networks.index(name)])
                for _, r in each.runs
                if name in r.networks
            ]
            if curves:
                line(axes, over_runs(curves), style(each.arm.style))
        if axes.lines:
            logarithmic(axes)
        sheet.finish(axes, "Spectral complexity", name, STEP, "complexity")
    return sheet, remarks
