"""A training step as a CUDA graph: its kernels are recorded once and launched together.

A step of small networks is bound by its launches; a graph replays hundreds of them as one. What
changes from step to step is in tensors: the batch, the learning rates, the share of the moving
average, and the seeds of the generators that the graph knows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.autograd.graph import increment_version

from msngan.norms import SigmaBank

# Before this version of torch a graph has to be told of the generators that it holds.
FINDS_GENERATORS = (2, 14)
TELLS = tuple(int(part) for part in torch.__version__.split(".")[:2]) < FINDS_GENERATORS
WARM_UP = 3  # steps of a form before it is captured
MOST = 4  # forms that are captured; each keeps its own memory

NOT_CAPTURED = "the step is not captured in a CUDA graph: {}; training goes on without"

Play = Callable[..., dict[str, Tensor]]


@dataclass(eq=False)
class Captured:
    """A graph, the tensors that it reads, and those that it leaves."""

    graph: torch.cuda.CUDAGraph
    inputs: Sequence[Tensor | None]
    figures: dict[str, Tensor]
    gradients: list[Tensor | None]


@dataclass(eq=False)
class StepGraph:
    """Plays the steps of a module, as CUDA graphs where that is possible.

    A step has a form, such as the penalties that are due in it; each form is a graph of its own,
    captured after WARM_UP steps that are played as they are. banks: of the module's norms.
    generators: that a step draws from. say: called with one line if a step cannot be captured;
    training goes on without.
    """

    module: nn.Module
    banks: Sequence[SigmaBank]
    generators: Iterable[torch.Generator]
    say: Callable[[str], None]
    _played: dict[Hashable, int] = field(default_factory=dict)
    _captured: dict[Hashable, Captured] = field(default_factory=dict)
    _failed = False

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(None), ()  # a copy of the module records its own

    def run(self, form: Hashable, play: Play, *inputs: Tensor | None) -> dict[str, Tensor]:
        """What play(*inputs) returns; its scalars hold until the next step."""
        form = (form, *(None if each is None else each.shape for each in inputs))
        made = self._captured.get(form)
        if made is None:
            played = self._played[form] = self._played.get(form, 0) + 1
            if self._failed or played <= WARM_UP or len(self._captured) == MOST:
                return play(*inputs)
            made = self._capture(play, inputs)
            if made is None:
                return play(*inputs)
            self._captured[form] = made
        for kept, given in zip(made.inputs, inputs, strict=True):
            if kept is not None and given is not None:
                kept.copy_(given)
        made.graph.replay()
        self._after(made)
        return made.figures

    def _capture(self, play: Play, inputs: Sequence[Tensor | None]) -> Captured | None:
        kept = [None if each is None else each.clone() for each in inputs]
        graph = torch.cuda.CUDAGraph()
        if TELLS:
            for generator in self.generators:
                graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                figures = play(*kept)
        except RuntimeError as problem:
            self._failed = True
            self._written()  # what Python has noted of the step was not done
            self.say(NOT_CAPTURED.format(str(problem).partition("\n")[0]))
            return None
        gradients = [each.grad for each in self.module.parameters()]
        return Captured(graph, kept, figures, gradients)

    def _written(self) -> None:
        increment_version([*self.module.parameters(), *self.module.buffers()])

    def _after(self, made: Captured) -> None:
        """Note what Python notes of a step that it plays: written tensors, sigmas, gradients."""
        self._written()
        for bank in self.banks:
            bank.mark()
        for parameter, gradient in zip(self.module.parameters(), made.gradients, strict=True):
            parameter.grad = gradient
