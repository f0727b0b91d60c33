"""Known degradations of real images."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from toy_extractor import photographs

from msngan.data.images import Images
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
