"""Samples of truncated latents, and of standing statistics; and scores that say so."""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import same_bits
from torch import Tensor, nn

from msngan import load_generator
from msngan.gan import GAN
from msngan.networks import draw_samples, latents
from msngan.networks.conditional import ConditionalBatchNorm2d
from msngan.networks.standing import BATCH, with_standing_statistics
from msngan.norms import NORMS, convert
from msngan.runs.folder import UserError
from msngan.scores import Protocol

SMALL = ["--runs", "1", "--images", "20", "--metrics", "fid"]


@pytest.mark.quick
@pytest.mark.parametrize("bound", [0.01, 0.5, 1.0, 3.0])
def test_truncated_latents_are_a_normal_distribution_within_the_bound(bound):
    z, free = latents(1000, 12, 3, bound), latents(1000, 12, 3)
    assert float(z.abs().max()) <= bound
    density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
    variance = 1 - 2 * bound * density / math.erf(bound / math.sqrt(2))
    assert float(z.var()) == pytest.approx(variance, rel=0.04)
    assert abs(float(z.mean())) < 0.03 * bound
    inside = free.abs() <= bound
    assert torch.equal(z[inside], free[inside])  # only those beyond it are drawn again
    assert torch.equal(z, latents(1000, 12, 3, bound))


def test_a_bound_beyond_all_numbers_changes_no_bit_and_one_that_is_too_small_is_refused():
    assert torch.equal(latents(10, 4, 0, 9.0), latents(10, 4, 0))
    for wrong in (0.001, 0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="truncation .* is less than 0.01"):
            latents(10, 4, 0, wrong)


def test_truncated_samples_do_not_depend_on_batches_or_on_which_are_drawn():
    gan = GAN(width=2, latent_dim=4, size=8, init="orthogonal")
    whole = gan.sample(9, 1, truncation=0.3)
    draws = draw_samples(gan.sampler(), 9, 1, 2, only=torch.arange(3, 8), truncation=0.3)
    assert torch.equal(torch.cat([*draws]), whole[3:8])
    assert not torch.equal(whole, gan.sample(9, 1))


class Toy(nn.Module):
    """Two batch norms, the second after what the first makes."""

    latent_dim, classes = 3, 0

    def __init__(self) -> None:
        super().__init__()
        self.one, self.first = nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3)
        self.two, self.second = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, z: Tensor) -> Tensor:
        return self.second(self.two(self.drop(self.first(self.one(z)).relu())))


def test_standing_statistics_are_the_means_over_batches_in_which_each_norm_uses_its_batch():
    toy = Toy().double()
    made = with_standing_statistics(toy, 7, seed=2, truncation=0.5)
    z = latents(7 * BATCH, 3, 2, 0.5, stream="standing").double().split(BATCH)
    inputs = [toy.one(each) for each in z]
    normed = [(x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt() for x in inputs]
    for norm, batches in (
        (made.first, inputs),
        (made.second, [toy.two(x.relu()) for x in normed]),  # without dropout
    ):
        means, variances = (torch.stack([f(x) for x in batches]).mean(0) for f in (mean, variance))
        torch.testing.assert_close(norm.running_mean, means)
        torch.testing.assert_close(norm.running_var, variances)
        assert norm.momentum == (0.3 if norm is made.first else 0.1)
    assert not any(part.training for part in made.modules())


def mean(x: Tensor) -> Tensor:
    return x.mean(0).detach()


def variance(x: Tensor) -> Tensor:
    return x.var(0).detach()


@pytest.mark.parametrize("norm", sorted({*NORMS} - {"instance"}))
@pytest.mark.filterwarnings("ignore:convert. .* normalise the output of:UserWarning")
def test_the_generator_itself_stays_as_it_is_under_every_norm(norm):
    gan = GAN(generator_norm=norm, width=2, latent_dim=4, size=8, init="orthogonal")
    generator, state = gan.generator, copy.deepcopy(gan.generator.state_dict())
    random = torch.get_rng_state()
    made = with_standing_statistics(generator, 2)
    assert same_bits(state, generator.state_dict())
    assert all(part.training for part in generator.modules())
    assert torch.equal(random, torch.get_rng_state())
    changed = {name for name, x in made.state_dict().items() if not torch.equal(x, state[name])}
    assert changed
    assert all("running" in name or "tracked" in name for name in changed)
    assert same_bits(made.state_dict(), with_standing_statistics(generator, 2).state_dict())


def test_a_conditional_generator_s_statistics_are_of_drawn_or_given_labels():
    class Labelled(nn.Module):
        latent_dim, classes = 2, 3

        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Embedding.from_pretrained(torch.tensor([[0.0], [10.0], [100.0]]))
            self.layer, self.norm = nn.Linear(2, 1), ConditionalBatchNorm2d(1, 3)

        def forward(self, z: Tensor, labels: Tensor) -> Tensor:
            x = self.layer(z) * 0 + self.shift(labels)
            return self.norm(x[..., None, None], labels)

    generator = Labelled()
    drawn = with_standing_statistics(generator, 20).norm.norm.running_mean
    assert 30 < float(drawn) < 44  # 110 / 3
    ones = torch.ones(2 * BATCH, dtype=torch.int64)
    given = with_standing_statistics(generator, 2, labels=ones).norm.norm.running_mean
    assert float(given) == 10


def test_a_generator_without_batch_norm_is_one_clear_line(mine, run, refused):
    plain = convert(nn.Sequential(nn.Linear(4, 3)), "spectral")
    plain.latent_dim = 4
    with pytest.raises(ValueError, match="no batch norm, whose statistics"):
        with_standing_statistics(plain, 4)
    assert run("export", "mine", "--out", "x.pt") == 0
    for command in ("sample", "evaluate"):
        line = refused(command, "x.pt", "--standing", "4")
        assert "--standing 4: the generator has no batch norm, whose statistics" in line
    with pytest.raises(UserError, match=r"load_generator\(standing=4\): the generator has no"):
        load_generator("x.pt", standing=4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--truncation", "0"], "--truncation 0.0 is less than 0.01"),
        (["--truncation", "nan"], "--truncation: nan is not a finite number"),
        (["--truncation", "x"], "--truncation 'x' is not a number"),
        (["--standing", "0"], "--standing 0 is less than 1"),
        (["--standing", "1.5"], "--standing '1.5' is not a whole number"),
    ],
    ids=str,
)
def test_bad_values_are_one_line(refused, words, said):
    for command in ("sample", "evaluate"):
        assert said in refused(command, "mine", *words)
    images = ["evaluate", "--samples", "x.npz", "--dataset", "digits", "--truncation", "1"]
    assert "--truncation is for runs" in refused(*images)


def test_sample_draws_them_into_files_of_their_own_and_the_run_stays_as_it_was(mine, run):
    before = (mine / "last.ckpt").read_bytes()
    ways: dict[str, list[str]] = {
        "": [],
        "-truncation0.5": ["--truncation", "0.5"],
        "-standing3": ["--standing", "3"],
        "-truncation0.5-standing3": ["--truncation", "0.5", "--standing", "3"],
    }
    for words in ways.values():
        assert run("sample", "mine", *words) == 0
    found = [mine.parents[1] / f"samples/mine/sample-00000006-seed0{end}.png" for end in ways]
    assert len({path.read_bytes() for path in found}) == 4
    assert (mine / "last.ckpt").read_bytes() == before
    both = load_generator("mine", standing=3, truncation=0.5)
    drawn = torch.cat([*draw_samples(both, 8, 0, truncation=0.5)])
    assert run("sample", "mine", "--n", "8", "--format", "npz", "--out", "x.npz", *words) == 0
    saved = torch.from_numpy(np.load("x.npz")["arr_0"]).permute(0, 3, 1, 2)
    assert torch.equal(saved, drawn)


def test_scores_of_them_are_under_protocols_of_their_own_which_the_leaderboard_names(
    mine, run, capfd
):
    (mine / "scores.jsonl").unlink()
    ways: list[list[str]] = [[], ["--truncation", "0.5"], ["--standing", "3"]]
    for words in ways:
        assert run("evaluate", "mine", *SMALL, *words) == 0
    lines: list[dict[str, Any]] = [
        json.loads(line) for line in (mine / "scores.jsonl").read_text().splitlines()
    ]
    assert len({line["protocol_id"] for line in lines}) == 3
    assert len({score["mean"] for line in lines for score in line["scores"].values()}) == 3
    protocols = [Protocol(**line["protocol"]) for line in lines]
    assert [(each.truncation, each.standing) for each in protocols] == [
        *((None, 0), (0.5, 0), (None, 3))
    ]
    capfd.readouterr()
    assert run("leaderboard") == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "truncation 0.5" in shown
    assert "standing statistics (batches: 3)" in shown
