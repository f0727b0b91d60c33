"""msngan extractor compare: do two extractors put degraded images and generators in one order?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Literal

from msngan.commands.parser import Parser, add_format, add_root, number, option, own_options
from msngan.runs.folder import UserError, counted, find_checkpoint
from msngan.runs.options import MOST_THREADS

if TYPE_CHECKING:
    from msngan.data import ImageData

KINDS = "embedded, embedded-vgg7, inception or a .safetensors file"
IMAGES = 2000  # of the protocol "paper"
TEXT = """\
Compute the distances of two extractors, for known degradations of held-out real images and for
generators, and print how far both put them in the same order."""


def add_parser(commands: argparse._SubParsersAction[Parser]) -> None:
    made = commands.add_parser(
        "compare", help="do two extractors put images in one order?", description=TEXT
    )
    option(made, "first A", KINDS)
    option(made, "second B", "another one")
    option(made, "targets RUN", "runs, checkpoints or exported generators", nargs="*")
    option(made, "--dataset NAME", "a data set with test images: cifar10, ...", required=True)
    option(made, "--data-root DIR", "the data set's folder; default: MSNGAN_DATA")
    size = "of the images; default: the generators', otherwise the data set's"
    option(made, "--size N", size, type=number(1))
    text = f"in each set; default: {IMAGES}, or all test images if there are fewer"
    option(made, "--images N", text, type=number(2, 100_000))
    option(made, "--seed S", "seed of degradations and samples", type=number(0), default=0)
    option(made, "--device", "cpu, cuda or cuda:N", default="cpu")
    option(made, "--threads N", "CPU threads; 0: all", type=number(0, MOST_THREADS), default=0)
    add_root(made)
    add_format(made)


def compare(args: argparse.Namespace) -> int:
    found = [find_checkpoint(target, args.root) for target in args.targets]
    from msngan.commands.evaluate import set_up

    set_up(args)
    from msngan.networks import read_generator
    from msngan.report.tables.extractor_tables import show
    from msngan.runs.hardware import software
    from msngan.scores.comparison import Subject, compare
    from msngan.scores.extractors import file_sha256
    from msngan.scores.pretrained import PRETRAINED
    from msngan.scores.scorer import Real

    if unknown := {args.first, args.second} & {*PRETRAINED}:
        raise UserError(f"{min(unknown)} cannot be compared here; choose from {KINDS}")
    subjects: dict[object, Subject] = {}
    shapes = {}
    for path, run in found:
        generator, saved = read_generator(path)
        network = saved["hyper_parameters"]
        name, step = run.name if run else saved["msngan"]["run"], int(saved["msngan"]["step"])
        once = (run.folder.resolve(), step) if run else file_sha256(path)
        subjects[once] = Subject(name, step, saved["weights"], generator)
        shapes[network["size"], network["channels"]] = name
    if len(shapes) > 1:
        listed = ", ".join(f"{s}x{s}x{c} ({name})" for (s, c), name in shapes.items())
        raise UserError(f"the generators make images of several shapes: {listed}; compare one")
    size, channels = next(iter(shapes), (args.size, None))
    if args.size not in (None, size):
        raise UserError(f"--size {args.size}, but the generators make images of {size}")
    data = _data(args, size, channels)
    held_out = data.images("test")
    images = args.images or min(IMAGES, len(held_out))
    if images > len(held_out):
        raise UserError(
            f"--images {images}: {args.dataset} has only {counted(len(held_out), 'test image')};"
            f" give --images {len(held_out)} or fewer"
        )
    record = compare(
        Real.of(data, "train"),
        held_out,
        (args.first, args.second),
        list(subjects.values()),
        samples=images,
        seed=args.seed,
        device=args.device,
        progress=lambda text: print(text, file=sys.stderr),
    )
    about = software()
    versions = {"msngan": about["msngan"], "python": about["python"], **about["versions"]}
    show(args.format, {"command": about["command"], "versions": versions, **record})
    return 0


def _data(args: argparse.Namespace, size: int | None, channels: Literal[1, 3] | None) -> ImageData:
    """The data set, whose training images are the reference."""
    from msngan.data import ImageData

    with own_options("--data-root"):
        whole = ImageData(args.dataset, root=args.data_root)
        if "test" not in whole.splits or "train" not in whole.splits:
            raise UserError(
                f"--dataset {args.dataset} has no test images to degrade; choose one with the"
                " splits train and test, such as cifar10, mnist or digits"
            )
        data = ImageData(
            args.dataset, root=args.data_root, split="train", size=size, channels=channels
        )
        data.images("test")
        return data
