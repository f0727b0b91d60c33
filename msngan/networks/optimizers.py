"""The optimizers of a GAN, by name; weight decay of weight matrices, and clipping of gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from msngan.norms import layers_of, stored
from msngan.norms.layers import weights_of

# What makes each of groups of parameters, a learning rate and two decay rates, of the running
# averages of the gradient and of its square.
OPTIMIZERS: dict[str, Callable[[Any, float, tuple[float, float]], Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": partial(torch.optim.AdamW, weight_decay=0.0),
    "rmsprop": lambda groups, lr, betas: torch.optim.RMSprop(groups, lr, alpha=betas[1]),
    "sgd": lambda groups, lr, betas: torch.optim.SGD(groups, lr, momentum=betas[0]),
}

if TYPE_CHECKING:
    OptimizerName = str
else:
    OptimizerName = Literal[tuple(OPTIMIZERS)]


def make_optimizer(
    network: nn.Module,
    lr: float,
    betas: Sequence[float],
    name: str,
    weight_decay: float = 0.0,
    gradient_clip: float | None = None,
) -> Optimizer:
    """The optimizer `name` of all parameters of the network, in their order.

    weight_decay: of the weights of layers (convolutions, linear layers, embeddings, as for norms),
    not of biases, gains and offsets, as torch's optimizer has it: added to the gradient, in AdamW
    taken from the weight (Loshchilov & Hutter 2019, arXiv:1711.05101). gradient_clip: each
    step first scales the gradients so that their norm, all taken together, is at most this
    (Pascanu et al. 2013, arXiv:1211.5063). Of several processes it is the norm of the summed
    gradients, and an infinite or NaN norm makes all gradients NaN.
    """
    parameters = list(network.parameters())
    groups: list[Any] = parameters
    if weight_decay:
        layers = layers_of(network).values()
        matrices = {id(stored(layer, each)) for layer in layers for each in weights_of(layer)}
        # Runs of neighbours, not two groups: an optimizer numbers its state in this order, and a
        # run may be resumed with and without weight decay.
        groups = [
            {"params": list(run), "weight_decay": weight_decay if decayed else 0.0}
            for decayed, run in groupby(parameters, lambda each: id(each) in matrices)
        ]
    optimizer = suited(OPTIMIZERS[name](groups, lr, (betas[0], betas[1])))
    if gradient_clip is not None:
        # In the step itself, when processes have summed their gradients.
        optimizer.register_step_pre_hook(partial(_clip, parameters, gradient_clip))
    return optimizer


def suited(optimizer: Optimizer) -> Optimizer:
    """The optimizer; on a GPU its steps take few launches and can be captured in a CUDA graph.

    Also after it has loaded the state of an optimizer on another device.
    """
    _suit(optimizer)
    optimizer.register_load_state_dict_post_hook(_suit)
    return optimizer


def _suit(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        cuda = all(each.is_cuda for each in group["params"])
        for flag, otherwise in (("fused", None), ("capturable", False)):
            if flag in group:
                group[flag] = True if cuda else otherwise
        for each in group["params"]:
            state = optimizer.state.get(each, {})
            if isinstance(done := state.get("step"), Tensor):
                state["step"] = done.to(each.device if cuda else "cpu", torch.float32)


def _clip(parameters: Sequence[Tensor], largest: float, *_: Any) -> None:
    nn.utils.clip_grad_norm_(parameters, largest)
