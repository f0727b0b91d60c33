"""Every number on the pages of results follows from a record, a built network or a constant.

A function marked `@of(page)` builds, from the records in samples/gallery, the table rows and the
parts of sentences of that page that have numbers. The test asserts that each stands on the page,
removes it, and asserts that no number is left except those that EXEMPT or NAMES explains.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from msngan.commands.params_forms import SHAPES, TABLE_III, Form, build, forms, parameters_of
from msngan.data import LabelledData
from msngan.gan import GAN
from msngan.norms.released_spectral import ReleasedSpectralNorm
from msngan.training.callbacks.dynamics import Dynamics
from msngan.training.dynamics.gradients import THRESHOLD

Facts = Callable[[], Iterator[str]]
ROOT = Path(__file__).parent.parent
GALLERY = "samples/gallery/README.md"
FACTS: dict[str, list[Facts]] = {}
# Numbers that are not results.
EXEMPT = {
    GALLERY: [
        "400 epochs",  # the paper's
        "one or two exclude 0 by chance",
        '"Comparable to BN"*: **confirmed at 0.001**',
        "|mean(t) − mean(0)|",
        "its power 2/3",  # Bartlett et al. 2017
        "0 turns it off",
    ],
}
# Code, targets of links, arXiv ids, years of papers, names with a digit.
NAMES = (
    r"`[^`]*`|\]\([^)]*\)|arXiv:[\d.]+|(?:al\.|[A-Z][\w-]+) (?:19|20)\d\d\b"
    r"|[^\W\d_]+[-_]?\d[\w.-]*|Figures 1 to 6|95 %"
)
SHORT = {"none": "none", "batch": "BN", "spectral": "SN", "mean_spectral": "MSN"}


@pytest.mark.parametrize("page", [GALLERY])
def test_every_number_follows_from_a_record(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    text = " ".join(text.split())
    wrong = []
    for fact in [*(fact for facts in FACTS[page] for fact in facts()), *EXEMPT.get(page, [])]:
        wrong += [] if fact in text else [f"the record says: {fact}"]
        text = text.replace(fact, "", 1)
    text = re.sub(NAMES, "", text)
    for found in re.finditer(r"\d[\d.,]*", text):
        wrong.append(f"not checked: {text[max(0, found.start() - 40) : found.end() + 30]}")
    assert not wrong, "\n".join([page, *wrong])


def of(page: str) -> Callable[[Facts], Facts]:
    def mark(facts: Facts) -> Facts:
        FACTS.setdefault(page, []).append(facts)
        return facts

    return mark


@cache
def load(name: str) -> Any:
    return json.loads((ROOT / f"samples/gallery/{name}.json").read_text())


def row(*cells: str) -> str:
    return " ".join(f"| {' | '.join(cells)} |".split())


def num(value: float, digits: int = 1, sign: str = "") -> str:
    """With the minus sign of the pages; zero has no sign."""
    text = f"{value:{sign},.{digits}f}"
    return text.strip("+-") if not text.strip("+-0.") else text.replace("-", "−")


def spread(score: dict[str, float], digits: int = 1, factor: float = 1) -> str:
    return f"{factor * score['mean']:.{digits}f} ± {factor * score['sd']:.{digits}f}"


def interval(
    found: dict[str, float], digits: int = 1, center: str = "mean", less: float = 0
) -> str:
    """In percent."""
    mean, low, high = (100 * (found[key] - less) for key in (center, "low", "high"))
    return f"{num(mean, sign='+')} ({num(low, digits)} to {num(high, digits)})"


def difference(study: str, a: str, b: str, column: str = "", measure: str = "best") -> Any:
    """Between two arms, in test accuracy at the epoch chosen by validation (`best`) or `last`."""
    asked = (a, b, column, measure)
    (found,) = (
        each["difference"]
        for each in load(study)["comparisons"]
        if (each["a"], each["b"], each["column"], each["measure"]) == asked
    )
    return found


def published(config: str) -> str:
    """The paper's accuracy in %, from the first line of the config."""
    (found,) = re.findall(r"published ([\d.]+) %", (ROOT / f"configs/{config}.yaml").read_text())
    return found


@of(GALLERY)
def cifar10() -> Iterator[str]:
    record = load("cifar10")
    runs = {name.removesuffix("-w16-s0"): run for name, run in record["runs"].items()}
    protocol, real = record["protocol"], record["real_data"]
    fd, cs = (real[f"{key}/{record['extractor']}"]["mean"] for key in ("fd", "cs"))
    width = signature(GAN).parameters["width"].default
    yield f"at width {runs['cifar_msn']['width']} instead of {width}"
    yield f"over {protocol['runs']} sets of {protocol['samples']:,} samples"
    yield f"Real test images have FD {fd:.3f}, and real training images have CS {cs:.2f}"
    steps = (250, 1000, 2000, 3000, 4000, 8000)
    heads = ["FD at 250", *(f"{step:,}" for step in steps[1:])]
    yield row("config", "critic", *heads, "last (step)", "CS", "FD, first to last")
    critics = {"cifar_msn": "MSN", "cifar_sn": "SN", "cifar_none": "none"}
    halved = {}
    for config, critic in {**critics, "cifar_wgangp": "WGAN-GP with BN"}.items():
        fds = {score["step"]: score["fd"] for score in runs[config]["scores"]}
        first, last = fds[250]["mean"], max(fds)
        cells = [f"{fds[step]['mean']:.2f}" if step in fds else "–" for step in steps]
        cells.append(f"{spread(fds[last], 2)} ({last:,})")
        cells.append(f"{runs[config]['scores'][-1]['cs']['mean']:.2f}")
        yield row(
            f"`{config}`", critic, *cells, f"{num(100 * fds[last]['mean'] / first - 100, 0)} %"
        )
        halved[critic] = next(f"{step:,}" for step in fds if fds[step]["mean"] <= first / 2)
    yield f"half of its value at step 250 at step {halved['MSN']} with MSN,"
    yield f"{halved['WGAN-GP with BN']} with WGAN-GP, {halved['SN']} with SN and {halved['none']} "
    separate, joint = (
        {score["step"]: f"{score['fd']['mean']:.2f}" for score in runs[config]["scores"]}
        for config in ("cifar_msn-separate", "cifar_msn")
    )
    yield f"had FD {separate[250]} at step 250 and {separate[2000]} at step 2,000,"
    yield f"joint passes had {joint[250]} and {joint[2000]}"


@of(GALLERY)
def table_1() -> Iterator[str]:
    record, msn, gain = load("table1_mnist"), "mean_spectral", "mean_spectral_gain"
    arms, columns = record["rows"]["labels"], record["columns"]["labels"]
    cells = {(cell["row"], cell["column"]): cell for cell in record["cells"]}
    seeds, epochs = len(record["seeds"]), len(record["children"][0]["epochs"])
    yield f"{len(arms)} arms, {len(columns)} learning rates and {seeds} seeds, {epochs} epochs"
    held_out = signature(LabelledData).parameters["validation"].default
    yield f"{held_out:,} training images that are held out"
    yield f"The JSON has {len(record['comparisons'])} such comparisons"
    yield row("arm", *(f"{c[3:]}: {at}" for at in ("last", "chosen") for c in columns), "paper")
    paper = {"none": "–", "batch": published("mnist_cnn3_bn")}
    paper |= {"spectral": published("mnist_cnn3_sn"), msn: published("mnist_cnn3_msn")}
    names = SHORT | {
        "none": "none (not in the paper)",
        gain: "MSN with a learned gain per channel (in the released code, not in the paper)",
        "mean_only": "centring alone (`mean_only`)",
        "spectral_bias": "σ and a bias (`spectral_bias`)",
    }
    for arm in arms:
        found = [cells[arm, column][measure] for measure in ("last", "best") for column in columns]
        yield row(names[arm], *(spread(each, 2, 100) for each in found), paper.get(arm, "–"))

    for a, b, *texts in [  # at the rates 0.1, 0.001 and 0.0001
        (msn, "spectral", "MSN − SN is {} at 0.1,", "{} at 0.001 and", "{} at 0.0001."),
        (
            msn,
            "batch",
            "At 0.1 it is {}.",
            "where MSN − BN is {}.",
            "At 0.0001 it is {}: BN",
        ),
        (msn, "none", "MSN − none is {}, and", "at 0.001. There MSN − none is {}."),
        (msn, "mean_only", "MSN − centring alone {}."),
        (gain, msn, "MSN with gain − MSN is {} at 0.1,", "{} at 0.001 and", "{} at 0.0001."),
    ]:
        for text, column in zip(texts, columns, strict=False):
            digits = 2 if text == "{} at 0.0001." and a == gain else 1
            yield text.format(interval(difference("table1_mnist", a, b, column), digits))
    best = {key: 100 * cell["best"]["mean"] for key, cell in cells.items()}
    yield f"SN has {best['spectral', columns[1]]:.2f} at 0.001, where the paper has"
    yield f"{paper['spectral']}; the next section"
    yield f"the network has {best['none', columns[1]]:.2f} %"
    unbounded = ("none", "batch", "mean_only")
    without = [best[arm, columns[0]] for arm in unbounded]
    bounded = [best[arm, columns[0]] for arm in arms if arm not in unbounded]
    yield f"At 0.1 the four arms with σ have means of {min(bounded):.2f} to {max(bounded):.2f} %,"
    yield f"the three without {min(without):.2f} to {max(without):.2f} %"
    runs = [run for run in record["children"] if (run["row"], run["column"]) == (msn, columns[0])]
    accuracies = [[100 * epoch["test_accuracy"] for epoch in run["epochs"]] for run in runs]
    *_, before, after = min(accuracies, key=lambda each: each[-1])
    yield f"from {before:.0f} to {after:.0f} % in the last epoch"
    moves = [[100 * cells[arm, column]["plateau"] for arm in arms] for column in columns]
    yield "plateau after five epochs at 0.001: in the last epoch the means of the arms change by"
    yield f"{num(min(moves[1]))} to {num(max(moves[1]))} points."
    yield f"At 0.0001 they still rise by up to {max(moves[2]):.1f}."
    yield f"At 0.1 they change by {num(min(moves[0]))} to {num(max(moves[0]), sign='+')}, so"


@of(GALLERY)
def released_mnist() -> Iterator[str]:
    record, ours, paper = load("released_mnist"), "released_spectral", published("mnist_cnn3_sn")
    last = {cell["row"]: cell["last"] for cell in record["cells"]}
    (rate,) = {re.findall(r"--model.lr=(\S+)", run["command"])[0] for run in record["children"]}
    yield f"the learning rate {rate}, {len(record['children'][0]['epochs'])} epochs and"
    yield f"{len(record['seeds'])} seeds each"
    for norm in (ours, "spectral", "mean_spectral", "none"):
        name = f"`{norm}`" + (" (as in the released code)" if norm == ours else "")
        yield row(name, *(spread(last[norm + crops], 1, 100) for crops in ("_augmented", "")))
    yield f"### Why the paper has {paper} % for SN"
    augmented, plain = last[ours + "_augmented"], last[ours]
    assert augmented["low"] < float(paper) / 100 < augmented["high"]
    assert plain["low"] > float(paper) / 100
    ends = [f"({100 * each['low']:.1f} to {100 * each['high']:.1f})" for each in (augmented, plain)]
    yield f"of `{ours}` {ends[0]} contains {paper}; without them {ends[1]}"
    below = []
    for crops in ("_augmented", ""):
        found = difference("released_mnist", ours + crops, "spectral" + crops)
        mean, low, high = (-100 * found[key] for key in ("mean", "high", "low"))
        below.append((f"{mean:.1f}", f"({low:.1f} to {high:.1f})"))
    yield f"below SN by {' points '.join(below[0])} with crops and flips"
    yield f"and by {' '.join(below[1])} without"
    for crops, text in [("_augmented", "{} with crops"), ("", "{} without")]:
        above = last["spectral" + crops]["mean"] - last["mean_spectral" + crops]["mean"]
        yield text.format(num(100 * above, sign="+"))


@of(GALLERY)
def drift_cifar() -> Iterator[str]:
    record = load("drift_cifar")
    runs, bound = record["drift"]["runs"], record["drift"]["threshold_sd"]

    def seeds(norm: str, key: str) -> list[tuple[float, ...]]:
        """For each layer the values of all seeds."""
        return list(zip(*(run[key] for run in runs if run["norm"] == norm), strict=True))

    end = {norm: [sum(two) / len(two) for two in seeds(norm, "drift_last")] for norm in SHORT}
    layers = ["layer 1", *map(str, range(2, len(end["none"]) + 1))]
    yield row("", *layers, "largest", f"at most {bound:.0f} sd at the end?", "test accuracy, last")
    for cell in record["cells"]:
        norm = cell["row"]
        largest = [max(each) for each in seeds(norm, "drift_largest")]
        later = [max(each) for each in seeds(norm, "drift_largest_after_first_epoch")]
        layer = largest.index(max(largest))
        early = later[layer] < largest[layer]
        where = f"(layer {layer + 1}{', first epoch' if early else ''})"
        beyond = [f"{i}" for i, value in enumerate(end[norm], 1) if value > bound]
        yield row(
            SHORT[norm],
            *(f"{value:.2f}" for value in end[norm]),
            f"{largest[layer]:.{1 if early else 2}f} {where}",
            f"no: layer {', '.join(beyond)}" if beyond else "yes",
            spread(cell["last"], 1, 100),
        )
        assert norm != "spectral" or max(later) < bound
    yield f"{bound:.0f} sd at the end of training. Each column 1 to {len(layers)} "
    yield f"After the first epoch it stays within {bound:.0f} sd"
    assert sum(a < b for a, b in zip(end["spectral"], end["none"], strict=True)) == 4
    times = [sn / msn for sn, msn in zip(end["spectral"], end["mean_spectral"], strict=True)]
    yield f"In layers 5 and 6 it drifts {times[4]:.0f} and {times[5]:.0f} times less than SN."
    yield f"In layer 1 its mean, which is the learned offset m, moves {1 / times[0]:.1f} times"
    up = {norm: sum(min(two) > 0 for two in seeds(norm, "signed_last")) for norm in SHORT}
    yield f"the mean of {up['spectral']} of the {len(layers)} layers moves upwards in both seeds,"
    yield f"under MSN that of {up['mean_spectral']}."
    pair = difference("drift_cifar", "mean_spectral", "spectral", measure="last")
    yield f"MSN − SN is {num(100 * pair['mean'], sign='+')} points of test accuracy"
    yield f"({num(100 * pair['low'], 0)} to {num(100 * pair['high'], 0)}, {pair['n']} pairs)"
    shares = [100 * run["share_of_time"] for run in runs]
    (every,) = re.findall(r"dynamics.every=(\d+)", record["command"])
    yield f"every {every} steps took {min(shares):.1f} to {max(shares):.1f} % of the time"
    yield f"({signature(Dynamics).parameters['every'].default} by default;"
    yield f"below {THRESHOLD} times its root mean square"


@of(GALLERY)
def bench_classify() -> Iterator[str]:
    record = load("bench_classify")
    found = {(r["network"], r["layout"], r["norm"]): r["throughput"] for r in record["results"]}
    for network in record["settings"]["networks"]:
        for layout, name in [
            ("contiguous", "PyTorch's default layout"),
            ("channels_last", "channels_last"),
        ]:
            norms = ("none", "spectral", "mean_spectral", "torch SN", "naive MSN")
            cells = [interval(found[network, layout, norm], 1, "median", 1) for norm in norms]
            short = [cell.split()[0] for cell in cells]
            yield row(f"{network}, {name}", f"{short[0]} %", *cells[1:3], *short[3:])
    sn, msn = record["claims"]["spectral"], record["claims"]["mean_spectral"]
    yield row("*the paper*", "", f"*+{sn}*", f"*+{msn}*", "", "")
    yield f"{sn} % (SN) and {msn} % (MSN) faster than with BN"
    yield f"{record['rounds']} interleaved rounds"
    iterations = signature(ReleasedSpectralNorm).parameters["iterations"].default
    yield f"The released code's {iterations} power iterations per pass"


@of(GALLERY)
def table_3() -> Iterator[str]:
    def count(network: str, norm: str, form: str) -> int:
        (found,) = (each for each in forms(network, norm) if each.name == form)
        return parameters_of(build(network, norm, found, SHAPES[network]))

    names = {"cnn3": "3-layer CNN", "vgg7": "VGG-7", "densenet_bc": "DenseNet-BC"}
    for network, counts in TABLE_III.items():
        cells = [f"{n:,}; {count(network, norm, 'default'):,}" for norm, n in counts.items()]
        yield row(names.get(network, network), *cells)
    yield f"has {count('densenet_bc', 'mean_spectral', 'after_layer'):,}."
    biased = count("critic", "mean_spectral", "conv_bias")
    assert TABLE_III["critic"]["mean_spectral"] - biased == 1
    dense = build("densenet_bc", "none", Form("default"), SHAPES["densenet_bc"])
    convolutions = [name for name, _ in dense.named_modules() if re.search(r"conv[12]$", name)]
    yield f"batch norm at all {len(convolutions)} convolutions of their dense layers"
