"""What a page says of one run: state, commands, options, machine, curves, gates and dynamics."""

from __future__ import annotations

import math
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

from msngan.leaderboard.experiments import NONE, flat_json
from msngan.report.html.chart import MOST_POINTS, Chart, Series
from msngan.report.html.document import Code, Part, Section, State, numbers, short, spread
from msngan.report.html.pictures import SHOWN, Picture, Pictures, grids
from msngan.report.html.records import Records, number, whole
from msngan.report.html.results_section import (
    accuracy_headline,
    accuracy_parts,
    score_headline,
    score_parts,
)
from msngan.report.tables.table import Table
from msngan.runs.folder import UserError, counted
from msngan.runs.options import flat, options_of
from msngan.training.dynamics import Dynamics, first_middle_last, read

# Where a run is, which does not say what it is.
UNTOLD = {"run", "root", "config", "ckpt_path", "detect_anomaly"}

MOST_ROWS = 200  # of a table
MOST_LINES = 8  # of a chart
MOST_CHARTS = 12  # of quantities that belong to no group
NAMED = {"network": "model.network", "norm": "model.norm", "data": "data.dataset", "seed": "seed"}
RATE = "Learning rate"
# Title, unit, the quantities of metrics.jsonl that belong together, and how their axis is drawn.
GROUPS: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("Losses", "of one batch", r"(.*_)?loss|penalty(_.*)?", {}),
    ("Accuracy of the batch", "fraction", r"(.*_)?accuracy", {"log": False}),
    ("Output of the critic", "mean logit", r"(real|fake)_logit", {}),
    ("Speed", "steps per second", r"steps_per_second", {"log": False, "zero": True}),
    (RATE, "", r"(.*_)?lr|learning_rate", {"zero": True}),
)


def run_parts(records: Records, pictures: Pictures) -> list[Part]:
    """Everything that the records say."""
    gan = records.task == "gan"
    sections: list[tuple[str, list[Part]]] = [
        ("Accuracy", accuracy_parts(records) if not gan else []),
        ("Samples", grid_parts(records, pictures) if gan else []),
        ("Scores", score_parts(records) if gan or records.scores else []),
        ("Training curves", curve_parts(records)),
        ("Dynamics", dynamics_parts(records)),
        ("Gates", gate_parts(records)),
        ("Options", option_parts(records)),
        ("Environment", environment_parts(records)),
    ]
    own = [Section(*each) for each in sections if each[1]]
    return [*lead(records), *own, *unread(records.problems)]


def short_section(records: Records) -> Section:
    """What a page of many runs says of each, without pictures."""
    gan = records.task == "gan"
    parts = [
        *lead(records),
        *(score_parts(records, brief=True) if gan else accuracy_parts(records)),
        Section("Training curves", curve_parts(records), folded=True),
        Section("Options", option_parts(records), folded=True),
        *unread(records.problems),
    ]
    title = f"{records.name}: {headline(records) or state(records).text}"
    return Section(title, parts, folded=True, name=records.name)


def last_grids(found: list[Records], pictures: Pictures) -> list[Part]:
    """The last sample grid of each GAN, side by side."""
    made = []
    for records in found:
        if steps := grids(records.run.samples):
            step, path = steps[-1]
            words = f"samples of {records.name} at step {step}"
            made.append(pictures.add(path, words, records.name, f"step {step:,}"))
        elif records.task == "gan":
            made.append(f"{records.name}: no sample grid")
    return [Section("Last samples", [made])] if made else []


def headline(records: Records) -> str:
    """The number that a reader looks for first; empty where there is none yet."""
    return score_headline(records) if records.task == "gan" else accuracy_headline(records)


def unread(problems: list[str]) -> list[Part]:
    told = Section("What could not be read", [Table("", notes=problems)])
    return [told] if problems else []


def state(records: Records) -> State:
    """How far the run is and how it ended."""
    budget, epochs = whole(records.option("steps")), whole(records.option("epochs"))
    where = f"step {records.step:,}"
    if budget is not None:
        where += f" of {budget:,}"
    elif records.task == "classifier" and epochs is not None:
        where += f" (budget: {counted(epochs, 'epoch')})"
    status = records.result.get("status")
    if status is not None:
        reason = records.result.get("reason")
        text = f"{status} at {where}" + (f": {reason}" if reason else "")
        return State(text[0].upper() + text[1:], status == "done")
    if _at_its_end(records):
        return State(f"At {where}; no result.json says how it ended", True)
    return State(f"Unfinished at {where}: it is still training or was interrupted", False)


def lead(records: Records) -> list[Part]:
    """State, the commands that made the run and those to use next."""
    options = {word: records.option(name) for word, name in NAMED.items()}
    about = [f"{word} {value}" for word, value in options.items() if isinstance(value, str | int)]
    kind = "GAN" if records.task == "gan" else "classifier"
    typed = commands(records.commands, next_commands(records), "environment.json")
    return [", ".join([kind, *about]), state(records), *typed]


def commands(made: list[str], to_come: Iterable[tuple[str, str]], name: str) -> list[Part]:
    """What made a run or a study, by the file `name`, and what to type next and why."""
    typed = Code("\n".join(f"{command}  # {purpose}" for command, purpose in to_come))
    if not made:
        return [f"The command that made it is not recorded in {name}.", "Next", typed]
    return ["Made by", Code("\n".join(made)), "Next", typed]


def next_commands(records: Records) -> Iterator[tuple[str, str]]:
    """What to type next, most pressing first, and what it does."""
    name, root = shlex.quote(records.name), records.run.root_option
    status = records.result.get("status")
    if status in ("diverged", "collapsed"):
        config = shlex.quote(str(records.environment.get("config") or "NAME"))
        rate = "lr" if records.task == "classifier" else "critic_lr"
        yield f"msngan fit --config {config} --model.{rate} 1e-4{root}", "try a lower learning rate"
    elif status is None and not _at_its_end(records):
        yield f"msngan resume {name}{root}", "continue where it stopped"
    if records.task == "gan":
        if records.run.has_checkpoint:
            yield f"msngan sample {name}{root}", "draw images"
            if not records.scores:
                yield f"msngan evaluate {name}{root}", "score it"
        yield f"msngan leaderboard{root}", "rank it among the other runs"
    if records.run.dynamics.is_file():
        yield f"msngan figures {name}{root}", "draw the paper's figures from its dynamics"
    yield f"msngan report {name}{root}", "update this page"


def _at_its_end(records: Records) -> bool:
    budget = whole(records.option("steps"))
    return budget is not None and records.step >= budget


def changed_options(config: Mapping[str, Any], task: str) -> list[tuple[str, str, str]]:
    """Option, value and default of each option that is not at its default, as JSON texts."""
    known = dict(flat_json({name: option.default for name, option in options_of(task).items()}))
    return [
        (name, value, known.get(name, NONE))
        for name, value in flat_json(flat(config))
        if name not in UNTOLD and value != known.get(name, "null")
    ]


def option_parts(records: Records) -> list[Part]:
    """The options that differ from the defaults, then the whole config, folded."""
    if not records.config:
        return ["There is no config.yaml, so the options of this run are not known."]
    try:
        rows = [list(row) for row in changed_options(records.config, records.task)]
    except UserError as problem:
        return [f"config.yaml is not the config of a run: {problem}."]
    made: list[Part] = ["Every option is at its default."]
    if rows:
        made = [Table("", ["option", "value", "default"], rows[:MOST_ROWS])]
    text = yaml.safe_dump(records.config, sort_keys=False, allow_unicode=True, width=math.inf)
    return [*made, Section("The whole config.yaml", [Code(text)], folded=True)]


def environment_parts(records: Records) -> list[Part]:
    """The machine and the versions, as environment.json has them."""
    if not records.environment:
        return ["There is no environment.json, so the machine is not known."]
    rows = [
        [name, value.strip('"') if value != "null" else "none"]
        for name, value in flat_json(records.environment)
        if name not in ("command", "commands", "config")
    ]
    return [Table("", ["name", "value"], rows[:MOST_ROWS])]


def grid_parts(records: Records, pictures: Pictures) -> list[Part]:
    """The real images, and the sample grids: the first, the last and some between."""
    found = grids(records.run.samples)
    made: list[Picture | str] = []
    if (real := records.run.samples / "real.png").is_file():
        words = f"real images that {records.name} is trained on"
        made.append(pictures.add(real, words, "real images"))
    for step, path in spread(found, SHOWN):
        words = f"samples of {records.name} at step {step}"
        made.append(pictures.add(path, words, f"step {step:,}"))
    if not found:
        made.append("There are no sample grids; a run draws one every --samples.every steps.")
    more = [f"{len(found)} grids in samples/{records.name}/."] if len(found) > SHOWN else []
    return [made, *more]


def curve_parts(records: Records) -> list[Part]:
    """The training curves of metrics.jsonl."""
    if not records.metrics.records:
        return ["There is no metrics.jsonl with a record yet; see --records.every."]
    steps, curves = columns(records.metrics.records)
    if not steps:
        return ["No line of metrics.jsonl has a step."]
    charts: list[Part] = []
    constant: list[str] = []
    for title, unit, pattern, axis in GROUPS:
        names = [name for name in curves if re.fullmatch(pattern, name)][:MOST_LINES]
        series = [Series(name, steps, curves.pop(name)) for name in names]
        if title == RATE and all(len({*each.y}) == 1 for each in series):
            constant += [f"{each.name} {short(each.y[0])}" for each in series]
        elif series:
            charts.append(Chart(title, series, unit, **axis))
    others = [*curves.items()][:MOST_CHARTS]
    charts += [Chart(name, [Series(name, steps, values)]) for name, values in others]
    made: list[Part] = [charts]
    if constant:
        made.append(f"Constant throughout: {', '.join(constant)}.")
    if len(steps) > MOST_POINTS:
        made.append("Lines are means of neighbouring records; bands span their extremes.")
    return made


def columns(records: list[dict[str, Any]]) -> tuple[list[int], dict[str, list[float]]]:
    """The steps, ascending, and each quantity at each of them; NaN where a line has no number."""
    found = {whole(record.get("step")): record for record in records}
    by_step = {step: record for step, record in found.items() if step is not None}
    steps = sorted(by_step)
    names = dict.fromkeys(name for step in steps for name in by_step[step] if name != "step")
    curves = {name: [number(by_step[step].get(name)) for step in steps] for name in names}
    return steps, {name: values for name, values in curves.items() if any(v == v for v in values)}


def gate_parts(records: Records) -> list[Part]:
    """Which layers of `optional_spectral` are normalised, and when that changed."""
    lines = [line for line in records.gates.records if whole(line.get("step")) is not None]
    if not lines:
        return []
    layers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        layers[str(line.get("layer"))].append(line)
    rows = [
        [name, str(len(own)), f"{own[0]['step']:,}", f"{own[-1]['step']:,}"]
        + ["on" if own[-1].get("on") is True else "off"]
        for name, own in [*layers.items()][:MOST_ROWS]
    ]
    return [numbers(["layer", "changes", "first at step", "last at step", "now"], rows)]


# Name in the file, title, unit, whether the axis shows 0.
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


def dynamics_parts(records: Records) -> list[Part]:
    path = records.run.dynamics
    if not path.is_file():
        return ["There is no dynamics.npz; a run measures its layers with --dynamics.every N."]
    try:
        dynamics = read(path)
    except ValueError as problem:
        return [f"The dynamics are left out: {problem}"]
    if not len(dynamics):
        return ["dynamics.npz holds no measurement yet."]
    steps = dynamics.step
    about = (
        f"{counted(len(dynamics), 'measurement')}, steps {steps[0]:,} to {steps[-1]:,}, of"
        f" {counted(len(dynamics.layers), 'layer')}. Near 0 means below {dynamics.threshold:g} of"
        " the layer's"
        " root mean square. A layer has no line where a quantity does not apply to it."
    )
    networks = [*dict.fromkeys(name.partition(".")[0] for name in dynamics.layers)]
    if len(networks) == 1:
        return [about, *_network(dynamics, networks[0])]
    return [about, *(Section(name, _network(dynamics, name)) for name in networks)]


def _network(dynamics: Dynamics, network: str) -> list[Part]:
    layers = [i for i, name in enumerate(dynamics.layers) if name.partition(".")[0] == network]
    lines, x = spread(layers, LINES), dynamics.step.tolist()
    charts = []
    for name, title, unit, zero in QUANTITIES:
        values = getattr(dynamics, name)
        series = [Series(_short(dynamics, i), x, values[:, i].tolist()) for i in lines]
        if series := [each for each in series if each.finite]:
            charts.append(Chart(title, series, unit, log=name == "gradient_rms", zero=zero))
    if network in dynamics.networks:
        values = dynamics.spectral_complexity[:, dynamics.networks.index(network)]
        line = Series(network, x, values.tolist())
        charts += [Chart("Spectral complexity", [line], "Eq. 4")] if line.finite else []
    few = [f"{len(lines)} of {len(layers)} layers are drawn; the table has them all."]
    spectra = [_spectrum(dynamics, i) for i in spread(layers, SPECTRA)]
    return [
        *(few if len(lines) < len(layers) else []),
        charts,
        Section("Singular values of the weights", [spectra]),
        Section("First and last values of every layer", [_table(dynamics, layers)], folded=True),
    ]


def _spectrum(dynamics: Dynamics, layer: int) -> Chart:
    """The layer's singular values by their number: first, middle and last measurement."""
    array = dynamics.singular[layer]
    x = [*range(1, array.shape[1] + 1)]
    series = [
        Series(f"step {dynamics.step[t]:,}", x, array[t].tolist())
        for t in first_middle_last(dynamics.step)
    ]
    across = "index of the singular value"
    return Chart(_short(dynamics, layer), series, x_label=across, log=False, zero=True)


def _table(dynamics: Dynamics, layers: list[int]) -> Table:
    header = ["layer", "weight"]
    rows = {i: [dynamics.layers[i], " x ".join(map(str, dynamics.shapes[i]))] for i in layers}
    for name in IN_TABLE:
        header += [f"{name.replace('_', ' ')}, first", "last"]
        for i, row in rows.items():
            values = getattr(dynamics, name)[:, i].tolist()
            known = [*filter(math.isfinite, values)] or [math.nan]
            row += [short(known[0], 3), short(known[-1], 3)]
    return numbers(header, [*rows.values()], left=2)


def _short(dynamics: Dynamics, layer: int) -> str:
    """The layer's name without its network's."""
    return dynamics.layers[layer].partition(".")[2] or dynamics.layers[layer]
