"""The model card beside an extractor's file: how good it is, and what real images score with it.

Weights without a model card cannot be judged: what were they trained on, how accurate are they, and
what does a perfect generator score? The model cards of the shipped residual extractors also hold
how their distances respond to blur, noise, JPEG, dropped classes and repeated images.
"""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict, replace
from pathlib import Path

from torch import Tensor

from msngan.runs.atomic import replacing
from msngan.runs.options import OWN_IMAGES
from msngan.scores import distances, embedded
from msngan.scores.embedded import EmbeddedExtractor, EmbedNet, Recipe
from msngan.scores.reference import DISTANCES, Score, in_random_order, real_data_scores, summary
from msngan.scores.scorer import Real, Scorer

Labelled = tuple[Tensor, Tensor]  # uint8 images (N, C, 32, 32) and int64 labels (N,)
SIZES = (500, 2000, 10_000)
MOST_RUNS = 5
COLUMNS = {"frechet": "FD", "kernel": "KD", **{role: role for role in DISTANCES[2:]}}
NETWORKS = {
    "residual": "a residual network of eight convolutions",
    "vgg7": "VGG-7 with batch norm, six convolutions without shortcuts",
}
LIMITS = (
    "It sees what distinguishes its classes, and little else: a flaw that no class shows costs"
    " nothing.",
    "It was trained on the very images that a generator imitates, so it rewards memorising them.",
    "Its score is capped by its number of classes and, for a good generator, by that of real data.",
    "Its scale is its own: only numbers of one name and one protocol compare; none is an FID.",
)
ESTIMATE = """

An *estimate* is given for sizes with too few test images. It is the bias of FD alone, from the
covariance of the training images; the difference of test from training images is not in it."""


def save_with_model_card(
    net: EmbedNet,
    path: Path,
    dataset: str,
    recipe: Recipe,
    train: Labelled,
    test: Labelled,
    held_out_accuracy: float,
) -> str:
    """Save `net`, which was trained on `train`, as `path`, and its model card beside it, as .md.

    Returns the model card. It is measured with the weights as stored: `net` is rounded to them.
    """
    net.load_state_dict(embedded.halved(net))
    metadata = {
        "dataset": dataset,
        "channels": str(train[0].shape[1]),
        "classes": str(net.head.out_features),
        "network": recipe.network,
        "widths": json.dumps(list(recipe.widths)),
        "recipe": json.dumps(asdict(recipe), sort_keys=True),
        "train_images": str(len(train[0])),
        "held_out_accuracy": f"{held_out_accuracy:.4f}",
        "test_accuracy": f"{embedded.accuracy(net, *test):.4f}",
    }
    embedded.save_extractor(net, path, metadata)
    text = _model_card(path, recipe, train[0], test[0])
    with replacing(path.with_suffix(".md")) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _model_card(path: Path, recipe: Recipe, train: Tensor, test: Tensor) -> str:
    extractor = EmbeddedExtractor.load(path)
    of = Real(train, test, extractor.metadata["dataset"], "train", None)
    scorer = Scorer(of, extractor=str(path), runs=MOST_RUNS)
    reference, protocol = scorer.reference, scorer.protocol
    real = {
        size: real_data_scores(
            reference, extractor, replace(protocol, samples=size), test, DISTANCES
        )
        for size in _sizes(len(test))
    }
    logits = extractor.features(test[in_random_order(len(test))]).logits
    scores = {"training": _scores(reference.logits.double()), "test": _scores(logits)}
    limits = list(LIMITS)
    found, chance = float(extractor.metadata["test_accuracy"]), 1 / extractor.classes
    if found < 2 * chance:
        limits.append(
            f"A test accuracy of {found:.4f} is near chance, {chance:.4f}: its scores mean little;"
            " train it longer, or give more images."
        )
    listed = "\n".join(_wrapped(f"- {each}", "  ") for each in limits)
    about = (
        f"An embedded feature extractor: {NETWORKS[recipe.network]}, trained to classify"
        f" {extractor.metadata['dataset']}. Its scores have its name, as"
        f" `{extractor.keys['frechet']}`: never FID, IS or KID."
    )
    return f"""\
# {extractor.name}

{_wrapped(about)}

{_facts(extractor, path, recipe, len(test), scores)}

## Real images

What real images score, and so about what a perfect generator would: Fréchet (FD) and kernel
distance (KD), precision, recall, density and coverage of test images against the training images,
classifier score (CS) of either; mean ± sd over (n) disjoint parts.

{_real_images(extractor, real, scores)}

## Known limits

{listed}
"""


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 100, subsequent_indent=indent, break_on_hyphens=False)


def _sizes(available: int) -> list[int]:
    """SIZES, and all test images if those are fewer than the largest."""
    return sorted({*SIZES, min(available, max(SIZES))})


def _scores(logits: Tensor) -> dict[int, Score]:
    """Number of images -> classifier score of disjoint parts, for SIZES and for all (N, K)."""
    result = {}
    for size in _sizes(len(logits)):
        if runs := min(MOST_RUNS, len(logits) // size):
            parts = logits[: runs * size].split(size)
            result[size] = summary([distances.inception_score(part) for part in parts])
    return result


def _facts(
    extractor: EmbeddedExtractor,
    path: Path,
    recipe: Recipe,
    test_images: int,
    scores: dict[str, dict[int, Score]],
) -> str:
    facts = extractor.metadata
    weights = sum(each.numel() for each in extractor.network.parameters())
    root = " --root ROOT" if facts["dataset"] in OWN_IMAGES else ""
    usual = embedded.RECIPES.get(facts["dataset"], recipe)
    given = ("network", "epochs", "batch_size", "seed")
    changed = [name for name in given if getattr(recipe, name) != getattr(usual, name)]
    asked = "".join(f" --{n.replace('_', '-')} {getattr(recipe, n)}" for n in changed)
    real = ", ".join(
        f"{each[max(each)]['mean']:.4g} of {max(each)} {split} images"
        for split, each in scores.items()
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
        "test accuracy": f"{facts['test_accuracy']}, on {test_images} images",
        "score of the real data": f"CS {real}; at most {extractor.classes}",
        "recipe": ", ".join(
            f"{key} {[*value] if isinstance(value, tuple) else value}"
            for key, value in sorted(asdict(recipe).items())
        ),
        "trained by": f"`msngan extractor fit --dataset {facts['dataset']}{root}{asked}`",
    }
    return _table(["", ""], [[name, value] for name, value in rows.items()])


def _real_images(
    extractor: EmbeddedExtractor,
    real: dict[int, dict[str, Score]],
    scores: dict[str, dict[int, Score]],
) -> str:
    rows = []
    for size, found in real.items():
        cells = [str(size), *(_cell(role, found.get(extractor.keys[role])) for role in COLUMNS)]
        rows.append(cells + [_cell("score", each.get(size)) for each in scores.values()])
    splits = [f"CS of {split}" for split in scores]
    table = _table(["images", *COLUMNS.values(), *splits], rows)
    return table + ESTIMATE if "estimate" in table else table


def _cell(role: str, score: Score | None) -> str:
    if score is None:
        return "–"
    if score.get("kind") == "estimated":
        return f"{score['mean']:.4g}, *estimate*"
    if role not in ("frechet", "kernel", "score"):
        return f"{score['mean']:.3f}"
    spread = "" if score["sd"] is None else f" ± {score['sd']:.2g}"
    return f"{score['mean']:.4g}{spread} ({len(score['values'])})"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" if any(cells) else "| | |" for cells in lines)
