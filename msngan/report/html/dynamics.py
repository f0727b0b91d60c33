"""What dynamics.npz says of each layer: sparsity, drift, dead units, norms and spectra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msngan.report.html.chart import Chart, Series, grid
from msngan.report.html.markup import folded, heading, missing, note, numbers, shown
from msngan.report.html.records import Records

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


def dynamics_html(records: Records, level: int) -> str:
    path = records.run.dynamics
    if not path.is_file():
        return missing(
            "There is no dynamics.npz; a run measures its layers with --dynamics.every N"
        )
    from msngan.training.dynamics import read

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(f"dynamics.npz is larger than {LARGEST_FILE // 2**20} MiB")
        dynamics = read(path)
    except (OSError, ValueError) as problem:
        return note(f"The dynamics are left out: {problem}")
    if not len(dynamics):
        return note("dynamics.npz holds no measurement yet.")
    networks = dict.fromkeys(name.partition(".")[0] for name in dynamics.layers)
    made = [_network(dynamics, network, len(networks) > 1, level) for network in networks]
    return _lead(dynamics) + "".join(made)


def picked(layers: list[int], most: int) -> list[int]:
    """At most `most` of the layers, evenly through the network, the first and the last too."""
    if len(layers) <= most:
        return layers
    return [layers[round(index * (len(layers) - 1) / (most - 1))] for index in range(most)]


def _lead(dynamics: Dynamics) -> str:
    steps = dynamics.step
    return note(
        f"{len(dynamics)} measurements, steps {steps[0]:,} to {steps[-1]:,}, of"
        f" {len(dynamics.layers)} layers. Near 0 is below {dynamics.threshold:g} of the layer's"
        " root mean square. A layer has no line where a quantity does not apply to it."
    )


def _network(dynamics: Dynamics, network: str, several: bool, level: int) -> str:
    layers = [i for i, name in enumerate(dynamics.layers) if name.partition(".")[0] == network]
    lines = picked(layers, LINES)
    charts = []
    for name, title, unit, from_zero in QUANTITIES:
        values: NDArray[Any] = getattr(dynamics, name)
        series = [
            Series(_short(dynamics, i), dynamics.step.tolist(), _finite(values[:, i]))
            for i in lines
        ]
        series = [each for each in series if each.sound]
        if series:
            log = None if name == "gradient_rms" else False
            floor = 0.0 if from_zero else None
            charts.append(Chart(title, series, unit, log=log, floor=floor))
    charts += _complexity(dynamics, network)
    return (
        (heading(level, network) if several else "")
        + (
            note(f"{len(lines)} of {len(layers)} layers are drawn; the table has them all.")
            if len(lines) < len(layers)
            else ""
        )
        + grid(charts)
        + _spectra(dynamics, picked(layers, SPECTRA), level + several)
        + folded("First and last values of every layer", _table(dynamics, layers))
    )


def _complexity(dynamics: Dynamics, network: str) -> list[Chart]:
    if network not in dynamics.networks:
        return []
    values = _finite(dynamics.spectral_complexity[:, dynamics.networks.index(network)])
    line = Series(network, dynamics.step.tolist(), values)
    return [Chart("Spectral complexity", [line], "Eq. 4")] if line.sound else []


def _spectra(dynamics: Dynamics, layers: list[int], level: int) -> str:
    """For each layer its singular values by their number: first, middle and last measurement."""
    times = sorted({0, len(dynamics) // 2, len(dynamics) - 1})
    charts = []
    for i in layers:
        array = dynamics.singular[i]
        series = [
            Series(f"step {dynamics.step[t]:,}", [*range(1, array.shape[1] + 1)], _finite(array[t]))
            for t in times
        ]
        charts.append(Chart(_short(dynamics, i), series, x_label="number of the value", floor=0.0))
    return heading(level, "Singular values of the weights") + grid(charts) if charts else ""


def _table(dynamics: Dynamics, layers: list[int]) -> str:
    header = ["layer", "weight"]
    for name in IN_TABLE:
        header += [f"{name.replace('_', ' ')}, first", "last"]
    unique = [f"{name}{chr(8203) * index}" for index, name in enumerate(header)]
    rows = []
    for i in layers[:MOST_ROWS]:
        shape = " x ".join(map(str, dynamics.shapes[i]))
        row = [dynamics.layers[i], shape]
        for name in IN_TABLE:
            known = [v for v in _finite(getattr(dynamics, name)[:, i]) if v == v]
            row += [shown(known[at], 3) if known else shown(None) for at in (0, -1)]
        rows.append(row)
    return numbers(unique, rows, left=2)


def _short(dynamics: Dynamics, layer: int) -> str:
    """The layer's name without its network's."""
    return dynamics.layers[layer].partition(".")[2] or dynamics.layers[layer]


def _finite(values: NDArray[Any]) -> list[float]:
    """As floats, NaN for what is not finite."""
    return [value if abs(value) < float("inf") else float("nan") for value in values.tolist()]
