"""An extractor's file with the card that says how good it is.

Weights without a card cannot be judged: what was it trained on, what does it see, and what does a
perfect generator score with it?
"""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from msngan.metrics.embedded import EmbedNet
from msngan.metrics.fitting import Recipe, accuracy
from msngan.metrics.floors import Score, floors
from msngan.metrics.protocol import Protocol
from msngan.metrics.reference import Reference
from msngan.metrics.shipped import EmbeddedExtractor, halved, save_extractor

SIZES = (500, 2000, 10_000)
MOST_RUNS = 5
LIMITS = """\
- It sees what tells its classes apart, and little else: a flaw that no class shows costs nothing.
- It was trained on the very images that a generator imitates, so it rewards memorising them.
- Its score is capped by its number of classes and, for a good generator, by that of real data.
- Its scale is its own: only numbers of one name and one protocol compare, and none with an FID."""


def save_with_card(
    net: EmbedNet,
    path: Path,
    dataset: str,
    recipe: Recipe,
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    held_out_accuracy: float,
) -> str:
    """Save `net` as `path` and its card beside it, as .md; returns the card.

    train, test: uint8 images (N, C, 32, 32) and int64 labels (N,); `net` was trained on the first.
    Test accuracy is measured here, with the weights as the file has them: `net` is rounded to them.
    """
    rounded = {
        name: value.float() if value.is_floating_point() else value
        for name, value in halved(net).items()
    }
    net.load_state_dict(rounded)
    metadata = {
        "dataset": dataset,
        "channels": str(train[0].shape[1]),
        "classes": str(net.head.out_features),
        "widths": json.dumps(list(recipe.widths)),
        "recipe": json.dumps(recipe.as_dict(), sort_keys=True),
        "train_images": str(len(train[0])),
        "held_out_accuracy": f"{held_out_accuracy:.4f}",
        "test_accuracy": f"{accuracy(net, *test):.4f}",
    }
    save_extractor(net, path, metadata)
    extractor = EmbeddedExtractor.load(path)
    reference = Reference.of(train[0], extractor)
    rows = [
        _row(size, _floors_at(size, extractor, reference, dataset, test[0]), extractor)
        for size in _sizes(len(test[0]))
    ]
    card = _text(extractor, path, len(test[0]), rows)
    path.with_suffix(".md").write_text(card, encoding="utf-8")
    return card


def _sizes(available: int) -> list[int]:
    """Those of SIZES for which there are images, or all images where they are fewer than 500."""
    return [size for size in SIZES if size <= available] or [available]


def _floors_at(
    samples: int, extractor: EmbeddedExtractor, reference: Reference, dataset: str, test: Tensor
) -> dict[str, Score]:
    protocol = Protocol(
        name="card",
        runs=MOST_RUNS,
        samples=samples,
        splits=1,
        dataset=dataset,
        split="train",
        reference_images=reference.count,
        reference_sha256=reference.sha256,
        size=extractor.size,
        channels=extractor.channels,
        extractor=extractor.name,
        official_inception=False,
        resize=extractor.resize,
    )
    return floors(reference, extractor, protocol, test)


def _row(samples: int, measured: dict[str, Score], extractor: EmbeddedExtractor) -> str:
    cells = []
    for kind in ("frechet", "kernel", "score"):
        score = measured[extractor.keys[kind]]
        spread = "" if score["sd"] is None else f" ± {score['sd']:.2g}"
        cells.append(f"{score['mean']:.4g}{spread} ({len(score['values'])})")
    return f"| {samples} | {' | '.join(cells)} |"


def _text(extractor: EmbeddedExtractor, path: Path, test_images: int, rows: list[str]) -> str:
    facts = extractor.metadata
    recipe = ", ".join(f"{key} {value}" for key, value in json.loads(facts["recipe"]).items())
    weights = sum(each.numel() for each in extractor.network.parameters())
    table = "\n".join(rows)
    key = extractor.keys["frechet"]
    return f"""\
# {extractor.name}

An embedded feature extractor: a residual network of eight convolutions, trained to classify
{facts["dataset"]}. Its scores bear its name, as `{key}`: never FID, IS or KID.

| | |
|---|---|
| file | {path.name}, {path.stat().st_size:,} bytes |
| sha256 | {extractor.weights_sha256} |
| input | uint8 {extractor.channels} x {extractor.size} x {extractor.size} ({extractor.resize}) |
| features | {extractor.dimensions} |
| classes | {extractor.classes} |
| parameters | {weights:,}, float16 in the file, float32 in memory |
| trained on | {facts["train_images"]} images of {facts["dataset"]}, a tenth of them held out |
| held-out accuracy | {facts["held_out_accuracy"]} |
| test accuracy | {facts["test_accuracy"]}, on {test_images} images |
| recipe | {recipe} |
| command | `msngan extractor fit --dataset {facts["dataset"]}` |

What real images score, and so about what a perfect generator would: Fréchet (FD) and kernel
distance (KD) of test images to all training images, classifier score (CS) of training images; mean
± sd over (n) disjoint parts.

| images | FD | KD | CS |
|---|---|---|---|
{table}

Known limits:

{LIMITS}
"""
