"""Counts that do not vary between runs: dispatched operations, and bytes of live tensors."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from msngan.bench.timing import Action

NO_WORK = {"_unsafe_view"}  # computes nothing and is not marked as a view


class _Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        name = operation.name().partition(".")[0].removeprefix("aten::")
        computes = not operation.is_view and name not in NO_WORK
        if computes and next(_tensors((args, kwargs, made)), None) is not None:
            self.found[name] += 1
        return made


def operations(action: Action) -> Counter[str]:
    """How often each operation is dispatched, by name, including the backward pass.

    Views and queries of types are not counted, because they compute nothing. An operation on a list
    of tensors counts once.
    """
    with _Operations() as counted:
        action()
    return counted.found


class _LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operations inside have made and that are still alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self.seen: list[int] = []
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        made = operation(*args, **(kwargs or {}))
        if not operation.is_view:
            inputs = {_key(each) for each in _tensors((args, kwargs))}
            for each in _tensors(made):
                if _key(each) not in inputs:
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
    """Bytes held by the tensors that `action` has made, after each of its operations.

    Memory that an operation allocates and frees internally is not counted.
    """
    with _LiveBytes() as live:
        action()
    return live.seen
