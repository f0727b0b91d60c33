"""Where a run stands, what made it, what to do next, its options and its machine."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from msngan.report.html.defaults import differences, flat
from msngan.report.html.leaderboard_markup import escape, table
from msngan.report.html.markup import folded, lines_of, missing, note, pairs
from msngan.report.html.records import Records, whole
from msngan.runs.folder import Run
from msngan.runs.safe_read import read_up_to

LARGEST_CONFIG = 64 * 1024  # bytes
MOST_OPTIONS = 200


def state(records: Records) -> tuple[bool, str]:
    """Whether all is well, and a sentence on how far the run is and how it ended."""
    budget, epochs = whole(records.option("steps")), whole(records.option("epochs"))
    of = f" of {budget:,}" if budget is not None else ""
    if not of and records.task == "classifier" and epochs is not None:
        of = f" (budget: {epochs} epochs)"
    where = f"step {records.step:,}{of}"
    status = records.result.get("status")
    if status is not None:
        reason = records.result.get("reason")
        return status == "done", f"{status} at {where}" + (f": {reason}" if reason else "")
    if _at_its_end(records):
        return True, f"at {where}; no result.json says how it ended"
    return False, f"unfinished at {where}: it trains still, or was interrupted"


def state_html(records: Records) -> str:
    good, text = state(records)
    return f'<p class="state{"" if good else " bad"}">{escape(text[0].upper() + text[1:])}</p>\n'


def commands(records: Records) -> Iterator[tuple[str, str]]:
    """What to type next, most pressing first, and what it does."""
    name, root = shlex.quote(records.name), at(records.run.root)
    status = records.result.get("status")
    if status in ("diverged", "collapsed"):
        config = shlex.quote(str(records.environment.get("config") or "NAME"))
        rate = "lr" if records.task == "classifier" else "critic_lr"
        yield f"msngan fit --config {config} --model.{rate} 1e-4{root}", "try a lower learning rate"
    elif status is None and not _at_its_end(records):
        yield f"msngan resume {name}{root}", "continue it where it stopped"
    if records.task == "gan":
        if _has_checkpoint(records.run):
            yield f"msngan sample {name}{root}", "draw images"
            if not records.scores:
                yield f"msngan evaluate {name}{root}", "score it"
        yield f"msngan leaderboard{root}", "rank it among the other runs"
    if records.run.dynamics.is_file():
        yield f"msngan figures {name}{root}", "draw the paper's figures from its dynamics"
    yield f"msngan report {name}{root}", "write this page anew"


def at(root: Path) -> str:
    """The option that names the root, where it is not the folder that one is in."""
    return "" if root == Path() else f" --root {shlex.quote(str(root))}"


def commands_html(found: Iterator[tuple[str, str]]) -> str:
    return lines_of("\n".join(f"{command}  # {purpose}" for command, purpose in found), fold=True)


def made_by(records: Records) -> str:
    command = records.environment.get("command")
    if not command:
        return missing("The command that made it is not recorded: there is no environment.json")
    return lines_of(str(command), fold=True)


def config_html(records: Records) -> str:
    """The options that differ from the defaults, then the whole config, folded."""
    if records.config is None:
        return missing("There is no config.yaml, so its options are not known")
    rows = [list(row) for row in differences(records.config, records.task)]
    made = table(["option", "value", "default"], rows[:MOST_OPTIONS], frozenset())
    if not rows:
        made = note("Every option is at its default.")
    if len(rows) > MOST_OPTIONS:
        made += note(f"{len(rows) - MOST_OPTIONS} more differ; see the whole config.")
    try:
        text = read_up_to(records.run.config, LARGEST_CONFIG).decode(errors="replace")
    except (OSError, ValueError):
        return made
    return made + folded("The whole config.yaml", lines_of(text))


def environment_html(records: Records) -> str:
    """The machine and the versions, as environment.json has them."""
    if not records.environment:
        return missing("There is no environment.json, so the machine is not known")
    skipped = ("command", "config")
    rows = [
        (name, value.strip('"') if value != "null" else "none")
        for name, value in flat(records.environment)
        if name not in skipped
    ]
    return pairs(rows[:MOST_OPTIONS], ("what", "value"))


def _at_its_end(records: Records) -> bool:
    budget = whole(records.option("steps"))
    return budget is not None and records.step >= budget


def _has_checkpoint(run: Run) -> bool:
    try:
        return run.newest is not None
    except OSError:  # a folder that may not be read
        return False
