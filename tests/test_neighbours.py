"""Precision, recall, density and coverage: by hand, by a double loop, by torch-fidelity."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_extractor import coloured, normal

from msngan.scores import distances as module
from msngan.scores.distances import nearest, neighbours, radii

KEYS = ("precision", "recall", "density", "coverage")


def on_a_line(*places: float) -> Tensor:
    return torch.tensor(places).double()[:, None]


def loop_distance(a: np.ndarray, b: np.ndarray) -> float:
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.tolist(), b.tolist(), strict=True)))


def loop_radii(rows: np.ndarray, k: int) -> list[float]:
    return [
        sorted(loop_distance(a, b) for j, b in enumerate(rows) if j != i)[k - 1]
        for i, a in enumerate(rows)
    ]


def by_loop(real: Tensor, fake: Tensor, first: int = 3, last: int = 5) -> dict[str, float]:
    """The four definitions as they are printed, a pair at a time."""
    x, y = real.numpy(), fake.numpy()
    small, large, of_fake = loop_radii(x, first), loop_radii(x, last), loop_radii(y, first)
    far = [[loop_distance(a, b) for b in y] for a in x]
    n, m = range(len(x)), range(len(y))
    return {
        "precision": sum(any(far[i][j] <= small[i] for i in n) for j in m) / len(y),
        "recall": sum(any(far[i][j] <= of_fake[j] for j in m) for i in n) / len(x),
        "density": sum(far[i][j] <= large[i] for i in n for j in m) / (last * len(y)),
        "coverage": sum(any(far[i][j] <= large[i] for j in m) for i in n) / len(x),
    }


def mirrored(rows: Tensor, k: int) -> Tensor:
    """A point on the surface of each row's ball of k neighbours: opposite to the k-th."""
    places = torch.cdist(rows, rows).topk(k + 1, largest=False).indices
    return 2 * rows - rows[places[:, k]]


def pairs() -> dict[str, tuple[Tensor, Tensor]]:
    """Real and fake rows, easy and hard to tell apart."""
    real, fake = coloured(40, 12), 0.7 * coloured(30, 12, 1) + 0.2
    copies = torch.cat([real[:10], fake[:10], fake[:5]])
    dyadic = (256 * real).round() / 256  # sums and differences are exact, and so are ties
    return {
        "generic": (real, fake),
        "mean a hundred spreads away": (100 + real, 100 + fake),
        "mean a million spreads away": (1e6 + real, 1e6 + fake),
        "fakes far away": (real, fake + 1e6),
        "the same rows": (100 + real, 100 + real.flip(0)),
        "copies of real rows and of fakes": (real, copies),
        "constant fakes": (real, real[7:8].repeat(20, 1)),
        "one outlier": (torch.cat([real, 1e5 + fake[:1]]), fake),
        "an outlier and copies": (torch.cat([real, 1e5 + fake[:1]]), real),
        "fakes on the surface of real balls": (dyadic, mirrored(dyadic, 3)),
        "fakes on the surface of larger real balls": (dyadic, mirrored(dyadic, 5)),
        "real rows on the surface of fake balls": (mirrored(dyadic, 3), dyadic),
        "a lattice": (normal(40, 2).round(), normal(30, 2, 1).round()),
        "all rows equal": (torch.ones(9, 3).double(), torch.ones(8, 3).double()),
    }


PAIRS = pairs()


@pytest.mark.parametrize("case", PAIRS)
def test_the_four_are_their_definitions(case):
    real, fake = PAIRS[case]
    assert neighbours(real, fake) == pytest.approx(by_loop(real, fake), abs=1e-12)
    found = neighbours(real, fake, precision_neighbours=1, coverage_neighbours=7)
    assert found == pytest.approx(by_loop(real, fake, 1, 7), abs=1e-12)
    assert tuple(found) == KEYS


@pytest.mark.parametrize("case", PAIRS)
def test_radii_are_distances_to_the_kth_other_row(case):
    for rows, k in zip(PAIRS[case], (1, 7), strict=True):
        found = radii(rows, k)
        assert found.dtype == torch.float64
        np.testing.assert_allclose(found.numpy(), loop_radii(rows.numpy(), k), rtol=1e-12, atol=0)


def test_one_neighbour_on_a_line_by_hand():
    # Radii: real 0 -> 1, 1 -> 1, 3 -> 2, 7 -> 4; fake 2 -> 1, 3 -> 1, 20 -> 17.
    real, fake = on_a_line(0, 1, 3, 7), on_a_line(2, 3, 20)
    # Real balls: [-1, 1], [0, 2], [1, 5], [3, 11]. 2 is in two of them, 3 in two, 20 in none.
    # Fake balls: [1, 3], [2, 4], [3, 37]. 1, 3 and 7 are in one, 0 is in none.
    # Of the real balls all but the first hold a fake.
    found = neighbours(real, fake, precision_neighbours=1, coverage_neighbours=1)
    assert found == {"precision": 2 / 3, "recall": 3 / 4, "density": 4 / 3, "coverage": 3 / 4}


@pytest.mark.parametrize("offset", [0, 100])
def test_nothing_but_distances_matters(offset):
    real, fake = coloured(100, 12) + offset, 0.8 * coloured(80, 12, 1) + 0.1 + offset
    found = neighbours(real, fake)
    draw = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(normal(12, 12, 5))[0]
    assert all(0.1 < found[name] < 1 for name in ("precision", "recall", "coverage"))
    shuffled = (each[torch.randperm(len(each), generator=draw)] for each in (real, fake))
    assert neighbours(*shuffled) == found
    assert neighbours(real @ turn, fake @ turn) == found
    assert neighbours(1e-3 * real, 1e-3 * fake) == found
    assert neighbours(real - 7, fake - 7) == found
    assert neighbours(real.numpy(), fake.tolist()) == found


@pytest.mark.quick
@pytest.mark.parametrize("case", ["generic", "a lattice", "an outlier and copies"])
def test_no_number_depends_on_the_blocks(case, monkeypatch):
    real, fake = PAIRS[case]
    whole, kth = neighbours(real, fake), radii(real, 4)
    for rows in (1, 7, 16):
        monkeypatch.setattr(module, "BLOCK", rows)
        assert neighbours(real, fake) == whole
        assert torch.equal(radii(real, 4), kth)


@pytest.mark.parametrize("case", ["generic", "a lattice"])
def test_radii_at_hand_give_the_same_bits(case, monkeypatch):
    real, fake = PAIRS[case]
    expected = neighbours(real, fake)
    at_hand = radii(real, 3), radii(real, 5)
    computed: list[int] = []

    def counted(rows: Tensor, k: int) -> Tensor:
        computed.append(len(rows))
        return radii(rows, k)

    monkeypatch.setattr(module, "radii", counted)
    assert neighbours(real, fake, real_radii=at_hand) == expected
    assert computed == [len(fake)]


good = normal(8, 3)
BAD: dict[str, Callable[[], object]] = {
    r"real must have shape \(N, d\)": lambda: neighbours(good[0], good),
    r"fake must have shape \(N, d\)": lambda: neighbours(good, good[:, :0]),
    "fake holds NaN": lambda: neighbours(good, good * math.nan),
    "real holds NaN or Inf": lambda: neighbours(good * math.inf, good),
    "real has 3 .* and fake has 2": lambda: neighbours(good, good[:, :2]),
    r"real has 5 rows, too few for 5 .* give at least 6": lambda: neighbours(good[:5], good),
    r"fake has 3 rows, too few for 3": lambda: neighbours(good, good[:3]),
    r"features has 8 rows, too few for 8": lambda: radii(good, 8),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_named_with_its_remedy(message):
    with pytest.raises(ValueError, match=message):
        BAD[message]()


@pytest.mark.parametrize("parts", [[50], [3, 40, 7], [1] * 50])
def test_nearest_rows_are_those_of_the_whole_matrix_of_distances_whatever_the_parts(parts):
    rows, others = coloured(9, 6) + 100, coloured(50, 6, 1) + 100
    others[17] = rows[4]
    far = np.array([[loop_distance(a, b) for b in others.numpy()] for a in rows.numpy()])
    distances, places = nearest(rows, others.split(parts), 4)
    assert places.tolist() == far.argsort(1)[:, :4].tolist()
    assert distances.numpy() == pytest.approx(np.sort(far, 1)[:, :4], rel=1e-12)
    assert (distances[4, 0], places[4, 0]) == (0, 17)
    with pytest.raises(ValueError, match="there are 50 other rows, too few for 51"):
        nearest(rows, others.split(parts), 51)
