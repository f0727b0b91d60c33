"""The leaderboard as one HTML file, with each run's curve and last samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from msngan.leaderboard.board import Board
from msngan.leaderboard.published import Published
from msngan.leaderboard.ranking import Block, series
from msngan.report.html.leaderboard_markup import bullets, escape, linked, paragraphs, table, write
from msngan.report.html.pictures import last_grid, small
from msngan.report.html.spark import sparkline
from msngan.report.tables.compare import comparison_tables
from msngan.report.tables.leaderboard import block_table, legend, pooled_table, published_tables
from msngan.report.tables.table import Table
from msngan.runs.folder import Run, now
from msngan.runs.safe_read import clean
from msngan.runs.score_records import Entry

MOST_PICTURES = 16 * 2**20  # bytes that all pictures may add to the page


def write_page(path: Path, board: Board, runs: list[Run], published: list[Published]) -> None:
    """UserError if `path` cannot be written."""
    pictures = Pictures(runs)
    parts = [f'<p class="note">Written {escape(now())}.</p>\n']
    if board.comparison:
        once = replace(board, remarks=[])
        parts += [section(each) for each in comparison_tables(once, board.comparison)]
    for block in board.blocks:
        parts.append(section(block_table(block, board)))
        parts.append(cards(block, board.entries[block.protocol_id], pictures))
        if pooled := pooled_table(block, board.pools[block.protocol_id]):
            parts.append(section(pooled, level=3))
    for each in published_tables(published):
        parts.append(section(each, level=3 if each.columns else 2, heading=linked(each.title)))
    parts.append(f"<h2>How to read this</h2>\n{bullets(legend(board))}")
    if board.remarks or board.warnings:
        parts.append(f"<h2>Remarks</h2>\n{bullets([*board.remarks, *board.warnings])}")
    write(path, "msngan leaderboard", "".join(parts))


def section(made: Table, level: int = 2, heading: str | None = None) -> str:
    """heading: the title as HTML, if not as plain text."""
    return (
        f"<h{level}>{heading or escape(made.title)}</h{level}>\n{paragraphs(made.lines)}"
        + (table(made.columns, made.rows, made.right) if made.columns else "")
        + bullets(made.notes)
    )


def cards(block: Block, entries: list[Entry], pictures: Pictures) -> str:
    """For each row the curve of the ranking metric, and the run's last samples."""
    apart: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        apart.setdefault((entry.run, entry.weights), []).append(entry)
    made = []
    for row in block.rows:
        name = f"{row.run} ({row.weights})"
        curve = sparkline(
            series(apart[row.run, row.weights], block.metric),
            block.metric,
            f"{block.metric} of {name}",
        )
        made.append(
            f"<figure><figcaption>{escape(name)}</figcaption>\n{curve}\n{pictures.of(row.run)}"
            "</figure>\n"
        )
    return f'<div class="cards">\n{"".join(made)}</div>\n'


class Pictures:
    """The runs' last grids, each on the page once, up to MOST_PICTURES bytes together."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._samples = {clean(run.name): run.samples for run in runs}
        self._shown: dict[str, str] = {}  # run -> what stands for it a second time
        self._bytes = 0

    def of(self, run: str) -> str:
        """An <img>, a link to the one before, or a note that says why there is none."""
        if run not in self._shown:
            mark = f"samples-{len(self._shown)}"
            made, again = self._first(run, mark)
            self._shown[run] = again
            return made
        return self._shown[run]

    def _first(self, run: str, mark: str) -> tuple[str, str]:
        found = last_grid(self._samples[run])
        if found is None:
            note = '<p class="note">no sample grid</p>\n'
            return note, note
        step, path = found
        try:
            picture = small(path)
            if self._bytes + picture.bytes > MOST_PICTURES:
                raise ValueError(f"the page's pictures already take {MOST_PICTURES // 2**20} MiB")
        except ValueError as problem:
            note = f'<p class="note">{escape(f"{path.name} left out: {problem}")}</p>\n'
            return note, note
        self._bytes += picture.bytes
        words = f"samples of {run} at step {step}"
        return (
            f'<img id="{mark}" src="{picture.data}" width="{picture.width}"'
            f' height="{picture.height}" alt="{escape(words)}">\n'
            f'<p class="note">{escape(f"samples at step {step}")}</p>\n',
            f'<p><a href="#{mark}">{escape(words)}</a></p>\n',
        )
