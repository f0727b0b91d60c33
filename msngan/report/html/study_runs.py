"""The runs of a study: one table of all, and each in short, to be opened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from msngan.report.html.accuracy import accuracy_html, best, epochs
from msngan.report.html.grids import Budget
from msngan.report.html.head import state, state_html
from msngan.report.html.leaderboard_markup import escape
from msngan.report.html.markup import note, percent
from msngan.report.html.pictures import last_grid
from msngan.report.html.records import ANY, Records, read_records, whole
from msngan.report.html.scores import headline, main_curve
from msngan.runs.folder import NAME, Run

MOST_OPENED = 100  # runs that are shown in short
MOST_ROWS = 1000


def runs_html(children: list[dict[str, Any]], root: Path, budget: Budget) -> str:
    """children: of a study's results, each with a name."""
    rows: list[list[str]] = []
    opened: list[str] = []
    for child in children[:MOST_ROWS]:
        run = Run(child["run"], root)
        known = bool(NAME.fullmatch(run.name)) and any((run.folder / n).is_file() for n in ANY)
        if known and len(opened) < MOST_OPENED:
            records = read_records(run)
            opened.append(_short(records, budget))
            words, newest = state(records)[1], _newest(records)
            link = f'<a href="#{anchor(run.name)}">{escape(run.name)}</a>'
        else:
            step = whole(child.get("step"))
            words = str(child.get("state")) + (f" at step {step:,}" if step else "")
            newest, link = "", escape(run.name)
        cells = [str(child.get(name)) for name in ("row", "column", "seed")]
        rows.append([link, *map(escape, [*cells, newest, words])])
    more = len(children) - len(rows)
    note_more = note(f"{more} more runs are left out.") if more > 0 else ""
    return _table(rows) + note_more + "".join(opened)


def anchor(name: str) -> str:
    """An id for a link, the same for the same name and for no other."""
    return "run-" + re.sub(r"[^A-Za-z0-9.-]", lambda match: f"_{ord(match[0]):x}_", name)


def _table(rows: list[list[str]]) -> str:
    """Of HTML cells, for the first is a link."""
    if not rows:
        return note("No run is known.")
    header = "".join(
        f"<th>{name}</th>" for name in ("run", "row", "column", "seed", "newest", "state")
    )
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>\n" for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead><tr>{header}</tr></thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def _short(records: Records, budget: Budget) -> str:
    inner = state_html(records)
    if records.task == "classifier":
        inner += accuracy_html(records)
    else:
        inner += main_curve(records)
        if found := last_grid(records.run.samples):
            step, path = found
            words = f"samples of {records.name} at step {step}"
            inner += budget.picture(path, words, f"step {step:,}")
    title = ": ".join(filter(None, [records.name, _newest(records) or state(records)[1]]))
    return (
        f'<details id="{anchor(records.name)}"><summary>{escape(title)}</summary>\n{inner}'
        "</details>\n"
    )


def _newest(records: Records) -> str:
    """The number that one looks for: accuracy at the best epoch by validation, or a score."""
    if records.task == "gan":
        return headline(records)
    found = epochs(records.accuracy.records) if records.accuracy is not None else []
    if not found:
        return ""
    each = best(found) or found[-1]
    return (
        f"test {percent(each.accuracy['test'])} at epoch {each.epoch:.4g} of {found[-1].epoch:.4g}"
    )
