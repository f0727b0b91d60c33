"""Which extractor a run is scored with: decided once, at its start, and said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from msngan.runs.folder import UserError, did_you_mean
from msngan.scores.inception import InceptionExtractor, find_weights
from msngan.scores.interface import Extractor, Features
from msngan.scores.shipped import EmbeddedExtractor, save_extractor, shipped

if TYPE_CHECKING:
    import torch

__all__ = [
    "REQUESTS",
    "EmbeddedExtractor",
    "Extractor",
    "Features",
    "InceptionExtractor",
    "choose",
    "save_extractor",
    "shipped",
]

REQUESTS = ("auto", "embedded", "inception")


def choose(
    request: str,
    dataset: str,
    channels: int,
    device: torch.device | str = "cpu",
    inception_weights: Path | str | None = None,
) -> tuple[Extractor, str]:
    """The extractor for `request` and a line that says which it is and why.

    request: auto (Inception where a GPU and its weights are, else embedded), embedded, inception,
    or the path of a .safetensors file. dataset, channels: of the images to be scored.
    """
    if request not in REQUESTS and not request.endswith(".safetensors"):
        raise UserError(
            f"unknown extractor {request!r}{did_you_mean(request, list(REQUESTS))}; choose one of"
            f" {', '.join(REQUESTS)}, or give a .safetensors file"
        )
    gpu = str(device).startswith("cuda")
    if inception_weights and request != "inception" and not (request == "auto" and gpu):
        raise UserError(
            f"Inception's weights {inception_weights} are given, but the extractor is {request}:"
            " ask for the extractor inception, or leave the weights out"
        )
    if request == "inception":
        inception = InceptionExtractor.load(inception_weights, device)
        return inception, f"extractor: {inception.name}; its scores are FID, IS and KID"
    if request.endswith(".safetensors"):
        own = EmbeddedExtractor.load(request, device)
        return own, f"extractor: {own.name} from {request}; its scores are not FID or IS"
    if request == "auto" and gpu and (weights := find_weights(inception_weights)):
        inception = InceptionExtractor(weights, device)
        return inception, f"extractor: {inception.name}, for a GPU and its weights are here"
    why = ""
    if request == "auto":
        why = ", for Inception's weights are not here" if gpu else ", for there is no GPU"
    return _embedded(dataset, channels, device, why)


def _embedded(
    dataset: str, channels: int, device: torch.device | str, why: str
) -> tuple[Extractor, str]:
    """The data set's own extractor, or the nearest that is shipped."""
    files = shipped()
    chosen = dataset if dataset in files else "cifar10" if channels == 3 else "mnist"
    if chosen not in files:
        raise UserError(
            f"no embedded extractor for {dataset!r} is shipped; fit one with"
            f" `msngan extractor fit --dataset {dataset}`"
        )
    extractor = EmbeddedExtractor.load(files[chosen], device)
    line = f"extractor: {extractor.name}{why}; its scores are not FID or IS"
    if chosen != dataset:
        own = dataset == "folder"
        line += (
            f"; it knows {chosen}, not {dataset}: {'if its subfolders are classes, ' * own}fit one"
            f" with `msngan extractor fit --dataset {dataset}{' --root DIR' * own}`"
        )
    return extractor, line
