"""Which options of a GAN are allowed, alone and with each other."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import nn

from msngan.losses import LOSSES, PENALTIES, Augment
from msngan.networks.build import classes_asked
from msngan.networks.initialisation import check_gain
from msngan.norms import configured
from msngan.norms import convert as convert_layers
from msngan.runs.folder import UserError
from msngan.runs.option_values import check_ranges
from msngan.runs.options import named

BATCH_NORMS = {"batch", "batch_no_gain"}


def check_options(given: dict[str, Any]) -> None:
    """UserError for the first of GAN's arguments that is out of range or cannot go with another."""
    check_ranges("gan", "model", given)
    with named("--model.conditional"):
        classes_asked(given)
    if given["classes"] and not given["conditional"]:
        raise UserError(
            f"classes {given['classes']} without conditional: no network sees a label; give"
            " conditional=True too"
        )
    acgan = given["conditioning"] == "acgan"
    if acgan and not given["conditional"]:
        raise UserError(
            "--model.conditioning acgan without --model.conditional true: no network sees a label;"
            " give both"
        )
    if given["class_weight"] != 1 and not acgan:
        raise UserError(
            f"--model.class_weight {given['class_weight']} without --model.conditioning acgan: it"
            " weighs nothing; leave it out"
        )
    with named("--model.norm_options"):
        configured(given["norm"], given["norm_options"] or {})
    check_gain(given["init"], given["init_gain"])
    norms = (given["norm"], given["other_norm"])
    if given["generator_statistics"] == "last" and BATCH_NORMS & {*norms}:
        raise UserError(
            f"--model.generator_statistics last with --model.norm {given['norm']}: batch norm keeps"
            " no statistics of its last batch; use batch"
        )
    for name in weighted_penalties(given["penalty"], given["penalty_weight"]):
        penalty = PENALTIES[name]
        if given["compile"] and penalty.value is not None and not penalty.of_weights:
            raise UserError(
                f"--model.compile with --model.penalty {name}: torch.compile has no second"
                " derivative; drop one of them"
            )
        everywhere = penalty.of_weights and given["norm_layers"] is None
        if everywhere and scale_free(given["norm"], given["norm_options"] or {}):
            raise UserError(
                f"--model.penalty {name} with --model.norm {given['norm']}: the norm undoes any"
                " change of sigma; use another norm (none or batch, say) or penalty"
            )
    for name, every in of_each_penalty("every", given["penalty"], given["penalty_every"]).items():
        if every != 1 and not PENALTIES[name].is_term:
            raise UserError(
                f"--model.penalty_every {every} with --model.penalty {name}: it is no term of the"
                " loss, which could be left out of a step; give it 1, in a list of one for each"
            )
    augment = Augment.chosen(given["augment"])
    if augment and augment.target is not None and LOSSES[given["loss"]].boundary is None:
        raise UserError(
            f"--augment.target with --model.loss {given['loss']}: the sign of its logits means"
            " nothing, so they cannot tell how far the critic overfits; use another loss, or a"
            " fixed --augment.probability"
        )


def of_each_penalty(what: str, penalty: str | list[str], value: Any) -> dict[str, Any]:
    """The value of the option penalty_<what> for each penalty, by name.

    UserError for a penalty that is given twice, and for a list of values that does not fit them.
    """
    names = [penalty] if isinstance(penalty, str) else penalty
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(
            f"--model.penalty {','.join(names)}: {twice[0]} stands there more than once; give each"
            " penalty once, and --model.penalty_weight to change its weight"
        )
    values = value if isinstance(value, list) else [value] * len(names)
    if len(values) != len(names):
        raise UserError(
            f"--model.penalty_{what} {value} does not fit --model.penalty {','.join(names)}: give"
            f" one {'weight' if what == 'weight' else 'number'} for each penalty"
        )
    return dict(zip(names, values, strict=True))


def weighted_penalties(
    penalty: str | list[str], weight: float | list[float] | None
) -> dict[str, float]:
    """The weight of each penalty, by name; UserError for weights that do not fit the penalties."""
    weights = of_each_penalty("weight", penalty, weight)
    return {n: PENALTIES[n].weight if own is None else own for n, own in weights.items()}


def scale_free(norm: str, options: dict[str, Any]) -> bool:
    """Whether a factor of a layer's weight changes nothing in what the layer computes with."""
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        layer = convert_layers(nn.Linear(4, 6, bias=False), norm, head="", **options).eval()
        x, parameter = torch.randn(5, 4), next(layer.parameters())
    with torch.no_grad(), torch.device("cpu"):
        before = layer(x)
        parameter.mul_(0.125)
        return torch.allclose(layer(x), before, rtol=1e-3)


def latent_dim_of(generator: nn.Module | None, otherwise: int) -> int:
    """What a module says of the length of z; UserError where that is no whole number."""
    if generator is None or (own := getattr(generator, "latent_dim", None)) is None:
        return otherwise
    try:
        found = operator.index(own)
    except TypeError:
        raise UserError(
            f"GAN(generator=...): its latent_dim is {own!r:.80}; it must be an int, the length of z"
        ) from None
    check_ranges("gan", "model", {"latent_dim": found})
    return found
