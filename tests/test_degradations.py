"""Known degradations of real images, and the correlation of two orders of them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
import torch
from toy_extractor import photographs

from msngan.data.images import Images
from msngan.scores.comparison import correlation, ranks, spearman
from msngan.scores.degradations import CHANGES, CHOICES, degraded

COUNT, ALL = 128, 300


def real(channels: int = 3, labels: bool = True, size: int = 32) -> Images:
    images = photographs(ALL, channels, size)
    return Images(images, torch.arange(ALL) % 5 if labels else None)


def made(of: Images, seed: int = 0) -> dict[str, dict[float, torch.Tensor]]:
    found: dict[str, dict[float, torch.Tensor]] = defaultdict(dict)
    for each in degraded(of, COUNT, seed):
        found[each.kind][each.strength] = each.images
    return found


@pytest.mark.quick
def test_every_strength_gives_other_images_in_range_and_the_same_ones_again():
    found, again = made(real()), made(real())
    assert list(found) == ["none", *CHANGES, *CHOICES]
    assert sum(map(len, found.values())) > 60
    plain = found.pop("none")[0]
    for kind, by_strength in found.items():
        strengths = list((CHANGES | CHOICES)[kind][0])
        if kind == "classes left out, share":  # of five classes
            strengths = [0.1, 0.5, 0.9]
        assert list(by_strength) == strengths
        for strength, images in by_strength.items():
            assert (images.dtype, images.shape) == (torch.uint8, plain.shape)
            assert torch.equal(images, again[kind][strength]), kind
            others = [x for s, x in by_strength.items() if s != strength]
            assert not any(torch.equal(images, each) for each in (plain, *others)), kind


def test_a_seed_draws_other_degradations_of_the_same_images():
    first, second = made(real()), made(real(), seed=1)
    assert torch.equal(first["none"][0], second["none"][0])
    same = {kind: first[kind][s].equal(second[kind][s]) for kind in first for s in first[kind]}
    drawn = {kind for kind, each in same.items() if not each}
    assert drawn == {
        "noise, sd in grey levels",
        "black and white pixels, share",
        "grey square, share of the side",
        "shuffled tiles, per side",
        "uniform noise, share of images",
        "blurred noise, share of images",
    }


def test_what_an_image_cannot_have_is_left_out():
    found = made(real(channels=1, labels=False, size=28))
    absent = {"colour left, share", "hue, degrees"}
    absent |= {"classes left out, share", "most frequent class to rarest"}
    assert {*CHANGES, *CHOICES} - {*found} == absent
    assert list(found["shuffled tiles, per side"]) == [2, 4]
    with pytest.raises(ValueError, match="301 images to degrade, but there are 300"):
        next(degraded(real(), 301))


def test_degradations_do_what_their_names_say():
    of = real()
    found, plain = made(of), made(of)["none"][0].float()

    def change(kind: str, strength: float) -> torch.Tensor:
        return found[kind][strength].float() - plain

    assert change("noise, sd in grey levels", 4).std() == pytest.approx(4, rel=0.05)
    assert torch.equal(change("brightness, grey levels", 16).unique()[-1], torch.tensor(16.0))
    grey = found["colour left, share"][0]
    assert torch.equal(grey[:, 0], grey[:, 1])
    assert len(found["grey levels per channel"][4].unique()) <= 4
    assert ((found["grey square, share of the side"][0.5] == 127).all(1).sum((1, 2)) >= 256).all()
    tiles = found["shuffled tiles, per side"][2]
    assert torch.equal(tiles.flatten().sort()[0], plain.flatten().sort()[0].to(torch.uint8))
    spots = (change("black and white pixels, share", 0.16) != 0).any(1).float().mean()
    assert spots == pytest.approx(0.16, abs=0.02)
    noise = change("uniform noise, share of images", 1 / 4)
    assert [(each != 0).any().item() for each in noise] == [True] * 32 + [False] * 96
    colours = found["plain colours, share of images"][1]
    assert (colours == colours[:, :, :1, :1]).all()
    assert len(found["distinct images, share"][1 / 8].unique(dim=0)) == 16
    turned = change("hue, degrees", 20).sum(1)
    inside = ((found["hue, degrees"][20] > 0) & (found["hue, degrees"][20] < 255)).all(1)
    assert turned[inside].abs().max() <= 1.5


def test_classes_are_left_out_and_unbalanced_as_said():
    labels = torch.arange(ALL) % 5
    for share, kept in ((0.1, 4), (0.3, 4), (0.5, 2), (0.7, 2), (0.9, 1)):
        taken = labels[CHOICES["classes left out, share"][1](labels, COUNT, share)]
        assert len(taken) == COUNT
        assert taken.unique().tolist() == list(range(kept))
    taken = labels[CHOICES["most frequent class to rarest"][1](labels, 310, 16)]
    assert torch.bincount(taken).tolist() == [160, 80, 40, 20, 10]


def test_ranks_and_their_correlation_are_those_of_scipy():
    from scipy import stats

    draw = np.random.default_rng(0)
    for ties in (False, True):
        a = draw.normal(size=40)
        b = a + draw.normal(size=40)
        if ties:
            a, b = a.round(), b.round()
        assert ranks(a).tolist() == stats.rankdata(a).tolist()
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)


def test_the_interval_is_over_groups_and_there_is_none_of_too_few():
    a = list(range(12))
    alone, together = [str(i) for i in a], [str(i // 3) for i in a]
    b = [2, 1, 0, 3, 5, 4, 8, 7, 6, 9, 10, 11]
    found = correlation(a, b, alone)
    assert (found["items"], found["groups"]) == (12, 12)
    assert found["low"] < found["spearman"] < found["high"] <= 1
    assert found == correlation(a, b, alone)
    assert correlation(a, b, together)["groups"] == 4
    assert correlation(a, b, together)["low"] != found["low"]
    assert correlation(a, a, alone)["low"] == correlation(a, a, alone)["high"] == pytest.approx(1)
    assert correlation([1, 2, 3], [1, 2, 3], ["a", "a", "b"])["low"] is None
    assert correlation([1, 2], [1, 2], ["a", "b"])["spearman"] is None
    assert correlation([1, 1, 1], [1, 2, 3], ["a", "b", "c"])["spearman"] is None
    assert correlation([], [], [])["items"] == 0
