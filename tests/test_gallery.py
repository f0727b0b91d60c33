"""Every number on the pages of results follows from a record, a built network or a constant.

tests/data/numbers.txt has, for each page, the table rows and the parts of sentences that have
numbers, with an expression in braces for each number. The expressions use the names of this file.
The test asserts that each line, evaluated, stands on its page, and that the page has no other
number. Lines without braces are numbers that no record has.

Tables between `<!-- NAME.json -->` and `<!-- end -->` are those that `msngan study` prints of GANs,
or `msngan extractor compare`; `python tests/test_gallery.py` writes them anew from their records.
"""

# ruff: noqa: F401 (the expressions use the imports)
from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import cache
from inspect import signature
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml

from msngan.bench.parameters import Form, build, forms, parameters_of
from msngan.bench.settings import PUBLISHED as TABLE_III
from msngan.bench.settings import SHAPES
from msngan.bench.sigma import ALLOWED
from msngan.data import DATASETS, ImageData, LabelledData
from msngan.data.pictures import MOST_PIXELS
from msngan.gan import GAN
from msngan.leaderboard.published import PUBLISHED
from msngan.leaderboard.seeds import student, summary
from msngan.networks import Critic, Generator
from msngan.networks.standing import BATCH as STANDING
from msngan.norms.spectral import ReleasedSpectralNorm
from msngan.report.tables import extractor_tables
from msngan.report.tables.study_layers import layer_tables
from msngan.report.tables.study_scores import course_tables
from msngan.report.tables.study_tables import accuracy_tables
from msngan.report.tables.table import print_markdown
from msngan.runs.safe_read import LARGEST_YAML
from msngan.scores.evaluation import TOLERANCE
from msngan.scores.model_card import SIZES
from msngan.scores.protocol import PRESETS
from msngan.study.results import measured
from msngan.training.callbacks.dynamics import THRESHOLD
from msngan.training.callbacks.scores import PRESENT, SHARE, Scores

ROOT = Path(__file__).parent.parent
PARTS = re.split(r"^== (.*)\n", (ROOT / "tests/data/numbers.txt").read_text(), flags=re.MULTILINE)
PAGES = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))
# What has digits but states no number: code, targets of links, ids, years of papers, names.
NAMES = (
    r"<!-- \w+\.json -->.*?<!-- end -->|```.*?```|`[^`]*`"
    r"|\]\([^)]*\)|arXiv:[\d.]+|(?:al\.|[A-Z][\w-]+) (?:19|20)\d\d\b"
    r"|[^\W\d_]+[-_]?\d[\w.-]*|Figures 1 to 6|95 %"
)


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES)
def test_every_number_follows_from_a_record(page):
    text = re.sub(r"^\d+\. ", "", (ROOT / page).read_text(), flags=re.MULTILINE)
    text, wrong = " ".join(text.split()), []
    for line in PAGES[page].splitlines():
        if line and not line.startswith("# "):
            fact = " ".join(eval(f"f'''{line}'''", globals()).split())
            if "{" in line and fact not in text:
                wrong.append(f"should have: {fact}")
            text = text.replace(fact, " ", 1)
    text = re.sub(NAMES, " ", text)
    for found in re.finditer(r"\d[\d.,]*", text):
        wrong.append(f"not checked: {text[max(0, found.start() - 40) : found.end() + 30]}")
    assert not wrong, "\n".join([page, *wrong])


def with_tables(page: str) -> str:
    """The page, with the tables that a command prints written from their records."""

    def written(found: re.Match[str]) -> str:
        record = load(found[1])
        with redirect_stdout(io.StringIO()) as text:
            if "extractors" in record:
                print_markdown(extractor_tables.summary(record))
            elif record["task"] == "gan":
                print_markdown(course_tables(record["study"], record["by_step"]))
            else:
                chosen = (t for t in accuracy_tables(record) if "validation" in t.title)
                print_markdown([*chosen, *layer_tables(record["study"], record["layers"])])
        tables = re.findall(r"^\|.*?\n(?=\n)", text.getvalue(), flags=re.MULTILINE | re.DOTALL)
        return "\n".join([f"<!-- {found[1]}.json -->", *tables, "<!-- end -->"])

    return re.sub(r"<!-- (\w+)\.json -->.*?<!-- end -->", written, page, flags=re.DOTALL)


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_a_command_is_that_of_its_record(page):
    text = (ROOT / page).read_text()
    assert with_tables(text) == text


def num(value: float, digits: int = 1, sign: str = "") -> str:
    """With a minus sign, not a hyphen; zero has no sign."""
    text = f"{value:{sign},.{digits}f}"
    return text.strip("+-") if not text.strip("+-0.") else text.replace("-", "−")


def spread(score: dict[str, Any], digits: int = 1, factor: float = 1) -> str:
    """mean ± sd, or the mean of a single value."""
    mean = num(factor * score["mean"], digits)
    return mean if score["sd"] is None else f"{mean} ± {num(factor * score['sd'], digits)}"


def interval(found: dict[str, float], digits: int = 1, factor: float = 100) -> str:
    low, high = sorted(factor * found[key] for key in ("low", "high"))
    return f"({num(low, digits)} to {num(high, digits)})"


def both_ends(values: Iterable[float], digits: int = 0) -> str:
    found = list(values)
    return f"{num(min(found), digits)} to {num(max(found), digits)}"


@cache
def load(name: str) -> Any:
    return json.loads((ROOT / f"samples/gallery/{name}.json").read_text())


def rows(name: str) -> dict[str, Any]:
    return {row["name"]: row for row in load(name)["results"]}


def default(of: Any, option: str) -> Any:
    return signature(of).parameters[option].default


@cache
def config(name: str) -> Any:
    return yaml.safe_load((ROOT / f"configs/{name}.yaml").read_text())


def published(name: str) -> str:
    """The paper's accuracy in %, from the first line of the config."""
    (found,) = re.findall(r"published ([\d.]+) %", (ROOT / f"configs/{name}.yaml").read_text())
    return found


PAPER = {each.model: each for each in PUBLISHED if "Table II," in each.source}


def digits() -> int:
    return len(DATASETS["digits"].load(Path(), "all", None, None, False))


def python() -> str:
    """The least that pyproject.toml allows."""
    return re.findall(r'requires-python = ">=([\d.]+)', (ROOT / "pyproject.toml").read_text())[0]


def card(pattern: str, name: str = "cifar10") -> str:
    return re.findall(pattern, (ROOT / f"msngan/scores/weights/{name}.md").read_text())[0]


def real(score: str) -> float:
    return load("cifar10")["real_data"][f"{score}/{load('cifar10')['extractor']}"]["mean"]


def course(name: str, score: str = "fd") -> dict[int, Any]:
    """Step -> score."""
    found = load("cifar10")["runs"][f"{name}-w16-s0"]["scores"]
    return {each["step"]: each[score] for each in found}


def fds(name: str, *steps: int) -> str:
    found = course(name)
    return " | ".join(num(found[step]["mean"], 2) if step in found else "–" for step in steps)


def last(name: str) -> str:
    found, cs = course(name), course(name, "cs")
    step = max(found)
    change = 100 * (found[step]["mean"] / found[250]["mean"] - 1)
    return f"{spread(found[step], 2)} ({step:,}) | {num(cs[step]['mean'], 2)} | {num(change, 0)} %"


def halved(name: str) -> int:
    found = course(name)
    return next(step for step in found if found[step]["mean"] <= found[250]["mean"] / 2)


def gan(study: str, arm: str, metric: str, step: int, digits: int = 2, factor: float = 1) -> str:
    """A score of an arm of a study of GANs, over its seeds."""
    (found,) = (each for each in load(study)["results"] if each["arm"] == arm)
    assert found["seeds"] == config(f"study_{study}")["grid"]["seed"]
    return spread(found["scores"][str(step)][metric], digits, factor)


def gans(study: str, arm: str, *asked: tuple[str, int, int, float]) -> str:
    return " | ".join(gan(study, arm, *each) for each in asked)


def apart(study: str, one: str, other: str, step: int) -> str:
    """The difference of FD of two arms, paired by seed."""
    (found,) = (
        each
        for each in load(study)["comparisons"]
        if (each["of"], each["step"]) == ([one, other], step)
    )
    return f"{num(found['mean'], 2, '+')} {interval(found, 2, 1)}"


def in_course(study: str, row: str, step: int, metric: str = "fd") -> list[float]:
    """The values of a row of a study of GANs at a step, in order of the seeds."""
    (found,) = (each for each in load(study)["by_step"]["results"] if each["row"] == row)
    return found["scores"][str(step)][metric]["values"]


def in_pairs(study: str, one: str, other: str, step: int) -> Any:
    """The difference of FD of two rows, paired by seed."""
    pairs = zip(in_course(study, one, step), in_course(study, other, step), strict=True)
    return summary([a - b for a, b in pairs])


def paired(study: str, one: str, other: str, step: int) -> str:
    found = in_pairs(study, one, other, step)
    return f"{num(found.mean, 2, '+')} {interval(asdict(found), 2, 1)}"


def seeds_to_tell(study: str, one: str, other: str, step: int) -> int:
    """With how many seeds a difference and a spread of this size would exclude 0."""
    found, count = in_pairs(study, one, other, step), 3
    while student(count - 1) * found.sd / count**0.5 > abs(found.mean):
        count += 1
    return count


def narrow(arm: str, metric: str, step: int = 5000) -> list[float]:
    """Of an arm of table2_narrow, by seed; the runs of MSN and SN are those of study_networks."""
    if arm not in ("MSN", "SN"):
        return in_course("table2", arm, step, metric)
    (found,) = (each for each in load("networks")["results"] if each["arm"] == arm.lower())
    return found["scores"][str(step)][metric]["values"]


def narrow_row(arm: str) -> str:
    early = [] if arm in ("MSN", "SN") else [narrow(arm, "fd", 2500)]
    scores = [narrow(arm, metric) for metric in ("fd", "cs", "precision", "recall")]
    cells = [spread(asdict(summary(values)), 2) for values in (*early, *scores)]
    return " | ".join([str(len(scores[0])), *(cells if early else ["–", *cells])])


def narrow_pairs(one: str, other: str) -> str:
    """The difference of FD at the end, paired by seed."""
    found = summary([a - b for a, b in zip(narrow(one, "fd"), narrow(other, "fd"), strict=False)])
    return f"{num(found.mean, 2, '+')} {interval(asdict(found), 2, 1)}"


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
        before, after, graph = row["before"], row["after"], row["graph"]
        passes = ", two passes" if row["critic_batch"] == "separate" else ""
        captured = f"{graph['graphs']:.0f} + {graph['work']:.0f}"
        cells = [f"`{row['norm']}`{passes}", *(f"{each['work']:,.0f}" for each in (before, after))]
        cells += ["–" if graph["not_captured"] else captured]
        cells += [f"{each['waits']:.0f}" for each in (before, after)]
        found.append(f"| {' | '.join(cells)} |")
    return " ".join(found)


def agree(part: str) -> str:
    """Spearman's correlation of FD by two extractors, of degradations or generators."""
    found = load("extractors")["correlations"][part]["fd"]
    return f"{found['spearman']:.2f} {interval(found, 2, 1)}"


def by_both(kind: str, strength: float, distance: str = "fd") -> list[float]:
    """The ranks of a degradation."""
    rows = load("extractors")["degradations"]
    (row,) = (each for each in rows if (each["kind"], each["strength"]) == (kind, strength))
    return row[f"{distance}_ranks"]


def ranked(kind: str, strength: float, distance: str = "fd") -> str:
    return "{:g} and {:g}".format(*by_both(kind, strength, distance))


def no_images() -> str:
    """The ranks of sets that have no real image."""
    kinds = [f"{each}, share of images" for each in ("plain colours", "uniform noise")]
    kinds += ["blurred noise, share of images"]
    return both_ends(rank for kind in kinds for rank in by_both(kind, 1))


def rises(side: int) -> str:
    """How many strengths raise FD by A or B."""
    kinds = load("extractors")["kinds"]
    of = sum(len(kind["strengths"]) for kind in kinds)
    return f"{sum(kind['fd'][side] for kind in kinds)} of {of}"


def among(first: int, last: int) -> tuple[int, float, float]:
    """The generators of these ranks by A: how many, their range of FD, the largest change of rank.

    B has the same ones there.
    """
    rows = load("extractors")["generators"]
    found = [row for row in rows if first <= row["fd_ranks"][0] <= last]
    assert all(first <= row["fd_ranks"][1] <= last for row in found)
    values = [row["fd"][0] for row in found]
    moved = max(abs(a - b) for a, b in (row["fd_ranks"] for row in found))
    return len(found), max(values) - min(values), moved


def augmented_by(side: int) -> str:
    """Augmented minus plain at the last step, by A or B, paired by seed."""
    last = [row for row in load("extractors")["generators"] if row["step"] == 4000]
    fd = {row["run"].split("-", 1)[1]: row["fd"][side] for row in last}
    found = summary([fd[f"augmented-s{seed}"] - fd[f"plain-s{seed}"] for seed in range(3)])
    return f"{num(found.mean, 2, '+')} {interval(asdict(found), 2, 1)}"


def own(folder: str, arm: str) -> str:
    """FD by step, of one's own images."""
    found = load("folder_recipe")["results"]
    (of,) = (each for each in found if (each["folder"], each["arm"]) == (folder, arm))
    assert of["seeds"] == config("study_folder")["grid"]["seed"]
    return " | ".join(spread(score, 2) for score in of["fd"].values())


def own_difference(folder: str, record: str = "folder_recipe") -> str:
    """Of joint and separate batches, at the last step."""
    of = [each for each in load(record)["differences"] if each["folder"] == folder][-1]
    return f"{num(of['mean'], 2)} {interval(of, 2, 1)}"


def accuracy(study: str, arm: str, column: str = "", measure: str = "last") -> Any:
    cells = {(cell["row"], cell["column"]): cell for cell in load(study)["cells"]}
    return cells[arm, column and f"lr {column}"][measure]


def table1(arm: str) -> str:
    return " | ".join(
        spread(accuracy("table1_mnist", arm, lr, measure), 2, 100)
        for measure in ("last", "best")
        for lr in RATES
    )


def difference(study: str, a: str, b: str, column: str = "", measure: str = "best") -> Any:
    asked = (a, b, column and f"lr {column}", measure)
    keys = ("a", "b", "column", "measure")
    found = (e for e in load(study)["comparisons"] if tuple(e[key] for key in keys) == asked)
    return next(found)["difference"]


def points(a: str, b: str, column: str, digits: int = 1) -> str:
    found = difference("table1_mnist", a, b, column)
    return f"{num(100 * found['mean'], sign='+')} {interval(found, digits)}"


def chosen(*arms: str, column: str) -> list[float]:
    return [100 * accuracy("table1_mnist", arm, column, "best")["mean"] for arm in arms]


def moves(column: str) -> list[float]:
    """The change of each arm's mean in the last epoch."""
    return [100 * accuracy("table1_mnist", arm, column, "plateau") for arm in ARMS]


def worst_end(arm: str, column: str) -> list[float]:
    """Test accuracy by epoch of the seed that ends lowest."""
    runs = load("table1_mnist")["children"]
    mine = [run for run in runs if (run["row"], run["column"]) == (arm, f"lr {column}")]
    ends = [[100 * epoch["test_accuracy"] for epoch in run["epochs"]] for run in mine]
    return min(ends, key=lambda each: each[-1])


SN_AND_MSN = ("spectral", "mean_spectral")
RATES = ("0.1", "0.001", "0.0001")
ARMS = load("table1_mnist")["rows"]["labels"]
NO_SIGMA = ("none", "batch", "mean_only")
SIGMA = [arm for arm in ARMS if arm not in NO_SIGMA]


def holds(arm: str) -> str:
    """Whether the interval contains the paper's number."""
    found, there = accuracy("released_mnist", arm), float(published("mnist_cnn3_sn")) / 100
    return "contains" if found["low"] <= there <= found["high"] else "does not contain"


def above(crops: str) -> str:
    sn, msn = (accuracy("released_mnist", norm + crops)["mean"] for norm in SN_AND_MSN)
    return num(100 * (sn - msn), sign="+")


def layers(norm: str, key: str = "drift_last") -> list[tuple[float, ...]]:
    """For each layer the values of all seeds."""
    runs = (run[key] for run in load("drift_cifar")["drift"]["runs"] if run["norm"] == norm)
    return list(zip(*runs, strict=True))


def end(norm: str) -> list[float]:
    return [sum(seeds) / len(seeds) for seeds in layers(norm)]


def drift(norm: str) -> str:
    largest = [max(seeds) for seeds in layers(norm, "drift_largest")]
    later = [max(seeds) for seeds in layers(norm, "drift_largest_after_first_epoch")]
    layer = largest.index(max(largest))
    early = later[layer] < largest[layer]
    where = f"(layer {layer + 1}{', first epoch' if early else ''})"
    beyond = [str(i) for i, value in enumerate(end(norm), 1) if value > 1]
    within = f"no: layer {', '.join(beyond)}" if beyond else "yes"
    cells = [f"{value:.2f}" for value in end(norm)]
    cells += [f"{largest[layer]:.{1 if early else 2}f} {where}", within]
    return " | ".join([*cells, spread(accuracy("drift_cifar", norm), 1, 100)])


def upwards(norm: str) -> int:
    return sum(min(seeds) > 0 for seeds in layers(norm, "signed_last"))


def of_depth(a: str, b: str, column: str) -> str:
    """The difference of test accuracy at the epoch chosen by validation, in points."""
    keys = ("a", "b", "column", "measure")
    asked = (a, b, column, "best")
    (found,) = (e for e in load("depth")["comparisons"] if tuple(e[key] for key in keys) == asked)
    return f"{num(100 * found['difference']['mean'], 1, '+')} {interval(found['difference'])}"


def deeper(a: str, b: str) -> str:
    """By how much their difference changes from cnn3 to vgg7, paired by seed."""
    best = {
        (each["row"], each["column"], each["seed"]): measured(each)["best"]
        for each in load("depth")["children"]
    }
    found = summary(
        [
            sum(
                sign * (best[a, network, seed] - best[b, network, seed])
                for network, sign in (("vgg7", 1), ("cnn3", -1))
            )
            for seed in load("depth")["seeds"]
        ]
    )
    return f"{num(100 * found.mean, 1, '+')} {interval(asdict(found))}"


def of_layers(measure: str, a: str, b: str, column: str, digits: int = 2) -> str:
    keys = (a, b, column, measure)
    every = load("depth")["layers"]["comparisons"]
    (found,) = (e for e in every if (*e["of"], e["column"], e["measure"]) == keys)
    return f"{num(found['mean'], digits, '+')} {interval(found, digits, 1)}"


def at_the_end(measure: str, arm: str, column: str, digits: int = 2) -> str:
    every = load("depth")["layers"]["results"]
    (found,) = (each for each in every if (each["row"], each["column"]) == (arm, column))
    return spread(found["last"][measure], digits)


def beside_the_gap() -> str:
    """The rank correlation of spectral complexity with the gap of accuracy."""
    found = load("depth")["layers"]["gap"]["correlations"][0]
    return f"{num(found['spearman'], 2)} {interval(found, 2, 1)}"


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


def count(network: str, norm: str, form: str = "default") -> int:
    (found,) = (each for each in forms(network, norm) if each.name == form)
    return parameters_of(build(network, norm, found, SHAPES[network]))


def table3(network: str) -> str:
    counts = TABLE_III[network].items()
    return " | ".join(f"{there:,}; {count(network, norm):,}" for norm, there in counts)


def dense_convolutions() -> int:
    network = build("densenet_bc", "none", Form("default"), SHAPES["densenet_bc"])
    return sum(bool(re.search(r"conv[12]$", name)) for name, _ in network.named_modules())


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


def line(protocol: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores of the generator and of real images."""
    commands = {each["command"]: each["line"] for each in load("protocols")["scores"]}
    (found,) = (each for key, each in commands.items() if f"--protocol {protocol} --t" in key)
    ours, real = found["scores"], found["floors"]
    return {k.split("/")[0]: ours[k] for k in ours}, {k.split("/")[0]: real[k] for k in real}


def protocol(name: str) -> str:
    found, real = line(name)
    about = "~" if real["fd"]["kind"] == "estimated" else ""
    cells = [
        spread(found["fd"], 3),
        about + num(real["fd"]["mean"], 4),
        num(found["kd"]["mean"], 4),
    ]
    cells += [spread(found["cs"], 3), num(real["cs"]["mean"], 2)]
    return " | ".join([*cells, *(num(found[key]["mean"], 3) for key in ("precision", "recall"))])


def moved(name: str) -> float:
    """FD against that of the paper's protocol, in %."""
    return 100 * abs(line(name)[0]["fd"]["mean"] / line("paper")[0]["fd"]["mean"] - 1)


# The bias of FD is about B (1/N + 1/M) for N samples and M reference images.
SIZES_OF_PAPER = 1 / PRESETS["paper"].samples + 1 / 50_000
TRAIN_TEST_FID = 3.15  # of 50,000 training against 10,000 test images of CIFAR-10, as published
B = {"ours": real("fd") / SIZES_OF_PAPER, "inception": TRAIN_TEST_FID / (1 / 10_000 + 1 / 50_000)}


def recipe(name: str, arm: str, *measures: tuple[str, int]) -> str:
    """Each measure (its name, digits), mean ± sd over the seeds."""
    found = load(f"recipe_{name}")["results"][arm]
    return " | ".join(spread(asdict(summary(found[key])), digits) for key, digits in measures)


def fine(arm: str) -> str:
    return recipe("translation", arm, ("l1", 3), ("edges", 2), ("sigma", 2))


def balance(norm: str) -> str:
    """Of both sizes of the reward."""
    cells = [recipe("control", f"{norm}, reward {each}", ("return", 0)) for each in ("0.01", "1")]
    return " | ".join([*cells, recipe("control", f"{norm}, reward 0.01", ("sigma", 2))])


def returns(norm: str) -> str:
    return both_ends(load("recipe_control")["results"][f"{norm}, reward 1"]["return"])


def by_seed(a: str, b: str) -> str:
    """The difference of two norms' returns with the small reward, paired by seed."""
    found = load("recipe_control")["results"]
    pairs = zip(*(found[f"{norm}, reward 0.01"]["return"] for norm in (a, b)), strict=True)
    of = summary([one - other for one, other in pairs])
    return f"{num(of.mean, 0)} {interval(asdict(of), 0, 1)}"


def character(arm: str) -> str:
    measures = ("eval", 2), ("train", 2), ("later, train", 4), ("sigma", 2)
    return recipe("sequence", arm, *measures)


def gaps(batch: int) -> tuple[int, str]:
    """The runs under MSN with any batch, and by how much train mode is worse with this one."""
    found = load("recipe_sequence")["results"]
    arms = [arm for arm in found if "mean_spectral" in arm]
    more = {
        arm: [train - ev for train, ev in zip(found[arm]["train"], found[arm]["eval"], strict=True)]
        for arm in arms
    }
    assert min(map(min, more.values())) > 0
    of = [each for arm in arms if arm.endswith(f" {batch}") for each in more[arm]]
    return sum(map(len, more.values())), both_ends(of, 2)


def ahead(model: str) -> str:
    """By how many bits MSN is better than SN."""
    found = load("recipe_sequence")["results"]
    sn, msn = (found[f"{model}, {norm}, batch 32"]["eval"] for norm in SN_AND_MSN)
    less = [one - other for one, other in zip(sn, msn, strict=True)]
    assert min(less) > 0
    assert max(found[f"{model}, none, batch 32"]["eval"]) < min(msn)
    return both_ends(less, 3)


def others(part: str, digits: int = 1) -> list[str]:
    """Time of torchmetrics, torch-fidelity and scipy over ours."""
    found = rows("bench_scores")
    names = [f"{part}: {by}" for by in ("torchmetrics", "torch-fidelity", "scipy sqrtm")]
    ratios = [found[name]["ratio"] if name in found else None for name in names]
    return [f"{num(r['median'], digits)} {interval(r, digits, 1)}" if r else "" for r in ratios]


def test_the_page_of_data_has_the_figures_of_its_benchmark():
    found = rows("bench_data")
    memory = found["private memory at the first batch"]
    each = [found[f"decoding {kind}, one core"]["seconds_per_image"] for kind in ("jpg", "png")]
    figures = [
        f"{found['decoding jpg, one core']['ratio']['median']:.2f}",
        f"{found['decoding png, one core']['ratio']['median']:.2f}",
        f"{found['first start']['value']:.1f} s",
        f"{found['later start']['value']:.2f} s",
        f"{memory['value']:.3f} GB",
        f"{memory['with_few_images']:.3f} GB",
        f"{found['private memory after 1 steps']['value']:.2f} GB",
        f"{1000 * median(found['fetching a batch']['seconds']):.2f} ms",
    ]
    page = (ROOT / "msngan/DATA.md").read_text()
    table = page.partition("| measurement | value |")[2].partition("\n\n")[0]
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == figures
    assert f"takes {1e6 * sum(each) / 2:.0f} seconds of processor time" in page
    assert f"{1e6 * sum(each) / 2 / 16:.0f} s on 16 cores" in page


if __name__ == "__main__":
    for each in PAGES:
        (ROOT / each).write_text(with_tables((ROOT / each).read_text()))
