"""State dicts of plain layers and of torch's own spectral norms, read into normed layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from msngan.norms.parts import WeightPart

# torch.nn.utils.spectral_norm and torch.nn.utils.parametrizations.spectral_norm, by our names.
FORMS = (
    {"": "{0}_orig", "u": "{0}_u", "v": "{0}_v"},
    {
        "": "parametrizations.{0}.original",
        "u": "parametrizations.{0}.0._u",
        "v": "parametrizations.{0}.0._v",
    },
)


def translate(layer: Any, state: dict[str, Any], prefix: str) -> None:
    """Rename what is of torch's in `state`, in place, and fill in what a plain layer lacks.

    A plain layer's state, which has nothing of a norm, leaves the norm's parameters and running
    statistics as they are; sigma is then estimated anew. A bias that the norm cancels is dropped.
    """
    for name in layer.normed:
        if prefix + name in state or f"{name}_orig" in layer._parameters:
            continue
        for form in FORMS:
            names = {ours: prefix + theirs.format(name) for ours, theirs in form.items()}
            if names[""] in state:
                state[prefix + name] = state.pop(names.pop(""))
                for ours, theirs in names.items():
                    if isinstance(value := state.pop(theirs, None), Tensor):
                        shape = _shape(layer, name, ours)
                        if shape is not None and shape.numel() == value.numel():
                            state[f"{prefix}{name}_norm.{ours}"] = value.reshape(shape)
    if not any(prefix + name in state for name in layer.normed):
        return
    for part, own in layer.named_children():
        if not any(key.startswith(f"{prefix}{part}.") for key in state):
            weight = state.get(prefix + part.removesuffix("_norm"))
            known = isinstance(own, WeightPart) and isinstance(weight, Tensor)
            kept = own.state_of(weight) if known else own.state_dict()
            state |= {f"{prefix}{part}.{key}": x for key, x in kept.items()}
    if "bias" not in layer.state_dict(keep_vars=True):
        state.pop(prefix + "bias", None)


def _shape(layer: nn.Module, name: str, buffer: str) -> Any:
    found = getattr(layer._modules.get(name + "_norm"), buffer, None)
    return found.shape if isinstance(found, Tensor) else None
