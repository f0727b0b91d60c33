"""What a GAN's options must satisfy beyond their types."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from msngan import checks
from msngan.checks import named
from msngan.models import CRITICS
from msngan.norms import convert
from msngan.norms.select import configured, select
from msngan.penalties import PENALTIES
from msngan.runs import UserError

RATES = ("generator_lr", "critic_lr")  # of the optimizers, in their order
# What a run that diverged may be tried again with.
REMEDY = (
    "lower --model.generator_lr and --model.critic_lr, another --model.norm or --model.penalty, or"
    " --trainer.precision 32-true"
)
BATCH_NORMS = {"batch", "batch_no_gain"}


def check_options(given: dict[str, Any]) -> None:
    """UserError for the first of msngan.gan.GAN's arguments that cannot work."""
    for name in ("width", "critic_width", "latent_dim", "critic_steps", "steps"):
        checks.at_least(f"--model.{name}", given[name], 1)
    for network in ("generator", "critic"):
        checks.positive(f"--model.{network}_lr", given[f"{network}_lr"])
        for beta in given[f"{network}_betas"]:
            checks.fraction(f"--model.{network}_betas: each", beta)
    checks.fraction("--model.ema_decay", given["ema_decay"])
    checks.not_negative("--model.penalty_weight", given["penalty_weight"])
    _check_norm(given)
    norms = (given["norm"], given["other_norm"])
    if given["generator_statistics"] == "last" and BATCH_NORMS & {*norms}:
        raise UserError(
            f"--model.generator_statistics last with --model.norm {given['norm']}: batch norm keeps"
            " no statistics of its last batch; use batch"
        )
    penalty = PENALTIES[given["penalty"]]
    if given["compile"] and penalty.value is not None and not penalty.of_weights:
        raise UserError(
            f"--model.compile with --model.penalty {given['penalty']}: torch.compile has no"
            " second derivative; drop one of them"
        )
    everywhere = penalty.of_weights and given["norm_layers"] is None
    if everywhere and scale_free(given["norm"], given["norm_options"] or {}):
        raise UserError(
            f"--model.penalty {given['penalty']} with --model.norm {given['norm']}: the norm undoes"
            " any change of sigma; use another norm (none or batch, say) or penalty"
        )


def scale_free(norm: str, options: dict[str, Any]) -> bool:
    """Whether a factor of a layer's weight changes nothing in what the layer computes with."""
    with torch.random.fork_rng(devices=[]):
        layer = convert(nn.Linear(4, 6, bias=False), norm, head="", **options).eval()
        x, parameter = torch.randn(5, 4), next(layer.parameters())
    with torch.no_grad():
        before = layer(x)
        parameter.mul_(0.125)
        return torch.allclose(layer(x), before, rtol=1e-3)


def _check_norm(given: dict[str, Any]) -> None:
    with named("--model.norm_options"):
        configured(given["norm"], given["norm_options"] or {})
    with torch.device("meta"):  # the layers' names are enough
        critic = CRITICS[given["critic"]]("none", 1)
    with named("--model.norm_layers"):
        chosen = select(critic, given["norm_layers"])
    if given["other_norm"] != "none" and len(chosen) == len(select(critic)):
        raise UserError(
            f"--model.other_norm {given['other_norm']} has no layer: --model.norm_layers leaves"
            " none; name fewer there"
        )
