"""The page: of one run or study, or of several one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msngan.report.html.accuracy import accuracy_html
from msngan.report.html.curves import curves
from msngan.report.html.dynamics import dynamics_html
from msngan.report.html.gates import gates_html
from msngan.report.html.grids import Budget, grids_html
from msngan.report.html.head import (
    commands,
    commands_html,
    config_html,
    environment_html,
    made_by,
    state_html,
)
from msngan.report.html.leaderboard_markup import bullets, escape, write
from msngan.report.html.markup import STYLE, heading, note
from msngan.report.html.records import Records, read_records
from msngan.report.html.scores import scores_html
from msngan.report.html.study import Tables, study_html
from msngan.report.html.study_runs import anchor
from msngan.runs.folder import Run, now

KINDS = {"gan": "GAN", "classifier": "classifier"}


def write_page(path: Path, subjects: Sequence[tuple[Run, bool]], tables: Tables) -> None:
    """A page of runs and, where the flag is set, studies. UserError if it cannot be written."""
    budget = Budget()
    one = len(subjects) == 1
    parts = []
    for run, is_study in subjects:
        level = 2 if one else 3
        made = study_html(run, level, budget, tables) if is_study else run_html(run, level, budget)
        parts.append(made)
    names = [run.name for run, _ in subjects]
    written = note(f"Written {now()} from the records in {subjects[0][0].folder.parent}.")
    if one:
        body = parts[0]
        title = f"{'Study' if subjects[0][1] else 'Run'} {names[0]}"
    else:
        title = "msngan report"
        body = contents(names) + "".join(
            f'<section class="run">\n{heading(2, name, anchor(name))}{part}</section>\n'
            for name, part in zip(names, parts, strict=True)
        )
    write(path, title, written + body, STYLE, "--out")


def run_html(run: Run, level: int, budget: Budget) -> str:
    """Everything that a run's records say, its headings from `level` on."""
    records = read_records(run)
    scored = records.task == "gan" or bool(records.scores)
    sections: list[tuple[str, str]] = [
        ("Accuracy", accuracy_html(records) if records.task == "classifier" else ""),
        ("Samples", grids_html(records, budget) if records.task == "gan" else ""),
        ("Scores", scores_html(records, level + 1) if scored else ""),
        ("Training curves", curves(records)),
        ("Dynamics", dynamics_html(records, level + 1)),
        ("Gates", gates_html(records)),
        ("Options", config_html(records)),
        ("Environment", environment_html(records)),
        ("What could not be read", bullets(records.problems)),
    ]
    told = "".join(
        f"<section>\n{heading(level, title)}{html}</section>\n" for title, html in sections if html
    )
    return lead(records) + told


def lead(records: Records) -> str:
    """State, the command that made the run and the next one: what one looks for first."""
    about = [KINDS[records.task]]
    named = [("network", "model.network"), ("norm", "model.norm"), ("data", "data.dataset")]
    about += [
        f"{word} {value}"
        for word, option in named
        if isinstance(value := records.option(option), str)
    ]
    if isinstance(seed := records.option("seed"), int):
        about.append(f"seed {seed}")
    return (
        note(", ".join(about))
        + state_html(records)
        + f"<p>Made by</p>\n{made_by(records)}<p>Next</p>\n"
        + commands_html(commands(records))
    )


def contents(names: Sequence[str]) -> str:
    items = "".join(f'<li><a href="#{anchor(name)}">{escape(name)}</a></li>\n' for name in names)
    return f'<nav aria-label="contents"><ul>\n{items}</ul></nav>\n'
