"""`bench fold`: inference of a trained critic, folded and not, against one without a norm."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from msngan.bench.passes import Variant
from msngan.bench.ratios import ratio
from msngan.bench.rounds import Watcher, clock_of, interleaved
from msngan.bench.settings import Settings, record
from msngan.norms import fold

BASELINE = "none"
TRAINING_STEPS = 3


def run(settings: Settings, watcher: Watcher) -> dict[str, Any]:
    """Measure, and return the record: see `msngan.bench.settings.record`."""
    clock = clock_of(settings.device, settings.threads)
    images = settings.images()
    forms: dict[str, tuple[str, str, nn.Module]] = {}
    for norm in (BASELINE, *(name for name in settings.norms if name != BASELINE)):
        critic = trained(norm, settings)
        forms[norm if norm == BASELINE else f"{norm}, as trained"] = (norm, "as trained", critic)
        if norm != BASELINE:
            forms[f"{norm}, folded"] = norm, "folded", fold(critic)
    measures = {
        name: clock.repeated(partial(infer, critic, images, settings))
        for name, (_, _, critic) in forms.items()
    }
    seconds = interleaved(measures, settings.rounds, watcher)
    rows = []
    for name, (norm, form, critic) in forms.items():
        ratios = asdict(ratio(seconds[name], seconds[BASELINE]))
        off = (
            _difference(critic, forms[f"{norm}, as trained"][2], images) if norm != BASELINE else 0
        )
        rows.append(
            {"name": name, "norm": norm, "form": form, "kind": "norm", "ratio": ratios}
            | {"largest_difference": off, "seconds": seconds[name]}
        )
    return record("fold", settings, clock.name, BASELINE, rows, training_steps=TRAINING_STEPS)


def trained(norm: str, settings: Settings) -> nn.Module:
    """A critic in eval after a few steps on random images, so that its statistics are not new."""
    variant = Variant.of(norm, settings)
    optimizer = torch.optim.Adam(variant.critic.parameters(), lr=2e-4, betas=(0.5, 0.999))
    for step in range(TRAINING_STEPS):
        with variant.bank.shared():
            loss = softplus(-variant.critic(settings.images(step))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        variant.bank.update()
    return variant.critic.eval()


@torch.no_grad()
def infer(critic: nn.Module, images: Tensor, settings: Settings) -> Tensor:
    with settings.autocast():
        return critic(images)


@torch.no_grad()
def _difference(critic: nn.Module, other: nn.Module, images: Tensor) -> float:
    """Largest difference of two critics' logits in float32, relative to the largest logit."""
    logits, others = critic(images), other(images)
    return float((logits - others).abs().max() / others.abs().max())
