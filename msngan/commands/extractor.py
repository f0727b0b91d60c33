"""msngan extractor: train, list or compare the small feature extractors that scores use."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from msngan.commands import extractor_compare
from msngan.commands.parser import (
    Parser,
    add_format,
    add_out,
    check_writable,
    number,
    option,
    own_options,
)
from msngan.report.tables.table import Table, print_as
from msngan.runs.folder import UserError, counted, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from msngan.scores.embedded import Recipe

    Labelled = tuple[Tensor, Tensor]

DESCRIPTION = """\
An extractor turns images into the features that scores are computed from. Some data sets have one
in the package; `fit` trains one for any data set with labels, which takes minutes, and writes a
model card that says how good it is. Its numbers are never called FID or IS, and those of two
extractors cannot be compared. For images without labels, score with a shipped extractor or with
Inception (`msngan evaluate --extractor embedded` or `inception`)."""
NETWORKS = ("residual", "vgg7")  # scores.embedded.NETWORKS, which needs torch
COLUMNS = [
    "data set",
    "asked for by",
    "name",
    "features",
    "classes",
    "channels",
    "test accuracy",
    "file",
]


def parser() -> Parser:
    made = Parser(prog="msngan extractor", description=DESCRIPTION)
    commands = made.add_subparsers(dest="command", required=True, metavar="fit|list|compare")
    text = "train an extractor on a data set with labels; write it and its model card"
    fit = commands.add_parser("fit", help=text, description=text)
    option(fit, "--dataset NAME", "data set with labels: cifar10, folder, hub, ...", required=True)
    option(fit, "--root ROOT", "the data's folder, or OWNER/NAME; default: MSNGAN_DATA")
    option(fit, "--size N", "size of the images; default: 32", type=number(1))
    option(fit, "--channels", "default: the images' own", type=int, choices=(1, 3))
    option(fit, "--network", "its architecture", choices=NETWORKS, default=NETWORKS[0])
    own = "default: the data set's recipe"
    option(fit, "--epochs N", f"passes over the data; {own}", type=number(1))
    option(fit, "--batch-size N", own, type=number(1))
    option(fit, "--seed S", "seed of weights and order", type=number(0), default=0)
    add_out(fit, "--out FILE", "default: ./NAME.safetensors, with NAME.md beside")
    option(fit, "--no-download", "use only local files", action="store_true")
    add_format(commands.add_parser("list", help="the shipped extractors"))
    extractor_compare.add_parser(commands)
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    if args.command == "compare":
        return extractor_compare.compare(args)
    return show(args.format) if args.command == "list" else fit(args)


def fit(args: argparse.Namespace) -> int:
    from msngan.scores.embedded import file_name, fit_extractor

    out = _writable(args.out or Path(file_name(args.dataset, args.network)))
    from msngan.scores.model_card import save_with_model_card

    train, test = _labelled(args)
    recipe = _recipe(args, len(train[0]))
    start = time.monotonic()

    def report(epoch: int, loss: float, held_out: float) -> None:
        print(
            f"epoch {epoch + 1}/{recipe.epochs}: loss {loss:.4f}, held-out accuracy"
            f" {held_out:.2%}, {time.monotonic() - start:.0f} s",
            flush=True,
        )

    print(
        f"{args.dataset}: {len(train[0])} training and {counted(len(test[0]), 'test image')}",
        flush=True,
    )
    net, held_out = fit_extractor(*train, recipe, report)
    print("measuring", flush=True)
    text = save_with_model_card(net, out, args.dataset, recipe, train, test, held_out)
    print(f"\n{text}\nwritten: {out} and {out.with_suffix('.md')}")
    print(f"use it: msngan fit --config NAME --scores.extractor {out}")
    return 0


def _writable(out: Path) -> Path:
    """A path that can be written, checked before minutes of training."""
    if out.suffix != ".safetensors":
        raise UserError(f"--out {out} must end in .safetensors, by which scores know extractors")
    for path in (out, out.with_suffix(".md")):
        if path.exists():
            raise UserError(f"{path} exists; give another --out, or remove it")
    check_writable("--out", out)
    return out


def _recipe(args: argparse.Namespace, images: int) -> Recipe:
    from msngan.scores.embedded import RECIPES

    recipe = RECIPES[args.dataset]
    recipe = replace(
        recipe,
        network=args.network,
        widths=recipe.widths[:1] if args.network == "vgg7" else recipe.widths,
        seed=args.seed,
        epochs=args.epochs or recipe.epochs,
        batch_size=args.batch_size or recipe.batch_size,
    )
    trained = images - images // 10  # the rest is held out
    if images < 20 or trained < recipe.batch_size:
        raise UserError(
            f"{counted(images, 'labelled image')}: too few for batches of {recipe.batch_size};"
            " give more"
            " (at least 20) or a smaller --batch-size"
        )
    return recipe


def _labelled(args: argparse.Namespace) -> tuple[Labelled, Labelled]:
    """Training and test images with labels, at the network's 32 x 32."""
    from msngan import data
    from msngan.scores.embedded import RECIPES

    known = sorted(set(RECIPES) & set(data.DATASETS))
    if args.dataset not in known:
        raise UserError(
            f"unknown data set {args.dataset!r}{did_you_mean(args.dataset, known)}; choose one of"
            f" {', '.join(known)}"
        )
    return _split(args, "train"), _split(args, "test")


def _split(args: argparse.Namespace, split: str) -> Labelled:
    from msngan import data
    from msngan.data.folder_labels import LabelsError
    from msngan.data.images import resize
    from msngan.scores.embedded import SIZE

    size = args.size or SIZE
    given = (args.dataset, args.root, split, size, args.channels, not args.no_download)
    otherwise = (
        "score these images with a shipped extractor (`msngan evaluate --extractor embedded`) or"
        " Inception (`--extractor inception`)"
    )
    with own_options("--root"):
        try:
            found = data.load(*given, test_share=0.1, labelled=True)
        except LabelsError as problem:
            raise UserError(f"{problem}; or {otherwise}") from problem
    if found.labels is None or int(found.labels.max()) < 1:
        raise UserError(
            f"{args.dataset} has no labels, or only one class, and an extractor learns from labels:"
            f" {otherwise}"
        )
    return resize(found.images, SIZE), found.labels


def show(style: str) -> int:
    from msngan.scores.embedded import REQUESTS, EmbeddedExtractor, shipped

    rows = []
    for request, network in REQUESTS.items():
        for dataset, path in shipped(network).items():
            each = EmbeddedExtractor.load(path)
            numbers = [str(n) for n in (each.dimensions, each.classes, each.channels)]
            accuracy = each.metadata["test_accuracy"]
            rows.append([dataset, request, each.name, *numbers, accuracy, str(path)])
    records = [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    notes = ["Each has a model card beside its file, with .md for .safetensors."]
    table = Table("Shipped extractors", COLUMNS, rows, notes=notes, keys=3)
    print_as(style, tables=lambda: [table], rows=lambda: records, whole=lambda: records)
    return 0
