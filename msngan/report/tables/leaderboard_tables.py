"""The leaderboard and the comparison of two configs as tables, for a terminal, Markdown, a page."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from msngan.leaderboard.board import Board
from msngan.leaderboard.experiments import in_words, told_apart
from msngan.leaderboard.paired import Comparison, Match, Paired
from msngan.leaderboard.published import NEVER_RANKED, Published
from msngan.leaderboard.ranking import Block, Row, describe, labels, ranking
from msngan.leaderboard.seeds import Pool, Pooled, Summary
from msngan.report.tables.table import Table, plus_minus
from msngan.runs.score_records import Score

LEGEND = [
    "± of a run: standard deviation over sets of samples from the same weights, not over seeds.",
    "best: chosen by the score it shows, so it is optimistic; compare runs by last.",
    "weights: those of the generator, or ema, their moving average.",
    "2=: tied with the row above, |difference| < 2 sqrt(s1^2/n1 + s2^2/n2) with n sets;"
    " 2?: a spread is missing, so a tie is not excluded. ~: an estimate.",
]
POOLED_LEGEND = [
    "± over seeds: standard deviation (ddof 1) over training runs that differ only in their seed."
    " To claim that one config beats another, use this one, not that of a run.",
    "last over seeds: the mean of the runs' means, at the largest step that all of them share;"
    " 95 % CI: of that mean, Student's t with n - 1.",
    "2= over seeds: tied with the row above; the 95 % interval of the difference (Welch) includes"
    " 0.",
]
COMPARED_LEGEND = [
    "A - B: the mean over pairs of equal training seed; sd: of the paired differences (ddof 1);"
    " 95 % CI: of their mean, Student's t with n - 1. The ± of a single run is not used.",
    "'better' means that the interval excludes 0; about one of twenty such lines does so by chance"
    " alone.",
]


def board_tables(board: Board) -> Iterator[Table]:
    for block in board.blocks:
        yield block_table(block, board)
        if table := pooled_table(block, board.pools[block.protocol_id]):
            yield table
    if board.blocks:
        yield Table("How to read this", notes=[*legend(board), *board.remarks])
    elif board.remarks:
        yield Table("Leaderboard", notes=board.remarks)


def legend(board: Board) -> list[str]:
    return [*LEGEND, *(POOLED_LEGEND if any(pool.rows for pool in board.pools.values()) else [])]


def block_title(block: Block) -> str:
    return f"{block.protocol['dataset']}, protocol {block.protocol['name']} ({block.protocol_id})"


def block_table(block: Block, board: Board) -> Table:
    """The runs of a protocol, then what real data scores."""
    names = dict(zip(block.metrics, labels(block.metrics), strict=True))
    main, others = names[block.metric], block.metrics[1:]
    told = told_apart([row.run for row in block.rows], board.setups)
    differing = ["differs in"] if any(told.values()) else []
    columns = ["#", "run", "weights", f"{main} last", "step", f"{main} best", "at step"]
    columns += [*differing, *(names[name] for name in others)]
    rows = []
    for row in block.rows:
        cells = [_rank(row), row.run, row.weights]
        for score in (row.last.get(block.metric), row.best.get(block.metric)):
            cells += [_value(score), str(score.step) if score else ""]
        cells += [told.get(row.run, "") for _ in differing]
        rows.append([*cells, *(_value(row.last.get(name)) for name in others)])
    if block.floors:
        real = block.floors.get(block.metric)
        title = f"real data ({real.kind})" if real else "real data"
        cells = ["", title, "", _real(block, block.metric), *[""] * (3 + len(differing))]
        rows.append([*cells, *(_real(block, name) for name in others)])
    lasts = [row.last.get(block.metric) for row in block.rows]
    steps = sorted({score.step for score in lasts if score})
    unequal = [
        f"the runs end at different steps ({', '.join(map(str, steps))}): some have trained longer;"
        " --compare A B uses a shared step"
    ]
    failed = [
        f"{row.run} ({row.weights}), step {score.step}: {names[name]} failed: {score.reason}"
        for row in block.rows
        for name, score in row.last.items()
        if score.mean is None
    ]
    return Table(
        block_title(block),
        columns,
        rows,
        lines=[*describe(block), ranking(block, board.by)],
        notes=[*(unequal if len(steps) > 1 else []), *failed],
        right=frozenset({*columns} - {"run", "weights", "differs in"}),
        keys=3,
    )


def _rank(row: Row | Pooled) -> str:
    mark = {True: "=", False: "", None: "?" if (row.rank or 1) > 1 else ""}[row.tie]
    return f"{row.rank}{mark}" if row.rank else ""


def _value(score: Score | None) -> str:
    return plus_minus(score.mean, score.sd) if score else ""


def _real(block: Block, name: str) -> str:
    real = block.floors.get(name)
    if real is None:
        return ""
    return ("~" if real.kind == "estimated" else "") + plus_minus(real.mean)


def pooled_table(block: Block, pool: Pool) -> Table | None:
    """The block's configs over their seeds; None where there is neither one nor a note."""
    title = f"{block_title(block)}, seeds pooled"
    if not pool.rows:
        return Table(title, notes=pool.notes) if pool.notes else None
    names = dict(zip(block.metrics, labels(block.metrics), strict=True))
    main, others = names[block.metric], block.metrics[1:]
    columns = ["#", "config", "id", "weights", "seeds", f"{main} last", "step", "95 % CI"]
    columns += [f"{main} best", *(names[name] for name in others)]
    rows = []
    for row in pool.rows:
        last = row.last.get(block.metric)
        cells = [_rank(row), row.config, row.config_id, row.weights, str(len(row.members))]
        cells += [_over_seeds(last), str(row.steps.get(block.metric, "")), _interval(last)]
        cells.append(_over_seeds(row.best.get(block.metric)))
        rows.append([*cells, *(_over_seeds(row.last.get(name)) for name in others)])
    right = frozenset({*columns} - {"config", "id", "weights"})
    return Table(title, columns, rows, notes=pool.notes, right=right, keys=4)


def _over_seeds(found: Summary | None) -> str:
    return plus_minus(found.mean, found.sd) if found else "none"


def _interval(found: Summary | None) -> str:
    if found is None or found.low is None:
        return "none"
    return f"[{plus_minus(found.low)}, {plus_minus(found.high)}]"


def comparison_tables(board: Board, comparison: Comparison) -> Iterator[Table]:
    blocks = {block.protocol_id: block for block in board.blocks}
    lines = [
        f"{side}: {config}, runs {', '.join(config.runs)}"
        for side, config in zip("AB", (comparison.a, comparison.b), strict=True)
    ]
    lines.append(f"they differ in {in_words(comparison.differences)}")
    yield Table(f"{comparison.a} against {comparison.b}", lines=lines, notes=comparison.notes)
    for match in comparison.matches:
        yield _match_table(match, blocks[match.protocol_id])
    yield Table("How to read this", notes=[*COMPARED_LEGEND, *board.remarks])


def _match_table(match: Match, block: Block) -> Table:
    names = labels([row.metric for row in match.rows])
    columns = ["metric", "pairs", "step", "mean A", "mean B", "A - B", "verdict", "sd", "95 % CI"]
    seeds = ", ".join(str(one.seed) for one, _ in match.pairs)
    unpaired = [
        f"unpaired, {side} only: {', '.join(f'{each.run} (seed {each.seed})' for each in members)}"
        for side, members in match.unpaired.items()
        if members
    ]
    return Table(
        f"{block_title(block)}, {match.weights} weights",
        columns,
        [_paired(name, row, match) for name, row in zip(names, match.rows, strict=True)],
        lines=[*describe(block), f"paired by seed: {seeds}"],
        notes=[*unpaired, *match.notes],
        right=frozenset({*columns} - {"metric", "verdict"}),
    )


def _paired(name: str, row: Paired, match: Match) -> list[str]:
    means = [plus_minus(each.mean) if each else "" for each in (row.a, row.b, row.difference)]
    sd = row.difference.sd if row.difference else None
    step = "" if row.step is None else str(row.step)
    cells = [name, str(len(match.pairs)), step, *means, row.verdict]
    return [*cells, "none" if sd is None else plus_minus(sd), _interval(row.difference)]


def published_tables(rows: list[Published]) -> Iterator[Table]:
    """One for each data set; the sources and their protocols stand below it."""
    for dataset, group in groupby(rows, key=lambda row: row.dataset):
        own = list(group)
        sources = [*dict.fromkeys((row.source, row.protocol) for row in own)]
        cells = []
        for row in own:
            scores = [printed(row.inception_score, row.inception_score_sd)]
            scores += [printed(row.fid, row.fid_sd)]
            source = str(sources.index((row.source, row.protocol)) + 1)
            cells.append([row.model, *scores, source, row.note])
        yield Table(
            f"Published results, {dataset}",
            ["model", "IS", "FID", "source", "note"],
            cells,
            lines=[NEVER_RANKED],
            notes=[
                f"source {number} ({protocol}): {source}"
                for number, (source, protocol) in enumerate(sources, start=1)
            ],
            right=frozenset({"IS", "FID", "source"}),
            urls=True,
        )


def printed(mean: float | None, sd: float | None) -> str:
    """A published number, no digit added."""
    if mean is None:
        return ""
    return f"{mean:g}" + ("" if sd is None else f"±{sd:.2f}")
