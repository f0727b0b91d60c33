"""Numbers on classifiers: of studies and of counted parameters."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Any

from page_numbers import both_ends, interval, load, num, published, spread

from msngan.bench.parameters import Form, build, forms, parameters_of
from msngan.bench.settings import PUBLISHED as TABLE_III
from msngan.bench.settings import SHAPES
from msngan.leaderboard.seeds import summary
from msngan.study.results import measured


def accuracy(study: str, arm: str, column: str = "", measure: str = "last") -> Any:
    cells = {(cell["row"], cell["column"]): cell for cell in load(study)["cells"]}
    return cells[arm, column if (arm, column) in cells else f"lr {column}"][measure]


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


def after(arm: str, epochs: int) -> str:
    """Test accuracy in % of an arm of plateau_mnist after so many epochs."""
    runs = [run["epochs"] for run in load("plateau")["children"] if run["row"] == arm]
    return spread(asdict(summary([each[epochs - 1]["test_accuracy"] for each in runs])), 2, 100)


def plateau(augmented: bool) -> list[float]:
    """The changes of the means of plateau_mnist in the last epoch, in points."""
    found = load("plateau")["cells"]
    mine = [each for each in found if each["row"].endswith("_augmented") == augmented]
    return [100 * each["plateau"] for each in mine]


RATES = ("0.1", "0.001", "0.0001")
ARMS = load("table1_mnist")["rows"]["labels"]
NO_SIGMA = ("none", "batch", "mean_only")
SIGMA = [arm for arm in ARMS if arm not in NO_SIGMA]


def holds(arm: str) -> str:
    """Whether the interval contains the paper's number."""
    found, there = accuracy("released_mnist", arm), float(published("mnist_cnn3_sn")) / 100
    return "contains" if found["low"] <= there <= found["high"] else "does not contain"


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


def best_apart(study: str, a: str, b: str, column: str = "", at: str = "best") -> list[float]:
    """The differences of test accuracy by seed; at: the epoch chosen by validation, or the last."""
    found = {
        (each["row"], each["column"], each["seed"]): measured(each)[at]
        for each in load(study)["children"]
    }
    return [found[a, column, seed] - found[b, column, seed] for seed in load(study)["seeds"]]


def seen_apart(a: str, b: str, column: str) -> list[float]:
    """The differences of training accuracy in study_depth, by seed."""
    every = {(e["row"], e["column"]): e for e in load("depth")["layers"]["gap"]["results"]}
    one, other = (every[row, column]["train_accuracy"]["values"] for row in (a, b))
    return [x - y for x, y in zip(one, other, strict=True)]


def deeper(a: str, b: str) -> tuple[list[float], list[float]]:
    """By how much their difference changes from cnn3 to vgg7 and to resnet18, by seed."""
    cnn3, vgg7 = (best_apart("depth", a, b, network) for network in ("cnn3", "vgg7"))
    resnet18 = best_apart("depth_resnet", a, b)
    return tuple([x - y for x, y in zip(deep, cnn3, strict=True)] for deep in (vgg7, resnet18))


def of_layers(measure: str, a: str, b: str, column: str, study: str = "depth") -> list[float]:
    """The differences of two arms at the last measurement, by seed."""
    every = {(each["row"], each["column"]): each for each in load(study)["layers"]["results"]}
    one, other = (every[row, column]["last"][measure]["values"] for row in (a, b))
    return [x - y for x, y in zip(one, other, strict=True)]


def at_the_end(
    measure: str, arm: str, column: str, digits: int = 2, study: str = "depth", factor: float = 1
) -> str:
    every = load(study)["layers"]["results"]
    (found,) = (each for each in every if (each["row"], each["column"]) == (arm, column))
    return spread(found["last"][measure], digits, factor)


def sparse(arm: str) -> str:
    """Zero and small entries of gradients in %, with ReLU and with leaky ReLU."""
    return " | ".join(
        at_the_end(f"gradient_{kind}", arm, activation, 1, "sparsity", 100)
        for activation in ("relu", "leaky_relu")
        for kind in ("zero", "small")
    )


def beside_the_gap(study: str) -> str:
    """The rank correlation of spectral complexity with the gap of accuracy."""
    found = load(study)["layers"]["gap"]["correlations"][0]
    return f"{num(found['spearman'], 2)} {interval(found, 2, 1)}"


def losses(arm: str, column: str) -> list[float]:
    """The last training losses of a study of learning rates, by seed."""
    runs = load("rates")["children"]
    mine = [run for run in runs if (run["row"], run["column"]) == (arm, column)]
    return [run["epochs"][-1]["train_loss"] for run in mine]


def fewer_parameters() -> str:
    """By how much MSN's networks of Table III are smaller than BN's, in %."""
    pairs = [(count(each, "mean_spectral"), count(each, "batch")) for each in TABLE_III]
    return both_ends((100 - 100 * a / b for a, b in pairs), 2)


def by_batch(arm: str) -> str:
    """Test accuracy at the epoch chosen by validation, at each batch size."""
    columns = load("batch")["columns"]["labels"]
    return " | ".join(spread(accuracy("batch", arm, each, "best"), 1, 100) for each in columns)


def validated(study: str) -> dict[tuple[str, str, int], float]:
    """Of each row, column and seed the best accuracy on the validation images, in %."""
    return {
        (run["row"], run["column"], run["seed"]): max(
            100 * epoch["validation_accuracy"] for epoch in run["epochs"]
        )
        for run in load(study)["children"]
    }


def trains(arm: str, least: float) -> list[int]:
    """By seed: at how many learning rates the validation accuracy reaches this many %."""
    found, columns = validated("rates"), load("rates")["columns"]["labels"]
    return [
        sum(found[arm, column, seed] >= least for column in columns)
        for seed in load("rates")["seeds"]
    ]


def rates(arm: str) -> str:
    found, seeds = validated("rates"), load("rates")["seeds"]
    means = [
        num(summary([found[arm, column, seed] for seed in seeds]).mean)
        for column in load("rates")["columns"]["labels"]
    ]
    return " | ".join([*means, ", ".join(map(str, trains(arm, 95)))])


def count(network: str, norm: str, form: str = "default") -> int:
    (found,) = (each for each in forms(network, norm) if each.name == form)
    return parameters_of(build(network, norm, found, SHAPES[network]))


def table3(network: str) -> str:
    counts = TABLE_III[network].items()
    return " | ".join(f"{there:,}; {count(network, norm):,}" for norm, there in counts)


def dense_convolutions() -> int:
    network = build("densenet_bc", "none", Form("default"), SHAPES["densenet_bc"])
    return sum(bool(re.search(r"conv[12]$", name)) for name, _ in network.named_modules())
