"""The Markdown of an extractor's card: what was measured, in tables, and what follows from it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

from msngan.runs.safe_read import read_json
from msngan.scores.disturbances import DISTURBANCES
from msngan.scores.floors import Score
from msngan.scores.responses import IMAGES, Response, Row
from msngan.scores.shipped import EmbeddedExtractor

COLUMNS = {
    "frechet": "FD",
    "kernel": "KD",
    "score": "CS",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
}
LIMITS = (
    "It sees what tells its classes apart, and little else: a flaw that no class shows costs"
    " nothing.",
    "It was trained on the very images that a generator imitates, so it rewards memorising them.",
    "Its score is capped by its number of classes and, for a good generator, by that of real data.",
    "Its scale is its own: only numbers of one name and one protocol compare; none is an FID.",
)
ESTIMATE = """

An *estimate* stands where there are too few test images for that size. It is the bias of FD alone,
from the covariance of the training images; what tells test from training images comes on top."""


@dataclass(frozen=True)
class Evidence:
    """What was measured of the extractor in the file `path`.

    side: pixels of the test images before they were enlarged. floors: samples -> key -> score.
    real: "training", "test" -> number of images -> classifier score. enlarged: the Fréchet distance
    of test images blurred by one pixel after they were enlarged, None where they were not.
    """

    extractor: EmbeddedExtractor
    path: Path
    train_images: int
    test_images: int
    side: int
    accuracy: float
    floors: dict[int, dict[str, Score]]
    real: dict[str, dict[int, Score]]
    responses: list[Response]
    enlarged: float | None
    doubts: list[str]

    @property
    def notes(self) -> list[str]:
        """Where the file says of itself what was not found: other images, or another machine."""
        said, found = self.extractor.metadata["test_accuracy"], f"{self.accuracy:.4f}"
        trained = self.extractor.metadata["train_images"]
        notes = []
        if said != found:
            notes.append(f"the file says a test accuracy of {said}; measured now: {found}")
        if trained != str(self.train_images):
            notes.append(
                f"the file says that it was trained on {trained} images; these are"
                f" {self.train_images}, so the card may be measured on other data"
            )
        return notes


def markdown(evidence: Evidence) -> str:
    """The whole card."""
    extractor = evidence.extractor
    dataset = extractor.metadata["dataset"]
    tables = "\n\n".join(_response(each) for each in evidence.responses)
    return f"""\
# {extractor.name}

An embedded feature extractor: a residual network of eight convolutions, trained to classify
{dataset}. Its scores bear its name, as `{extractor.keys["frechet"]}`: never FID, IS or KID.

{_facts(evidence)}

## Real images

What real images score, and so about what a perfect generator would: Fréchet (FD) and kernel
distance (KD), precision, recall, density and coverage of test images against the training images,
classifier score (CS) of either; mean ± sd over (n) disjoint parts.

{_floors(evidence)}

## Disturbed images

{_disturbed(evidence)}

{tables}

## Known limits

{_limits(evidence)}
"""


def _facts(evidence: Evidence) -> str:
    extractor, path = evidence.extractor, evidence.path
    facts = extractor.metadata
    recipe = ", ".join(f"{key} {value}" for key, value in read_json(facts["recipe"]).items())
    weights = sum(each.numel() for each in extractor.network.parameters())
    root = " --root DIR" if facts["dataset"] == "folder" else ""
    real = ", ".join(
        f"{scores[max(scores)]['mean']:.4g} of {max(scores)} {split} images"
        for split, scores in evidence.real.items()
    )
    rows = {
        "file": f"{path.name}, {path.stat().st_size:,} bytes",
        "sha256": extractor.weights_sha256,
        "input": f"uint8 {extractor.channels} x {extractor.size} x {extractor.size}"
        f" ({extractor.resize})",
        "features": str(extractor.dimensions),
        "classes": str(extractor.classes),
        "parameters": f"{weights:,}, float16 in the file, float32 in memory",
        "trained on": f"{facts['train_images']} images of {facts['dataset']}, a tenth of them"
        " held out",
        "held-out accuracy": facts["held_out_accuracy"],
        "test accuracy": f"{evidence.accuracy:.4f}, on {evidence.test_images} images",
        "score of the real data": f"CS {real}; at most {extractor.classes}",
        "recipe": recipe,
        "trained by": f"`msngan extractor fit --dataset {facts['dataset']}{root}`",
        "measured by": f"`msngan extractor card {path.name}{root}`",
    }
    return _table(["", ""], [[name, value] for name, value in rows.items()])


def _floors(evidence: Evidence) -> str:
    keys = evidence.extractor.keys
    distances = {role: name for role, name in COLUMNS.items() if role != "score"}
    rows = []
    for size, found in evidence.floors.items():
        cells = [str(size)]
        cells += [_floor(role, found.get(keys[role])) for role in distances]
        cells += [_with_count(scores.get(size)) for scores in evidence.real.values()]
        rows.append(cells)
    splits = [f"CS of {split}" for split in evidence.real]
    table = _table(["images", *distances.values(), *splits], rows)
    return table + ESTIMATE if "estimate" in table else table


def _floor(role: str, score: Score | None) -> str:
    if score is None:
        return "–"
    if score["kind"] == "estimated":
        return f"{score['mean']:.4g}, *estimate*"
    return _with_count(score) if role in ("frechet", "kernel") else _cell(role, score)


def _with_count(score: Score | None) -> str:
    return "–" if score is None else f"{_number(score)} ({len(score['values'])})"


def _cell(role: str, score: Score) -> str:
    if role == "frechet":
        return _number(score)
    return f"{score['mean']:.4g}" if role in ("kernel", "score") else f"{score['mean']:.3f}"


def _number(score: Score) -> str:
    spread = "" if score["sd"] is None else f" ± {score['sd']:.2g}"
    return f"{score['mean']:.4g}{spread}"


def _disturbed(evidence: Evidence) -> str:
    rising = [each.name for each in evidence.responses if not each.falls]
    others = [each.name for each in evidence.responses if each.falls]
    text = (
        f"{min(IMAGES, evidence.test_images)} test images of {evidence.side} x {evidence.side}"
        " pixels, undisturbed (none) and then worse from row to row, against the training images."
    )
    if rising:
        text += f" FD rises with every level of {_and(rising)}."
    if others:
        text += f" FD does not rise with every level of {_and(others)}."
    text += (
        " All rows are of the same images: a rise below the spread of the floors above is still the"
        " disturbance's, but between two generators it would be lost."
    )
    return textwrap.fill(text, 100)


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _response(response: Response) -> str:
    kind = DISTURBANCES[response.name]
    draws = f"; mean ± sd of {kind.draws} draws" if kind.draws > 1 else ""
    roles = [role for role in COLUMNS if role in response.rows[0].numbers]
    rows = [
        [_level(row), *(_cell(role, row.numbers[role]) for role in roles)] for row in response.rows
    ]
    table = _table([response.name, *(COLUMNS[role] for role in roles)], rows)
    return f"**{response.name}** ({kind.words}{draws}). {_said(response)}\n\n{table}"


def _said(response: Response) -> str:
    """In words, whether the Fréchet distance rises, as the table below shows it."""
    if not response.falls:
        return "FD rises with every level."
    places = [
        f"from {_level(mild)} to {_level(strong)} ({mild.shown:g} to {strong.shown:g})"
        for mild, strong in response.falls
    ]
    return f"FD does not rise {_and(places)}."


def _level(row: Row) -> str:
    return "none" if row.level is None else f"{row.level:g}"


def _limits(evidence: Evidence) -> str:
    side, size = evidence.side, evidence.extractor.size
    limits = [
        *LIMITS,
        *(f"{each.name}: {_said(each)}" for each in evidence.responses if each.falls),
    ]
    if evidence.enlarged is not None:
        limits.append(
            f"Images of {side} x {side} are enlarged to {size} x {size}, and a flaw finer than one"
            " of their own pixels is hardly seen: a blur of sigma 1 after enlarging has FD"
            f" {evidence.enlarged:.4g}, none {evidence.responses[0].rows[0].shown:g}."
        )
    limits += [f"{doubt[0].upper()}{doubt[1:]}." for doubt in evidence.doubts]
    limits += [f"Not as the file has it: {note}." for note in evidence.notes]
    return "\n".join(
        textwrap.fill(f"- {each}", 100, subsequent_indent="  ", break_on_hyphens=False)
        for each in limits
    )


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" if any(cells) else "| | |" for cells in lines)
