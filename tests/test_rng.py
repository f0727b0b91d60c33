"""Derived randomness: no two draws of a run share a seed, and the global streams stay put."""

from __future__ import annotations

import hashlib
import itertools
import random
from typing import get_args

import numpy as np
import pytest
import torch

from msngan.runs.rng import Stream, derive, generator, untouched

STREAMS = get_args(Stream)


def test_no_two_of_many_tuples_share_a_seed() -> None:
    # 1, 11 and 111 would meet if the parts were written together without a mark between them.
    numbers = (0, 1, 2, 3, 10, 11, 12, 111, 1000, 2**31)
    grid = list(itertools.product(numbers, numbers, numbers[:8], STREAMS))
    assert len({derive(*key) for key in grid}) == len(grid)


def test_seeds_are_63_bits_and_use_them_all() -> None:
    seeds = [derive(0, step, 0, "order") for step in range(200)]
    assert all(0 <= seed < 2**63 for seed in seeds)
    for bit in range(63):
        share = sum(seed >> bit & 1 for seed in seeds) / len(seeds)
        assert 0.3 < share < 0.7


def test_a_seed_is_pinned_so_that_published_runs_can_be_repeated() -> None:
    digest = hashlib.blake2b(b"3/500/1/penalty", digest_size=8).digest()
    assert derive(3, 500, 1, "penalty") == int.from_bytes(digest, "little") // 2
    assert derive(0, 0, 0, "init") == 8330636805672804738


def test_the_same_arguments_give_the_same_draws_and_others_give_others() -> None:
    first, again = (torch.randn(8, generator=generator(1, 2, 3, "flip")) for _ in range(2))
    assert torch.equal(first, again)
    others = [(2, 2, 3, "flip"), (1, 3, 3, "flip"), (1, 2, 4, "flip"), (1, 2, 3, "order")]
    for other in others:
        assert not torch.equal(first, torch.randn(8, generator=generator(*other)))


def test_a_generator_leaves_the_global_one_alone() -> None:
    state = torch.get_rng_state()
    torch.randn(8, generator=generator(0, 0, 0, "critic"))
    assert torch.equal(torch.get_rng_state(), state)


def draw_everywhere() -> tuple[float, float, float]:
    return torch.rand(()).item(), float(np.random.rand()), random.random()


@pytest.mark.parametrize("fails", [False, True])
def test_untouched_gives_all_global_generators_back_even_when_the_block_raises(
    fails: bool,
) -> None:
    def block() -> None:
        with untouched():
            torch.manual_seed(1)
            np.random.seed(1)
            random.seed(1)
            draw_everywhere()
            if fails:
                raise KeyError

    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    expected = draw_everywhere()
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    if fails:
        with pytest.raises(KeyError):
            block()
    else:
        block()
    assert draw_everywhere() == expected
