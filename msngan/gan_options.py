"""What a GAN's options must satisfy beyond their types."""

from __future__ import annotations

from typing import Any

from msngan import checks
from msngan.penalties import PENALTIES
from msngan.runs import UserError


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
    if given["compile"] and PENALTIES[given["penalty"]].value is not None:
        raise UserError(
            f"--model.compile with --model.penalty {given['penalty']}: torch.compile has no"
            " second derivative; drop one of them"
        )
