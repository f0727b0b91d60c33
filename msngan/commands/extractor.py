"""`msngan extractor`: train a feature extractor, measure it for its card, or list those shipped."""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msngan.commands.parser import Parser
from msngan.report.tables.table import FORMATS, Table, print_as
from msngan.runs.folder import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from msngan.scores.fitting import Recipe

    Labelled = tuple[Tensor, Tensor]

DESCRIPTION = """\
An extractor turns images into the features that scores are computed from. One is shipped for some
data sets; `fit` trains one for any data set with labels, which takes minutes, and writes a card
that says how good it is; `card` measures that again. Its numbers are never called FID or IS, and
those of two extractors cannot be compared. Images without labels cannot train one: score them with
a shipped extractor or with Inception (`msngan evaluate --extractor embedded` or `inception`)."""
# Where a data set's own images are smaller than the network's. Disturbed after they were enlarged,
# they would hold nothing as fine as a mild blur.
OWN_SIZE = {"digits": 8}
COLUMNS = ["data set", "name", "features", "classes", "channels", "test accuracy", "file"]


def parser() -> Parser:
    made = Parser(prog="msngan extractor", description=DESCRIPTION)
    commands = made.add_subparsers(dest="command", required=True, metavar="fit|card|list")
    fit = commands.add_parser("fit", help="train one and write it with its card")
    fit.add_argument("--dataset", required=True, metavar="NAME", help="cifar10, folder, ...")
    fit.add_argument("--root", metavar="DIR", help="the data's folder; default: MSNGAN_DATA")
    fit.add_argument("--epochs", type=_count, metavar="N", help="default: the data set's recipe")
    fit.add_argument("--batch-size", type=_count, metavar="N", help="default: the recipe's")
    fit.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    fit.add_argument(
        "--out", type=Path, metavar="FILE", help="default: ./NAME.safetensors, its card beside it"
    )
    fit.add_argument("--no-download", action="store_true", help="use only files at hand")
    card = commands.add_parser("card", help="measure one again and rewrite its card")
    card.add_argument("file", type=Path, metavar="FILE", help="a .safetensors file that fit wrote")
    card.add_argument("--dataset", metavar="NAME", help="default: the one that the file names")
    card.add_argument("--root", metavar="DIR", help="the data's folder; default: MSNGAN_DATA")
    card.add_argument("--no-download", action="store_true", help="use only files at hand")
    shown = commands.add_parser("list", help="the shipped extractors")
    shown.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    return made


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1")
    return int(text)


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.command == "list":
        return show(args.format)
    return fit(args) if args.command == "fit" else card(args)


def fit(args: argparse.Namespace) -> int:
    out = _free(args.out or Path(f"{args.dataset}.safetensors"))
    from msngan.scores.card import save_with_card
    from msngan.scores.fitting import fit_extractor

    train, test = _labelled(args.dataset, args.root, not args.no_download)
    recipe = _recipe(args, len(train[0]))
    start = time.monotonic()

    def report(epoch: int, loss: float, held_out: float) -> None:
        print(
            f"epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}, held-out accuracy"
            f" {held_out:.2%}, {time.monotonic() - start:.0f} s",
            flush=True,
        )

    print(f"{args.dataset}: {len(train[0])} training and {len(test[0])} test images", flush=True)
    net, held_out = fit_extractor(*train, recipe, report)
    made = save_with_card(net, out, args.dataset, recipe, train, test, held_out, _measuring)
    print(f"\n{made.text}\nwritten: {out} and {out.with_suffix('.md')}")
    print(f"use it: msngan fit --config NAME --scores.extractor {out}")
    return 0


def card(args: argparse.Namespace) -> int:
    file = _carded(args.file)
    from msngan.scores.card import write_card
    from msngan.scores.shipped import EmbeddedExtractor

    facts = EmbeddedExtractor.load(file).metadata
    dataset = facts["dataset"]
    if args.dataset not in (None, dataset):
        raise UserError(
            f"{file} was trained on {dataset}; a card measured on {args.dataset} would mislead, so"
            " leave out --dataset"
        )
    train, test = _labelled(dataset, args.root, not args.no_download)
    if (classes := int(train[1].max()) + 1) != int(facts["classes"]):
        raise UserError(
            f"the images have {classes} classes, and {file} was trained on {facts['classes']};"
            " give --root the images that it was trained on"
        )
    made = write_card(file, train[0], test, _measuring)
    print(f"\n{made.text}\nwritten: {file.with_suffix('.md')}")
    for note in made.notes:
        print(f"note: {note}")
    return 0


def _measuring(what: str) -> None:
    print(f"measuring: {what}", flush=True)


def _free(out: Path) -> Path:
    """A path that can be written, checked before minutes of training."""
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end in .safetensors, by which scores know extractors")
    for path in (out, out.with_suffix(".md")):
        if path.exists():
            raise UserError(f"{path} exists; give another --out, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"--out: no folder {out.parent}; make it first")
    if not os.access(out.parent, os.W_OK):
        raise UserError(f"--out: {out.parent} cannot be written; give another --out")
    return out


def _carded(file: Path) -> Path:
    """A file beside which a card can be written, checked before torch is loaded."""
    if not file.is_file():
        raise UserError(
            f"no extractor file {file}; make one with `msngan extractor fit --dataset NAME`"
        )
    if file.suffix != ".safetensors":
        raise UserError(f"{file} does not end in .safetensors, as the files of extractors do")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{file.parent} cannot be written; copy {file.name} to a folder of yours")
    return file


def _recipe(args: argparse.Namespace, images: int) -> Recipe:
    from msngan.scores.recipes import RECIPES

    recipe = replace(RECIPES[args.dataset], seed=args.seed)
    recipe = replace(
        recipe,
        epochs=args.epochs or recipe.epochs,
        batch_size=args.batch_size or recipe.batch_size,
    )
    trained = images - images // 10  # the rest is held out
    if images < 20 or trained < recipe.batch_size:
        raise UserError(
            f"{images} labelled images are too few for batches of {recipe.batch_size}; give more"
            " (20 at the least) or a smaller --batch-size"
        )
    return recipe


def _labelled(dataset: str, root: str | None, download: bool) -> tuple[Labelled, Labelled]:
    """Training images at 32 x 32 and test images in their own size, with labels."""
    from msngan import data
    from msngan.runs.folder import did_you_mean
    from msngan.scores.recipes import RECIPES
    from msngan.scores.shipped import SIZE

    if dataset not in RECIPES or dataset not in data.DATASETS:
        known = sorted(set(RECIPES) & set(data.DATASETS))
        raise UserError(
            f"unknown data set {dataset!r}{did_you_mean(dataset, known)}; choose one of"
            f" {', '.join(known)}"
        )
    splits = data.DATASETS[dataset].splits
    if "test" not in splits:
        return _parted(*_split(dataset, root, splits[0], SIZE, download))
    own = OWN_SIZE.get(dataset, SIZE)
    return (
        _split(dataset, root, "train", SIZE, download),
        _split(dataset, root, "test", own, download),
    )


def _split(dataset: str, root: str | None, split: str, size: int, download: bool) -> Labelled:
    from msngan import data

    try:
        images = data.load(dataset, root, split, size, None, download)
    except data.DataError as problem:  # it names the options of `msngan fit`
        raise UserError(str(problem).replace("--data.", "--")) from problem
    if images.labels is None or int(images.labels.max()) < 1:
        raise UserError(
            f"{dataset} has no labels, or one class only, and an extractor learns from labels:"
            " give a folder with a subfolder for each class, or score these images with a shipped"
            " extractor (`msngan evaluate --extractor embedded`) or Inception (`--extractor"
            " inception`)"
        )
    return images.images, images.labels


def _parted(images: Tensor, labels: Tensor) -> tuple[Labelled, Labelled]:
    """A tenth of the images, drawn at random but always the same, as a test split."""
    from msngan.scores.reference import in_random_order

    order = in_random_order(len(images))
    test, train = order[: len(order) // 10], order[len(order) // 10 :]
    return (images[train], labels[train]), (images[test], labels[test])


def show(style: str) -> int:
    from msngan.scores.shipped import EmbeddedExtractor, shipped

    rows = []
    for dataset, path in shipped().items():
        each = EmbeddedExtractor.load(path)
        numbers = [str(n) for n in (each.dimensions, each.classes, each.channels)]
        rows.append([dataset, each.name, *numbers, each.metadata["test_accuracy"], str(path)])
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    notes = ["Each has a card beside its file, with .md for .safetensors."]
    table = Table("Shipped extractors", COLUMNS, rows, notes=notes, keys=2)
    print_as(style, tables=lambda: [table], rows=lambda: (COLUMNS, records), whole=lambda: records)
    return 0
