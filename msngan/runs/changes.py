"""Which options a run may go on with another value of: each option of `fit` is in one class.

STRUCTURE shapes the tensors in a checkpoint: refused, with the option's name.
CONDITIONAL is taken and said where the checkpoint has what the new value needs, else refused.
TRAINING changes what the next steps do, and is taken and said.
RECORD says how often, and where, something is written down: taken without a word.
"""

from __future__ import annotations

from typing import Any

STRUCTURE = {
    "gan": {
        *("task", "data.size", "data.channels", "model.norm", "model.norm_options"),
        *("model.norm_layers", "model.other_norm", "model.critic", "model.generator"),
        *("model.width", "model.critic_width", "model.latent_dim", "model.conv_bias"),
    },
    "classifier": {
        *("task", "data.size", "data.channels", "model.network", "model.norm"),
        *("model.norm_options", "model.norm_layers", "model.other_norm", "model.as_released"),
        *("model.placement", "model.width", "model.depth", "model.conv_bias"),
    },
}
# Taken from the data, and checked as the data's options are.
SHAPES = {"gan": ("channels", "size"), "classifier": ("channels", "size", "classes")}
CONDITIONAL = {"gan": {"model.penalty", "model.ema_decay"}, "classifier": set[str]()}

_TRAINING = {
    *("steps", "seed", "threads", "trainer.accelerator", "trainer.devices", "trainer.num_nodes"),
    *("trainer.precision", "trainer.deterministic", "trainer.benchmark", "model.slope"),
    *("model.lr_decay", "model.channels_last", "model.compile", "data.dataset", "data.root"),
    *("data.batch_size", "data.mirror", "data.limit"),
}
TRAINING = {
    "gan": _TRAINING
    | {
        *("model.loss", "model.penalty_weight", "model.penalty_statistics", "data.split"),
        *("model.power_iteration", "model.passes", "model.generator_statistics"),
        *("model.critic_steps", "model.generator_lr", "model.critic_lr"),
        *("model.generator_betas", "model.critic_betas", "data.on_bad_image"),
    },
    "classifier": _TRAINING
    | {
        *("epochs", "model.activation", "model.dropout", "model.lr", "model.betas"),
        *("model.weight_decay", "model.label_smoothing", "data.validation", "data.crop"),
        *("data.mean", "data.sd", "data.test_limit"),
    },
}
_RECORD = {
    *("config", "run", "root", "ckpt_path", "trainer.profiler", "trainer.detect_anomaly"),
    *("data.download", "checkpoint.every", "records.every", "dynamics.every"),
    *("detect_anomaly", "checkpoint.on_save_error", "health.every"),
}
RECORD = {
    "gan": _RECORD
    | {
        *("scores.every", "scores.protocol", "scores.metrics", "scores.best"),
        *("scores.stop_on_collapse", "scores.extractor", "scores.inception_weights"),
        *("scores.runs", "scores.samples", "scores.enabled"),
        *("samples.every", "samples.count", "samples.film"),
    },
    "classifier": _RECORD | {"accuracy.every", "accuracy.batch_size"},
}


def flat(config: Any) -> dict[str, Any]:  # noqa: ANN401  jsonargparse's Namespace, or a mapping
    """Options by their dotted names, plain values; those of RECORD are left out."""
    found: dict[str, Any] = {}
    for name, value in dict(config.as_dict() if hasattr(config, "as_dict") else config).items():
        if isinstance(value, dict) and name in ("trainer", "model", "data"):
            found |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            found[name] = value
    kept = {name for task in TRAINING for name in TRAINING[task] | STRUCTURE[task]}
    kept |= CONDITIONAL["gan"]
    return {name: plain(value) for name, value in found.items() if name in kept}


def plain(value: Any) -> Any:  # noqa: ANN401  any option's value
    """As a file holds it: lists for tuples."""
    return [plain(each) for each in value] if isinstance(value, list | tuple) else value
