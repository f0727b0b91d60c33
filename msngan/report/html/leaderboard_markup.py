"""The frame of a page that stands alone: no script, no network, light and dark.

Every text that comes in is escaped here; what is called `html` is markup of this package's own.
The policy in the head forbids a browser to load anything, whatever a file's text contains.
"""

from __future__ import annotations

import html as markup
import re
from collections.abc import Iterable
from pathlib import Path

from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
ADDRESS = re.compile(r"https://[A-Za-z0-9./_~#%?=&+-]*[A-Za-z0-9/_~#-]")
LONG = 40  # characters of a cell that may fold
STYLE = """
:root { color-scheme: light dark; --ink: #1a1c1f; --soft: #5c6470; --line: #d5dae1;
  --back: #ffffff; --band: #f4f6f8; --curve: #2f6fb5; --best: #c2410c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #9aa4b2; --line: #363d47;
  --back: #14171b; --band: #1c2127; --curve: #7db3ee; --best: #f59e5b; } }
body { margin: 0 auto; padding: 1.5rem; max-width: 78rem; background: var(--back);
  color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
h2, h3 { overflow-wrap: anywhere; }
p { margin: .2rem 0; overflow-wrap: anywhere; } .note, li { color: var(--soft); }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
td.long { min-width: 16rem; max-width: 26rem; white-space: normal; overflow-wrap: anywhere; }
th.right, td.right { text-align: right; } thead th { background: var(--band); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
figure { margin: 0; padding: .7rem; width: 280px; border: 1px solid var(--line);
  border-radius: 6px; } figcaption { overflow-wrap: anywhere; font-weight: 600; }
figure img { width: 100%; height: auto; display: block; image-rendering: auto; }
.spark text { font-size: 11px; fill: var(--soft); } .spark { max-width: 100%; }
.curve { fill: none; stroke: var(--curve); stroke-width: 1.5; } .point { fill: var(--curve); }
.best { fill: none; stroke: var(--best); stroke-width: 2; } a { color: var(--curve); }
"""


def escape(text: str) -> str:
    """Text as HTML: no markup, nothing unprintable."""
    return markup.escape("".join(each if each.isprintable() else " " for each in text))


def linked(text: str) -> str:
    """Text as HTML, its https addresses as links. Only for texts of this package."""
    made, start = [], 0
    for match in ADDRESS.finditer(text):
        made.append(escape(text[start : match.start()]))
        made.append(f'<a href="{escape(match[0])}" rel="noreferrer">{escape(match[0])}</a>')
        start = match.end()
    return "".join([*made, escape(text[start:])])


def paragraphs(texts: Iterable[str], kind: str = "") -> str:
    opened = f'<p class="{kind}">' if kind else "<p>"
    return "".join(f"{opened}{escape(text)}</p>\n" for text in texts)


def bullets(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f"<ul>\n{items}</ul>\n" if items else ""


def table(columns: list[str], rows: list[list[str]], right: frozenset[str]) -> str:
    """Text cells; the columns named in `right` are set to the right, long cells fold."""

    def line(tag: str, cells: list[str]) -> str:
        made = []
        for name, cell in zip(columns, cells, strict=True):
            kind = "right" if name in right else "long" if len(cell) > LONG else ""
            opened = f'{tag} class="{kind}"' if kind else tag
            made.append(f"<{opened}>{escape(cell)}</{tag}>")
        return f"<tr>{''.join(made)}</tr>\n"

    body = "".join(line("td", row) for row in rows)
    return (
        f'<div class="scroll"><table>\n<thead>{line("th", columns)}</thead>\n'
        f"<tbody>\n{body}</tbody></table></div>\n"
    )


def write(path: Path, title: str, body_html: str, style: str = "", option: str = "--html") -> None:
    """The whole page, so that a reader of `path` sees the old one or the new.

    style: CSS after the shared one. option: what UserError names if the page cannot be written.
    """
    text = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{body_html}</body>\n</html>\n"
    )
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise UserError(f"{option} {str(path)!r}: {problem.strerror or problem}") from problem
