"""Updates by the mean gradient of several batches: equal to one batch where images are apart."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from conftest import Tiny, weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from msngan import GAN
from msngan.norms import SigmaBank
from msngan.runs.folder import UserError

IMAGES = torch.rand(48, 1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
DATA = TensorDataset(IMAGES * 2 - 1, torch.arange(48) % 3)


class Generator(nn.Module):
    """z, and labels where there are any, to images, each by itself."""

    latent_dim = 4

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(4, 16), nn.Linear(16, 64)
        self.classes_in = nn.Embedding(3, 16)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.hidden(z) + (0 if labels is None else self.classes_in(labels))
        return self.last(x.relu()).tanh().view(-1, 1, 8, 8)


def gan(accumulate: int, made: type[GAN] = GAN, **options: Any) -> GAN:
    torch.manual_seed(0)
    own: dict[str, Any] = dict(generator=Generator(), width=4, size=8, channels=1)
    return made(accumulate=accumulate, **own | options)


def fit(module: GAN, batch: int, steps: int = 2, images: int | None = None) -> dict[str, Tensor]:
    """Weights and averages after training on the same images in parts of `batch`; float64."""
    quiet: dict[str, Any] = dict(logger=False, enable_checkpointing=False, accelerator="cpu")
    quiet |= dict(enable_progress_bar=False, enable_model_summary=False)
    trainer = pl.Trainer(max_steps=steps, precision="64-true", **quiet)
    parts = module.options.accumulate * module.options.critic_steps
    trainer.fit(module, DataLoader(DATA, images or parts * batch))
    found = dict(module.state_dict())
    for index, optimizer in enumerate(trainer.optimizers):
        for number, state in enumerate(optimizer.state.values()):
            found |= {f"{index}.{number}.{key}": each.double() for key, each in state.items()}
    return found


CASES: dict[str, dict[str, Any]] = {
    "none": {"norm": "none", "critic_steps": 2, "gradient_clip": 0.01, "ema_decay": 0},
    "spectral": {"norm": "spectral", "penalty": ["gradient", "r1"], "loss": "wasserstein"},
    "paired": {"norm": "layer", "loss": "relativistic_paired", "optimizer": "sgd"},
    "projection": {"norm": "spectral", "conditional": True, "classes": 3, "optimizer": "rmsprop"},
    "acgan": {"norm": "none", "conditional": True, "classes": 3, "conditioning": "acgan"},
}


def farthest(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of a tensor, relative to its size."""
    assert a.keys() == b.keys()
    kept = [name for name in a if not name.endswith("block")]  # of rounding, beyond the rank
    pairs = [(a[name].double(), b[name].double()) for name in kept]
    return max(float((x - y).norm() / x.norm().clamp_min(1e-9)) for x, y in pairs)


@pytest.mark.parametrize("case", CASES)
def test_k_batches_are_one_of_k_times_the_size_where_no_image_sees_another(case):
    options = CASES[case]
    batch = 12 // options.get("critic_steps", 1)
    whole = fit(gan(1, **options), batch)
    accumulate = 2 if case == "none" else 3
    assert farthest(whole, fit(gan(accumulate, **options), batch // accumulate)) < 1e-9


def test_with_a_norm_over_the_batch_each_part_has_its_own_statistics():
    whole, parts = (fit(gan(k, norm="mean_spectral"), 12 // k) for k in (1, 2))
    assert farthest(whole, parts) > 1e-6
    counts = [
        {int(each) for name, each in state.items() if "tracked" in name} for state in (whole, parts)
    ]
    assert counts == [{2 * 2}, {2 * 2 * 2}]  # of real and fake images, in each of two steps


def test_sigma_is_estimated_once_per_update_and_a_step_is_still_one_update(tiny: Tiny, monkeypatch):
    calls: list[SigmaBank] = []
    update = SigmaBank.update
    monkeypatch.setattr(SigmaBank, "update", lambda self: (calls.append(self), update(self)))
    options = ["--model.accumulate", "3", "--model.critic_steps", "2", "--steps", "2"]
    state = weights(tiny("mine", *options, "--model.norm", "spectral"))
    assert len(calls) == 2 * 2
    assert {int(value) for name, value in state.items() if name.endswith(".step")} == {2, 4}


def test_figures_of_a_step_are_the_means_over_its_parts():
    seen: list[dict[str, Tensor]] = []

    class Watched(GAN):
        def to_loggers(self, figures: dict[str, Tensor]) -> None:
            seen.append(figures)

    for parts in (1, 2):
        fit(gan(parts, Watched, norm="spectral", penalty="r1"), 12 // parts, steps=1)
    whole, mean = seen
    assert whole.keys() == mean.keys() >= {"critic_loss", "penalty", "generator_loss"}
    for name in whole:
        torch.testing.assert_close(whole[name], mean[name], rtol=1e-9, atol=1e-9)


def test_too_few_images_for_the_parts_are_one_line(refused):
    with pytest.raises(UserError, match="a batch of 2 images for 2 critic_steps x 3 accumulate"):
        fit(gan(3, norm="none", critic_steps=2), 1, images=2)
    line = refused("fit", "--config", "digits_msn", "--model.accumulate", "100")
    assert "a step takes 6,400 images (batch size x critic steps x accumulate), the data" in line
