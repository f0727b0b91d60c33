"""What dynamics.npz holds of each layer: sparsity, drift, dead units, norms and spectra."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from msngan.report.html.chart import Chart, Series
from msngan.report.html.document import Part, Section, numbers, short, spread
from msngan.report.html.records import Records
from msngan.report.tables.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from msngan.training.dynamics import Dynamics

# Name in the file, title, unit, whether the axis starts at 0.
QUANTITIES = (
    ("gradient_zero", "Gradient entries that are exactly 0", "fraction", True),
    ("gradient_small", "Gradient entries near 0", "fraction", True),
    ("gradient_rms", "Gradient", "root mean square", False),
    ("drift", "Drift of the pre-activation means", "sd since the first", True),
    ("offset", "Offset of the pre-activation means", "|mean| in sd", True),
    ("dead", "Dead units", "fraction of channels", True),
    ("operator_norm", "Operator norm", "of the layer as a map", True),
    ("stable_rank", "Stable rank", "of the weight's matrix", True),
)
IN_TABLE = ("gradient_zero", "gradient_small", "drift", "offset", "dead", "operator_norm")
LINES = 5  # layers of one chart
SPECTRA = 6  # layers whose singular values are drawn
MOST_ROWS = 250
LARGEST_FILE = 256 * 2**20  # bytes


def dynamics_parts(records: Records) -> list[Part]:
    path = records.run.dynamics
    if not path.is_file():
        return ["There is no dynamics.npz; a run measures its layers with --dynamics.every N."]
    from msngan.training.dynamics import read

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"dynamics.npz is larger than {LARGEST_FILE // 2**20} MiB")
        dynamics = read(path)
    except (OSError, ValueError) as problem:
        return [f"The dynamics are left out: {problem}"]
    if not len(dynamics):
        return ["dynamics.npz holds no measurement yet."]
    steps = dynamics.step
    about = (
        f"{len(dynamics)} measurements, steps {steps[0]:,} to {steps[-1]:,}, of"
        f" {len(dynamics.layers)} layers. Near 0 means below {dynamics.threshold:g} of the layer's"
        " root mean square. A layer has no line where a quantity does not apply to it."
    )
    networks = [*dict.fromkeys(name.partition(".")[0] for name in dynamics.layers)]
    if len(networks) == 1:
        return [about, *_network(dynamics, networks[0])]
    return [about, *(Section(name, _network(dynamics, name)) for name in networks)]


def _network(dynamics: Dynamics, network: str) -> list[Part]:
    layers = [i for i, name in enumerate(dynamics.layers) if name.partition(".")[0] == network]
    lines = spread(layers, LINES)
    charts = []
    for name, title, unit, from_zero in QUANTITIES:
        values: NDArray[Any] = getattr(dynamics, name)
        series = [
            Series(_short(dynamics, i), dynamics.step.tolist(), _finite(values[:, i]))
            for i in lines
        ]
        series = [each for each in series if each.finite]
        if series:
            log = None if name == "gradient_rms" else False
            charts.append(Chart(title, series, unit, log=log, include=0.0 if from_zero else None))
    if network in dynamics.networks:
        values = dynamics.spectral_complexity[:, dynamics.networks.index(network)]
        line = Series(network, dynamics.step.tolist(), _finite(values))
        charts += [Chart("Spectral complexity", [line], "Eq. 4")] if line.finite else []
    few = f"{len(lines)} of {len(layers)} layers are drawn; the table has them all."
    spectra = [_spectrum(dynamics, i) for i in spread(layers, SPECTRA)]
    return [
        *([few] if len(lines) < len(layers) else []),
        charts,
        Section("Singular values of the weights", [spectra]),
        Section("First and last values of every layer", [_table(dynamics, layers)], folded=True),
    ]


def _spectrum(dynamics: Dynamics, layer: int) -> Chart:
    """The layer's singular values by their number: first, middle and last measurement."""
    array = dynamics.singular[layer]
    x = [*range(1, array.shape[1] + 1)]
    series = [
        Series(f"step {dynamics.step[t]:,}", x, _finite(array[t]))
        for t in sorted({0, len(dynamics) // 2, len(dynamics) - 1})
    ]
    return Chart(_short(dynamics, layer), series, x_label="number of the value", include=0.0)


def _table(dynamics: Dynamics, layers: list[int]) -> Table:
    header = ["layer", "weight"]
    for name in IN_TABLE:
        header += [f"{name.replace('_', ' ')}, first", "last"]
    rows = []
    for i in layers[:MOST_ROWS]:
        row = [dynamics.layers[i], " x ".join(map(str, dynamics.shapes[i]))]
        for name in IN_TABLE:
            known = [v for v in _finite(getattr(dynamics, name)[:, i]) if v == v] or [math.nan]
            row += [short(known[0], 3), short(known[-1], 3)]
        rows.append(row)
    return numbers(header, rows, left=2)


def _short(dynamics: Dynamics, layer: int) -> str:
    """The layer's name without its network's."""
    return dynamics.layers[layer].partition(".")[2] or dynamics.layers[layer]


def _finite(values: NDArray[Any]) -> list[float]:
    """As floats, NaN for what is not finite."""
    return [value if math.isfinite(value) else math.nan for value in values.tolist()]
