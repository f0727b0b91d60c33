"""Runs `msngan ARGUMENTS`, where `bench step` has two recipes of each norm.

Prints what it prints, then JSON: how many graphs that launched, and how often each step of a
measurement waits.
"""

from __future__ import annotations

import json
import sys

from fake_gpu.counters import counts

from msngan.__main__ import main
from msngan.bench import step
from msngan.bench.loops import Done, Steps, timed
from msngan.bench.timing import clock_of

every = step.recipes
ENDS = ("float32, channels_last, eager", "float32, channels_last, CUDA graph")
waits: list[int] = []


def play(done: Done) -> None:
    ended = False
    while not ended:
        before = counts()["WAIT"]
        ended = done(len(waits) + 1)
        waits.append(counts()["WAIT"] - before)


if __name__ == "__main__":
    step.recipes = lambda *given: [r for r in every(*given) if r.row["name"].endswith(ENDS)]
    code = main(sys.argv[1:])
    graphs = counts()["GRAPH"]
    timed(play, Steps(6, 3), clock_of("cuda", 1), "cuda")
    print(json.dumps([graphs, waits]))
    sys.exit(code)
