"""A GAN's sample grids beside the real images: the first, some between, and the last."""

from __future__ import annotations

from pathlib import Path

from msngan.report.html.leaderboard_markup import escape
from msngan.report.html.markup import missing, note
from msngan.report.html.pictures import NAME, small
from msngan.report.html.records import Records

SHOWN = 4  # grids of samples; the real images beside them
MOST_BYTES = 3 * 2**20  # that all pictures may add to a page
MOST_FILES = 100_000


class Budget:
    """What a page's pictures may still add to it, in bytes."""

    def __init__(self, left: int = MOST_BYTES) -> None:
        self.left = left

    def picture(self, path: Path, words: str, caption: str) -> str:
        """The PNG as a <figure>, or a note that says why it is not there."""
        try:
            made = small(path)
            if made.bytes > self.left:
                raise ValueError("the page's pictures are large enough")
        except ValueError as problem:
            return note(f"{path.name} left out: {problem}")
        self.left -= made.bytes
        return (
            f'<figure><figcaption>{escape(caption)}</figcaption>\n<img src="{made.data}"'
            f' width="{made.width}" height="{made.height}" alt="{escape(words)}"></figure>\n'
        )


def grids_html(records: Records, budget: Budget) -> str:
    folder = records.run.samples
    found = steps(folder)
    made = []
    if (folder / "real.png").is_file():
        words = f"real images that {records.name} is trained on"
        made.append(budget.picture(folder / "real.png", words, "real images"))
    for step, path in chosen(found):
        words = f"samples of {records.name} at step {step}"
        made.append(budget.picture(path, words, f"step {step:,}"))
    if not found:
        made.append(
            missing("There are no sample grids; a run draws one every --samples.every steps")
        )
    more = f"{len(found)} grids in samples/{records.name}/." if len(found) > SHOWN else ""
    return f'<div class="cards">\n{"".join(made)}</div>\n' + (note(more) if more else "")


def steps(folder: Path) -> list[tuple[int, Path]]:
    """The grids of a run in order of step."""
    found = []
    for path in folder.glob("step-*.png"):
        if match := NAME.fullmatch(path.name):
            found.append((int(match[1]), path))
        if len(found) >= MOST_FILES:
            break
    return sorted(found)


def chosen(found: list[tuple[int, Path]], most: int = SHOWN) -> list[tuple[int, Path]]:
    """The first, the last, and evenly what is between, `most` (2 or more) together."""
    if len(found) <= most:
        return found
    last = len(found) - 1
    return [found[round(index * last / (most - 1))] for index in range(most)]
