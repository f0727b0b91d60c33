"""A run's scores over its steps as a small inline SVG."""

from __future__ import annotations

from html import escape

from msngan.leaderboard.ranking import best_of
from msngan.runs.score_records import Score

WIDTH, HEIGHT = 280, 96
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 18, 18  # room for the labels
POINTS = 300  # of one curve at the most


def sparkline(scores: dict[int, Score], metric: str, name: str) -> str:
    """An <svg>: the curve, gaps where a score failed, the best step marked, lowest and highest.

    scores: by step, in order. name: of the metric and the run, for the title. Without a sound
    score: a sentence that says so.
    """
    sound = {step: score.mean for step, score in scores.items() if score.mean is not None}
    if not sound:
        return '<p class="note">no sound score to draw</p>'
    best = best_of(scores.values(), metric)
    low, high = min(sound.values()), max(sound.values())
    first, last = min(scores), max(scores)

    def place(step: int) -> tuple[str, str]:
        x = (step - first) / (last - first) if last > first else 0.5
        y = (sound[step] - low) / (high - low) if high > low else 0.5
        x = LEFT + x * (WIDTH - LEFT - RIGHT)
        return f"{x:.1f}", f"{HEIGHT - BOTTOM - y * (HEIGHT - TOP - BOTTOM):.1f}"

    kept = _thinned(list(sound), keep={s for s, v in sound.items() if v in (low, high)})
    parts = []
    for piece in _pieces(list(scores), set(sound), kept):
        points = " ".join(",".join(place(step)) for step in piece)
        if len(piece) > 1:
            parts.append(f'<polyline class="curve" points="{points}"/>')
        else:
            x, y = place(piece[0])
            parts.append(f'<circle class="point" cx="{x}" cy="{y}" r="2"/>')
    words = f"{name}: {_count(len(scores), 'score')}, steps {first} to {last}"
    words += f"; lowest {low:.4g}, highest {high:.4g}"
    if best is not None:
        x, y = place(best.step)
        parts.append(f'<circle class="best" cx="{x}" cy="{y}" r="3.5"/>')
        words += f"; best {best.mean:.4g} at step {best.step}"
    if failed := len(scores) - len(sound):
        words += f"; {failed} failed"
    labels = [(LEFT, TOP - 6, "start", f"max {high:.4g}"), (LEFT, HEIGHT - 4, "start", str(first))]
    labels += [(WIDTH - RIGHT, TOP - 6, "end", f"min {low:.4g}")]
    labels += [(WIDTH - RIGHT, HEIGHT - 4, "end", f"step {last}")]
    parts += [
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        for x, y, anchor, text in labels
    ]
    return (
        f'<svg class="spark" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}"'
        f' height="{HEIGHT}"><title>{escape(words)}</title>{"".join(parts)}</svg>'
    )


def _thinned(steps: list[int], keep: set[int]) -> list[int]:
    """At most POINTS of the steps, evenly, with the first and last and a few of `keep`."""
    stride = -(-len(steps) // POINTS)
    chosen = {*steps[::stride], steps[-1], *sorted(keep)[:4]}
    return [step for step in steps if step in chosen]


def _pieces(steps: list[int], sound: set[int], kept: list[int]) -> list[list[int]]:
    """The kept steps, parted where a step between has no sound score."""
    chosen = set(kept)
    pieces: list[list[int]] = [[]]
    for step in steps:
        if step not in sound:
            pieces.append([])
        elif step in chosen:
            pieces[-1].append(step)
    return [piece for piece in pieces if piece]


def _count(number: int, word: str) -> str:
    return f"{number} {word}" + "s" * (number != 1)
