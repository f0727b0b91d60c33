"""What the sections of a page are made of, and the style that they add to the shared one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msngan.report.html.leaderboard_markup import escape, table

STYLE = """
:root { --c0: #0072b2; --c1: #d55e00; --c2: #008a65; --c3: #b3568c; --c4: #1a1c1f; }
@media (prefers-color-scheme: dark) {
  :root { --c0: #56b4e9; --c1: #e69f00; --c2: #2dbd92; --c3: #cc79a7; --c4: #f0e442; } }
body { padding: 1rem clamp(.8rem, 3vw, 1.5rem); box-sizing: border-box; }
h1 { overflow-wrap: anywhere; } h3 { margin: 1.8rem 0 .4rem; } h4 { margin: 1.2rem 0 .3rem; }
section { margin-top: 2rem; } section.run { border-top: 2px solid var(--line); }
.charts { display: grid; gap: 1rem; margin: .8rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
figure.chart { width: auto; max-width: 30rem; padding: .6rem; box-sizing: border-box; }
.chart > svg { display: block; width: 100%; height: auto; }
.chart text { font-size: 11px; fill: var(--soft); }
.unit { font-weight: 400; color: var(--soft); }
.grid { stroke: var(--line); } .axis { stroke: var(--soft); fill: none; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .band { opacity: .18; }
.level { stroke: var(--soft); stroke-dasharray: 2 4; stroke-width: 1.5; }
.ring { fill: none; stroke: var(--best); stroke-width: 2; }
.line.c0 { stroke: var(--c0); } .line.c1 { stroke: var(--c1); } .line.c2 { stroke: var(--c2); }
.line.c3 { stroke: var(--c3); } .line.c4 { stroke: var(--c4); }
.point.c0, .band.c0 { fill: var(--c0); } .point.c1, .band.c1 { fill: var(--c1); }
.point.c2, .band.c2 { fill: var(--c2); } .point.c3, .band.c3 { fill: var(--c3); }
.point.c4, .band.c4 { fill: var(--c4); }
.d1 { stroke-dasharray: 6 3; } .d2 { stroke-dasharray: 2 2; } .d3 { stroke-dasharray: 8 2 2 2; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem .8rem; list-style: none; margin: .3rem 0 0;
  padding: 0; font-size: .85rem; } .legend li { color: var(--ink); overflow-wrap: anywhere; }
pre { background: var(--band); padding: .6rem .8rem; margin: .3rem 0; overflow-x: auto;
  border-radius: 6px; font-size: .85rem; }
pre.fold { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--curve); }
.state { font-weight: 600; padding: .5rem .8rem; border-left: 4px solid var(--curve);
  background: var(--band); } .state.bad { border-color: var(--best); }
.cards figure { max-width: 100%; box-sizing: border-box; }
.pair td:first-child { color: var(--soft); } nav ul { padding-left: 1.2rem; }
@media (max-width: 480px) { th, td { padding: .2rem .4rem; } .cards { gap: .5rem; }
  .cards figure { width: calc(50% - .25rem); padding: .4rem; } }
@media print { body { max-width: none; } figure, tr, pre { break-inside: avoid; }
  details::details-content { content-visibility: visible; display: block; }
  .scroll { overflow: visible; } td, th { white-space: normal; } }
"""


def heading(level: int, text: str, mark: str = "") -> str:
    """mark: the id that a link leads to."""
    anchor = f' id="{escape(mark)}"' if mark else ""
    return f"<h{level}{anchor}>{escape(text)}</h{level}>\n"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>\n'


def missing(what: str, command: str = "") -> str:
    """That a record is not there, and the command that makes it."""
    return note(f"{what}{': ' if command else '.'}{command}")


def lines_of(text: str, fold: bool = False) -> str:
    """Text line by line, as it stands in a file or on a command line."""
    kind = ' class="fold"' if fold else ""
    return f"<pre{kind}>{chr(10).join(map(escape, text.splitlines()))}</pre>\n"


def folded(summary: str, html: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>\n{html}</details>\n"


def pairs(rows: Iterable[tuple[str, str]], columns: tuple[str, str]) -> str:
    """A table of names and values; nothing where there are none."""
    made = [[name, value] for name, value in rows]
    return table([*columns], made, frozenset()) if made else ""


def numbers(columns: list[str], rows: Sequence[list[str]], left: int = 1) -> str:
    """A table whose columns after the first `left` are set to the right."""
    return table(columns, [*rows], frozenset(columns[left:])) if rows else ""


def shown(value: float | None, digits: int = 4) -> str:
    """A number in a cell; a dash for none and for NaN."""
    return "–" if value is None or value != value else f"{value:.{digits}g}"


def percent(fraction: float | None) -> str:
    return "–" if fraction is None or fraction != fraction else f"{100 * fraction:.2f} %"
