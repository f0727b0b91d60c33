"""An extractor's file with the card that says how good it is.

Weights without a card cannot be judged: what was it trained on, what does a perfect generator score
with it, and do its numbers notice what a person notices?
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from msngan.data import images as convert
from msngan.runs.atomic import replacing
from msngan.runs.folder import UserError
from msngan.scores import core
from msngan.scores.card_text import Evidence, markdown
from msngan.scores.embedded import EmbedNet
from msngan.scores.fitting import Recipe, accuracy
from msngan.scores.floors import DISTANCES, Score, floors, summary
from msngan.scores.protocol import Protocol
from msngan.scores.reference import Reference, in_random_order
from msngan.scores.responses import enlarged_blur, responses
from msngan.scores.shipped import SIZE, EmbeddedExtractor, halved, save_extractor

Labelled = tuple[Tensor, Tensor]  # uint8 images (N, C, H, W) and int64 labels (N,)
Report = Callable[[str], None]  # is told what is being measured
SIZES = (500, 2000, 10_000)
MOST_RUNS = 5


def _silent(what: str) -> None:
    pass


@dataclass(frozen=True)
class Card:
    """text: Markdown. notes: lines on what the file says of itself and was not found so."""

    text: str
    notes: list[str]


def save_with_card(
    net: EmbedNet,
    path: Path,
    dataset: str,
    recipe: Recipe,
    train: Labelled,
    test: Labelled,
    held_out_accuracy: float,
    report: Report = _silent,
) -> Card:
    """Save `net`, which was trained on `train`, as `path`, and its card beside it, as .md.

    Test accuracy is measured here, with the weights as the file has them: `net` is rounded to them.
    """
    rounded = {
        name: value.float() if value.is_floating_point() else value
        for name, value in halved(net).items()
    }
    net.load_state_dict(rounded)
    found = accuracy(net, convert.resize(test[0], SIZE), test[1])
    metadata = {
        "dataset": dataset,
        "channels": str(train[0].shape[1]),
        "classes": str(net.head.out_features),
        "widths": json.dumps(list(recipe.widths)),
        "recipe": json.dumps(recipe.as_dict(), sort_keys=True),
        "train_images": str(len(train[0])),
        "held_out_accuracy": f"{held_out_accuracy:.4f}",
        "test_accuracy": f"{found:.4f}",
    }
    save_extractor(net, path, metadata)
    return write_card(path, train[0], test, report)


def write_card(path: Path, train: Tensor, test: Labelled, report: Report = _silent) -> Card:
    """Measure the extractor in `path` and write its card beside it, as .md; the file stays.

    train: its training images, uint8 (M, C, H, W). test: others of their kind with labels, which
    are disturbed in the size that they have here; UserError for fewer than 2.
    """
    images, labels = test
    if len(images) < 2:
        raise UserError(f"a card needs at least 2 test images, not {len(images)}; give more images")
    extractor = EmbeddedExtractor.load(path)
    report("the training images")
    reference = Reference.of(train, extractor)
    report("the test images")
    order = in_random_order(len(images))
    logits = extractor.features(images[order]).logits
    protocol = _protocol(extractor, reference, images)
    measured = {
        size: floors(reference, extractor, replace(protocol, samples=size), images, DISTANCES)
        for size in _sizes(len(images))
    }
    accuracy = float((logits.argmax(1) == labels[order]).double().mean())
    evidence = Evidence(
        extractor=extractor,
        path=path,
        train_images=len(train),
        test_images=len(images),
        side=images.shape[-1],
        accuracy=accuracy,
        floors=measured,
        real={"training": _scores(reference.logits.double()), "test": _scores(logits)},
        responses=responses(extractor, reference, protocol, images, labels, report),
        enlarged=enlarged_blur(extractor, reference, images),
        doubts=_doubts(accuracy, 1 / extractor.classes),
    )
    card = Card(markdown(evidence), [*evidence.notes, *evidence.doubts])
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(card.text, encoding="utf-8")
    return card


def _doubts(accuracy: float, chance: float) -> list[str]:
    if accuracy >= 2 * chance:
        return []
    return [
        f"a test accuracy of {accuracy:.4f} is near chance, {chance:.4f}: its scores mean little;"
        " train it longer, or give more images"
    ]


def _sizes(available: int) -> list[int]:
    """SIZES, and all test images where those are fewer than the largest."""
    return sorted({*SIZES, min(available, max(SIZES))})


def _scores(logits: Tensor) -> dict[int, Score]:
    """Number of images -> classifier score of disjoint parts, for SIZES and for all (N, K)."""
    result = {}
    for size in _sizes(len(logits)):
        if runs := min(MOST_RUNS, len(logits) // size):
            parts = logits[: runs * size].split(size)
            result[size] = summary([core.inception_score(part) for part in parts])
    return result


def _protocol(extractor: EmbeddedExtractor, reference: Reference, images: Tensor) -> Protocol:
    return Protocol(
        name="card",
        runs=MOST_RUNS,
        samples=SIZES[0],
        splits=1,
        dataset=extractor.metadata["dataset"],
        split="train",
        reference_images=reference.count,
        reference_sha256=reference.sha256,
        size=images.shape[-1],
        channels=images.shape[1],
        extractor=extractor.name,
        official_inception=False,
        resize=extractor.resize,
    )
