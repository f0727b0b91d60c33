"""Numbers on GANs: of runs, studies, protocols, extractors and recipes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import stdev
from typing import Any

from page_numbers import ROOT, SN_AND_MSN, both_ends, config, interval, load, num, paired, spread

from msngan.data import DATASETS
from msngan.leaderboard.published import PUBLISHED
from msngan.leaderboard.seeds import summary
from msngan.scores.protocol import PRESETS

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


def cells(*each: list[float]) -> str:
    """mean ± sd over seeds, of each score."""
    return " | ".join(spread(asdict(summary(values)), 2) for values in each)


def of_networks(one: str, other: str, metric: str = "fd") -> list[float]:
    """The differences of two arms of study_networks at the last step, by seed."""
    found = {each["arm"]: each["scores"] for each in load("networks")["results"]}
    step = str(load("networks")["steps"])
    a, b = (found[arm][step][metric]["values"] for arm in (one, other))
    return [x - y for x, y in zip(a, b, strict=True)]


def in_course(study: str, row: str, step: int, metric: str = "fd", column: str = "") -> list[float]:
    """The values of an arm of a study of GANs at a step, in order of the seeds."""
    every = {(each["row"], each["column"]): each for each in load(study)["by_step"]["results"]}
    return every[row, column]["scores"][str(step)][metric]["values"]


def in_pairs(study: str, one: str, other: str, step: int, metric: str = "fd") -> list[float]:
    """The differences of two rows, by seed."""
    pairs = (in_course(study, row, step, metric) for row in (one, other))
    return [a - b for a, b in zip(*pairs, strict=True)]


def parts(one: str, other: str, metric: str = "fd") -> str:
    """The difference of two arms of study_parts at the last step."""
    return paired(in_pairs("parts", one, other, config("study_parts")["options"]["steps"], metric))


def gates_on(arm: str) -> str:
    """For how much of the time the gates of a critic's layers were on, in %, by seed."""
    found = load("parts_gates")
    runs = [each for name, each in found["runs"].items() if f"-{arm}-" in name]
    shares = [100 * sum(counts) / len(counts) / found["layers"] for counts in runs]
    return ", ".join(f"{share:.0f}" for share in shares[:-1]) + f" and {shares[-1]:.0f}"


def by_init(arm: str, metric: str = "fd") -> list[list[float]]:
    """Of each way to draw the first weights, by seed."""
    options, grid = (config("study_init")[key] for key in ("options", "grid"))
    ways = grid["model.init"]
    return [in_course("init", arm, options["steps"], metric, each) for each in ways]


def init_row(arm: str) -> str:
    """FD with each way to draw the first weights, and the sd over the ways."""
    return cells(*by_init(arm), [stdev(each) for each in zip(*by_init(arm), strict=True)])


def over_inits(of: Callable[[list[float]], float], one: str, other: str, metric: str = "fd") -> str:
    """The difference of two arms in the mean or sd over the ways, paired by seed."""
    a, b = (
        [of(list(each)) for each in zip(*by_init(arm, metric), strict=True)] for arm in (one, other)
    )
    return paired([x - y for x, y in zip(a, b, strict=True)])


def above(arm: str, least: float) -> str:
    """How many runs of study_init end with a larger FD."""
    found = [value for each in by_init(arm) for value in each]
    return f"{sum(value > least for value in found)} of {len(found)}"


def narrow(arm: str, metric: str, step: int = 5000) -> list[float]:
    """Of an arm of table2_narrow, by seed; the runs of MSN and SN are those of study_networks."""
    if arm not in ("MSN", "SN"):
        return in_course("table2", arm, step, metric)
    (found,) = (each for each in load("networks")["results"] if each["arm"] == arm.lower())
    return found["scores"][str(step)][metric]["values"]


def narrow_row(arm: str) -> str:
    early = "–" if arm in ("MSN", "SN") else cells(narrow(arm, "fd", 2500))
    scores = [narrow(arm, metric) for metric in ("fd", "cs", "precision", "recall")]
    return f"{early} | {cells(*scores)}"


def narrow_pairs(one: str, other: str) -> list[float]:
    """The differences of FD at the end, by seed."""
    return [a - b for a, b in zip(narrow(one, "fd"), narrow(other, "fd"), strict=True)]


def half(metric: str = "fd", step: int = 20_000) -> str:
    """MSN − SN of table2_half."""
    return paired(in_pairs("half", "MSN", "SN", step, metric))


def longer() -> str:
    """How many times as long as one under SN a step under MSN takes."""
    msn, sn = (each["steps_per_second"] for each in load("half")["cells"])
    return f"{sn / msn:.2f}"


def half_row(arm: str, *steps: int) -> str:
    """FD at these steps, and the other scores at the last of them."""
    asked = [("fd", step) for step in steps]
    asked += [(metric, steps[-1]) for metric in ("cs", "precision", "recall")]
    return cells(*(in_course("half", arm, step, metric) for metric, step in asked))


def full(*asked: tuple[str, int]) -> str:
    """Scores of the run at the published width, with the sd over sets of samples."""
    scores = load("full")["scores"]
    return " | ".join(spread(scores[str(step)][metric], 2) for metric, step in asked)


def second_row(arm: str) -> str:
    return cells(*(by_second(arm, metric) for metric in ("fd", "cs", "precision", "recall")))


def by_second(arm: str, metric: str) -> list[float]:
    """Of an arm of table2_half at the end by the second extractor, in order of the seeds."""
    found = {
        each["run"]: score["mean"]
        for each in load("half_vgg7")["scores"]
        for name, score in each["scores"].items()
        if name.startswith(f"{metric}/")
    }
    return [found[run] for run in sorted(found) if f"-{arm}-" in run]


def half_by_second(metric: str = "fd") -> str:
    pairs = zip(by_second("MSN", metric), by_second("SN", metric), strict=True)
    return paired([msn - sn for msn, sn in pairs])


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
