"""Work on the parts of a range in all cores: in forked processes where there is much, or threads.

Pillow decodes a small image in less time than Python takes to ask for it, and Python runs one
thread at a time: so threads do not use all cores. Forked processes do, as those of PyTorch's
DataLoader; they share the memory of `msngan.data.cache.empty`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TypeVar

import torch

from msngan.data import cache
from msngan.runs.folder import Failure
from msngan.runs.hardware import cores

T = TypeVar("T")

CHUNK = 32
MANY = 2048  # a smaller range is done in threads: to start processes takes longer
LOOK_SECONDS = 1.0  # between a process's looks at the one that started it

_lock: AbstractContextManager[object] = threading.Lock()
_work: Callable[[range], object] | None = None  # what forked processes do


def one_at_a_time() -> AbstractContextManager[object]:
    """A lock that all threads and processes share which do the same work."""
    return _lock


def in_chunks(
    work: Callable[[range], T], count: int, begin: Callable[[], None] | None = None
) -> list[T]:
    """What `work` returns for each part of range(count), in order; the error of the first part.

    begin: called in each process before its first part. With it, `work` may run in processes: what
    it changes, but for memory of `empty`, is then lost, and what it returns is pickled.
    """
    chunks = [range(at, min(at + CHUNK, count)) for at in range(0, count, CHUNK)]
    found = []
    with _mapping(work, begin if count >= MANY else None) as over:
        try:
            for chunk, each in zip(chunks, over(chunks), strict=True):
                found.append(each)
                cache.tell(chunk.stop, count)
        except BrokenProcessPool as problem:
            raise Failure(
                "a process that decodes images was ended, as where memory runs out; the run can be"
                " started again"
            ) from problem
    return found


@contextmanager
def _mapping(
    work: Callable[[range], T], begin: Callable[[], None] | None
) -> Iterator[Callable[[list[range]], Iterable[T]]]:
    """A function that does `work` for each of a list of parts: here, in threads or in processes."""
    global _lock, _work
    number = cores()
    if number == 1:
        yield partial(map, work)
        return
    pool: Executor | None = None
    before, do = (_lock, _work), work
    if begin is not None and sys.platform.startswith("linux"):
        context = multiprocessing.get_context("fork")
        with suppress(OSError):  # where there are no semaphores
            _lock, _work, do = context.Lock(), work, _do
            pool = ProcessPoolExecutor(number, context, _begin, (os.getpid(), begin))
    if pool is None:
        (_lock, _work), do = before, work
        pool = ThreadPoolExecutor(min(8, number))
    try:
        yield partial(pool.map, do)
    finally:
        pool.shutdown(cancel_futures=True)
        _lock, _work = before


def _begin(parent: int, begin: Callable[[], None]) -> None:
    """In a new process: end with the one that started it, which also answers Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)  # the parent's threads do not exist here

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()
    begin()


def _do(chunk: range) -> T:  # type: ignore[type-var]
    assert _work is not None
    return _work(chunk)  # type: ignore[return-value]
