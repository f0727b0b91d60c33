"""A study's results as tables: accuracies of classifiers, or the leaderboard of GANs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from msngan.leaderboard.board import Board, as_json, make_board
from msngan.leaderboard.experiments import read_setups
from msngan.leaderboard.ranking import describe
from msngan.report.tables.leaderboard_tables import board_tables, comparison_tables
from msngan.report.tables.study_layers import layer_rows, layer_tables
from msngan.report.tables.study_scores import course_tables
from msngan.report.tables.table import Table, print_as
from msngan.runs.folder import Run, UserError, counted
from msngan.runs.score_records import Entry, read_scores
from msngan.study.layer_measures import layer_measures
from msngan.study.plan import Study
from msngan.study.scores_by_step import scores_by_step
from msngan.study.study_files import State, steps

Json = dict[str, Any]
BARE = (
    "no scores yet: a run writes them every --scores.every steps; to score it now: msngan evaluate"
)
TITLES = {
    "last": "test accuracy after the last epoch, %",
    "best": "test accuracy at the epoch with the best validation accuracy, %",
    "best_test": "best test accuracy of any epoch, % (*)",
}
PAIRED = {"last": "after the last epoch", "best": "by validation"}
LEGEND = [
    "mean ± standard deviation (ddof 1) over seeds; 95 % CI: of the mean, Student's t with n - 1.",
    "(*) the epoch is chosen by the test set, as in the paper's code: optimistic, not a result.",
    "diverged: the loss became NaN or infinite; the means leave such a run out.",
    "change: of the mean test accuracy in the last epoch, in points; near 0 at a plateau.",
]
PAIRED_LEGEND = [
    "points: A - B, the mean over pairs of equal seed; sd: of the paired differences (ddof 1);"
    " 95 % CI: of their mean, Student's t with n - 1.",
    "'better' means that the interval excludes 0; about one of twenty such lines does so by chance"
    " alone.",
    "'but A diverged': the pairs leave those runs out, so the difference favours A.",
]


def show_results(style: str, results: Json, root: Path, study: Study) -> None:
    """The accuracies of classifiers, the leaderboard of GANs, and what was measured of layers."""
    layers = layer_measures(study, results["children"], root)
    scores = None if results["task"] == "classifier" else board_of(results, root, study)

    def tables() -> Iterator[Table]:
        yield progress_table(results)
        if scores is None:
            yield from accuracy_tables(results)
            yield from layer_tables(results["study"], layers)
            return
        course = "" if scores.by_step is None else scores.by_step["protocol_id"]
        blocks = {block.protocol_id: block for block in scores.board.blocks}
        about = describe(blocks.pop(course)) if course in blocks else ()
        yield from course_tables(results["study"], scores.by_step, about)
        others = scores.under({*blocks})  # the arms stand above; here what that table leaves out
        yield from (*board_tables(others.board), *comparisons_of(others))
        yield from layer_tables(results["study"], layers)
        report = f"msngan report {shlex.quote(results['study'])}{Run('', root).root_option}"
        notes = [f"every run, with its curves and samples: {report}; every value: --format json"]
        yield Table("More", notes=notes)

    found = {} if scores is None else {"leaderboard": scores.as_json(), "by_step": scores.by_step}
    whole = {**results, **found, "layers": layers}
    lines = [] if scores is None else scores.entries
    rows = [*flat_rows(results, lines), *layer_rows(layers, results["children"])]
    print_as(style, tables=tables, rows=lambda: rows, whole=lambda: whole)


def progress_table(results: Json) -> Table:
    """How many runs have ended, and how; every failure by name."""
    children = results["children"]
    failed = [  # the first sentence of a reason says what happened, the others what to do
        f"{child['run']} {child['state']} at step {child['step']}:"
        f" {str(child['reason']).partition('. ')[0]}"
        for child in children
        if child["state"] in ("diverged", "failed", "collapsed")
    ]
    lines = [": ".join(_counted([child["state"] for child in children]))]
    return Table(f"Study {results['study']}", lines=lines, notes=failed)


def _counted(words: list[str]) -> tuple[str, str]:
    """'12 runs', and '11 done, 1 diverged'."""
    each = (f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return counted(len(words), "run"), ", ".join(each)


def accuracy_tables(results: Json) -> Iterator[Table]:
    for measure, title in TITLES.items():
        if measure == "last" or any(cell[measure] for cell in results["cells"]):
            yield _grid_table(results, measure, title)
    yield _detail_table(results)
    if results["comparisons"]:
        for measure in PAIRED:
            yield _paired_table(results, measure)
    yield Table("How to read this", notes=LEGEND)


def _grid_table(results: Json, measure: str, title: str) -> Table:
    """Rows by columns: mean ± sd, and what is missing of the seeds."""
    columns = results["columns"]["labels"]
    by_place = {(cell["row"], cell["column"]): cell for cell in results["cells"]}
    rows = [
        [row, *(_in_grid(by_place.get((row, column)), measure) for column in columns)]
        for row in results["rows"]["labels"]
    ]
    names = [name or "accuracy" for name in columns]
    header = [results["rows"]["axis"], *names]
    return Table(f"{results['study']}: {title}", header, rows, right=frozenset(names))


def _in_grid(cell: Json | None, measure: str) -> str:
    if cell is None:
        return ""
    parts = [percent(cell[measure])] if cell[measure] else []
    parts += [f"{len(cell[word])} {word}" for word in ("diverged", "failed") if cell[word]]
    ended = sum(len(cell[word]) for word in ("done", "diverged", "failed"))
    parts += [f"{ended} of {cell['seeds']} ended"] if ended < cell["seeds"] else []
    return ", ".join(parts)


def _detail_table(results: Json) -> Table:
    """What the grids above leave out."""
    columns = ["n", "95 % CI, last", "95 % CI, by validation", "change", "diverged", "steps/s"]
    rows = []
    for cell in results["cells"]:
        speed, change = cell["steps_per_second"], cell["plateau"]
        words = [str(len(cell["done"])), interval(cell["last"]), interval(cell["best"])]
        words += ["" if change is None else f"{100 * change:+.2f}", str(len(cell["diverged"]))]
        words += ["" if speed is None else f"{speed:.1f}"]
        rows.append([cell["row"], cell["column"], *words])
    header = [results["rows"]["axis"], "at", *columns]
    return _by_column(results, "each mean's interval, and how the runs ended", header, rows)


def _paired_table(results: Json, measure: str) -> Table:
    rows = []
    for each in results["comparisons"]:
        if each["measure"] != measure:
            continue
        found = each["difference"]
        points = "" if found is None else f"{100 * found['mean']:+.2f}"
        sd = "none" if found is None or found["sd"] is None else f"{100 * found['sd']:.2f}"
        row = [f"{each['a']} - {each['b']}", each["column"], points, interval(found, "+.2f")]
        rows.append([*row, each["verdict"], str(len(each["seeds"])), sd])
    title = f"differences paired by seed, {PAIRED[measure]}"
    header = ["A - B", "at", "points", "95 % CI", "verdict", "pairs", "sd"]
    table = _by_column(results, title, header, rows)
    return replace(table, notes=PAIRED_LEGEND if measure == "last" else [])


def _by_column(results: Json, title: str, header: list[str], rows: list[list[str]]) -> Table:
    """A table whose second column says which of the study's columns a row is of.

    A study of one column has no label for it: then that column is left out.
    """
    if not any(results["columns"]["labels"]):
        header, *rows = [[each[0], *each[2:]] for each in (header, *rows)]
    right = frozenset(header[1:]) - {"at", "verdict"}
    title = f"{results['study']}: {title}"
    return Table(title, header, rows, right=right, keys=2 if "at" in header else 1)


def percent(found: Json) -> str:
    """'98.71±0.05' of a summary of fractions."""
    sd = "" if found["sd"] is None else f"±{100 * found['sd']:.2f}"
    return f"{100 * found['mean']:.2f}{sd}"


def interval(found: Json | None, form: str = ".2f") -> str:
    if found is None or found["low"] is None:
        return "none"
    return f"[{100 * found['low']:{form}}, {100 * found['high']:{form}}]"


def flat_rows(results: Json, entries: Sequence[Entry] = ()) -> list[Json]:
    """A row for each epoch of each run or each of its scores, or one for a run that has none."""
    about = ("run", "row", "column", "seed", "state", "reason", "steps_per_second")
    scored: dict[str, list[Json]] = {}
    for each in entries:
        kind = {"step": each.step, "weights": each.weights, "protocol": each.protocol_id}
        means = {name: score.mean for name, score in each.scores.items()}
        scored.setdefault(each.run, []).append(means | kind)  # the file may come from anyone
    return [
        dict.fromkeys(about) | {**measured} | {name: child[name] for name in about}
        for child in results["children"]
        for measured in child.get("epochs") or scored.get(child["run"]) or [{"step": child["step"]}]
    ]


def list_tables(study: Study, states: dict[str, State]) -> dict[str, Callable[[], Any]]:
    """For `--list`: how far each run is."""
    records, rows = [], []
    for name, each in states.items():
        about = {"run": name, "state": each.word, "step": each.step, "of": each.total}
        records.append({**about, "newest": each.newest})
        # Short, because a name that is folded cannot be copied.
        rows.append([name, each.word, steps(each), each.newest.replace("validation", "val.")])
    title = f"Study {study.name}: {', '.join(_counted([each.word for each in states.values()]))}"
    table = Table(title, ["run", "state", "step", "newest"], rows, right=frozenset({"step"}))
    return {
        "tables": lambda: [table],
        "rows": lambda: records,
        "whole": lambda: {"format": 1, "study": study.name, "runs": records},
    }


# The leaderboard of a GAN study's runs alone, and its pairs compared


@dataclass(frozen=True)
class Scores:
    """comparisons: of the study's pairs, in its order; remarks: why one is missing.

    entries: every line of its runs. by_step: see `scores_by_step`.
    """

    entries: list[Entry]
    board: Board
    by_step: Json | None
    comparisons: list[Board]
    remarks: list[str]

    def under(self, protocols: set[str]) -> Scores:
        """These scores under some protocols only, by their ids."""
        kept = []
        for each in self.comparisons:
            assert each.comparison is not None
            matches = [one for one in each.comparison.matches if one.protocol_id in protocols]
            if matches:
                kept.append(replace(each, comparison=replace(each.comparison, matches=matches)))
        blocks = [block for block in self.board.blocks if block.protocol_id in protocols]
        return replace(self, board=replace(self.board, blocks=blocks), comparisons=kept)

    def as_json(self) -> dict[str, Any]:
        compared = [each.comparison for each in self.comparisons]
        return {
            **as_json(self.board, []),
            "comparisons": [asdict(each) for each in compared if each],
            "remarks": self.remarks,
        }


def board_of(results: Json, root: Path, study: Study) -> Scores:
    children = results["children"]
    runs = [run for child in children if (run := Run(child["run"], root)).scores.is_file()]
    entries, warnings = read_scores(runs)
    arms = {
        each["run"]: ", ".join(filter(None, (each["row"], each["column"]))) for each in children
    }
    # A config that the arms share, or their ids, would not tell them apart.
    entries = [replace(entry, config=arms[entry.run]) for entry in entries]
    setups, unknown = read_setups(runs)
    remarks = [*warnings, *unknown]
    if not entries:
        remarks.append(f"{BARE} {' '.join(child['run'] for child in children)}")
    scored = {entry.run for entry in entries}
    first: dict[tuple[str, str], str] = {}  # a scored run of each row and column
    for child in children:
        if child["run"] in scored:
            first.setdefault((child["row"], child["column"]), child["run"])
    comparisons = []
    for (a, b), column in product(study.pairs, study.columns) if entries else ():
        missing = [row for row in (a, b) if (row, column) not in first]
        if missing:
            where = f" at {column}" if column else ""
            remarks.append(f"{a} - {b}: {missing[0]} has no scores{where}")
            continue
        pair = first[a, column], first[b, column]
        try:
            comparisons.append(make_board(entries, setups, pair=pair))
        except UserError as problem:
            remarks.append(str(problem).removeprefix("--compare: "))
    board = replace(make_board(entries, setups), warnings=[*warnings, *unknown])
    return Scores(entries, board, scores_by_step(study, entries), comparisons, remarks)


def comparisons_of(scores: Scores) -> Iterator[Table]:
    for each in scores.comparisons:
        assert each.comparison is not None
        yield from comparison_tables(each, each.comparison)
    if scores.remarks:
        yield Table("Remarks", notes=scores.remarks)
