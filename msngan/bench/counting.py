"""Counts that are the same on every run: dispatched operations, and bytes of live tensors."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msngan.bench.rounds import Action

NOTHING = {"_unsafe_view"}  # what computes nothing and is not marked as a view


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Any = (), options: Any = None
    ) -> Any:
        made = operation(*given, **(options or {}))
        name = operation.name().partition(".")[0].removeprefix("aten::")
        computes = not operation.is_view and name not in NOTHING
        if computes and next(_tensors((given, options, made)), None) is not None:
            self.found[name] += 1
        return made


def operations(action: Action) -> Counter[str]:
    """How often each operation is dispatched, by name, the backward pass included.

    Views and questions about types are left out: they compute nothing. An operation on a list of
    tensors counts once.
    """
    with _Operations() as counted:
        action()
    return counted.found


def difference(some: Counter[str], others: Counter[str]) -> dict[str, int]:
    """By how much `some` exceeds `others` (or falls short, negative), without the equal ones."""
    names = sorted({*some, *others})
    return {name: some[name] - others[name] for name in names if some[name] != others[name]}


class _Live(TorchDispatchMode):
    """Bytes of the storages that operations inside have made and that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.seen: list[int] = []
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Any = (), options: Any = None
    ) -> Any:
        made = operation(*given, **(options or {}))
        if not operation.is_view:
            before = {_key(each) for each in _tensors((given, options))}
            for each in _tensors(made):
                if _key(each) not in before:
                    self._add(each.untyped_storage())
        self.seen.append(self.now)
        return made

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(values: Any) -> Iterator[Tensor]:
    return (each for each in tree_leaves(values) if isinstance(each, Tensor))


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def live_bytes(action: Action) -> list[int]:
    """Bytes that live in tensors made by `action`, after each of its operations.

    What an operation takes and gives back inside is not seen.
    """
    with _Live() as live:
        action()
    return live.seen


def saved_bytes(module: nn.Module, action: Action) -> int:
    """Bytes kept for the backward pass, each storage once, without those of the module's state."""
    own = {_key(each) for each in (*module.parameters(), *module.buffers())}
    found: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _key(tensor) not in own:
            found[_key(tensor)] = tensor  # kept alive: another storage may not take its place
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        action()
    return _total(found.values())


def _total(tensors: Iterable[Tensor]) -> int:
    return sum(each.untyped_storage().nbytes() for each in tensors)
