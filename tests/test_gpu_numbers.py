"""What a GPU computes is what a CPU computes: skipped without a GPU, where only the CPU runs it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import same_bits, weights
from norm_layers import ONE_OF_EACH_KIND
from pytorch_lightning import Callback, Trainer
from torch import Tensor, nn

from msngan.bench.step import Synthetic
from msngan.gan import GAN
from msngan.norms import SigmaBank, convert
from msngan.scores import distances

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=no_gpu)]
STEPS = 8  # of which a graph plays the last ones


@pytest.fixture(autouse=True)
def determinism() -> Iterator[None]:
    """Lightning switches it on for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


class End(Callback):
    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == STEPS


def network(norm: str) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.LeakyReLU(0.1), nn.Conv2d(8, 8, 3), nn.ReLU()]
    plain = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 36, 1)).double()
    return convert(plain, norm, head="5")


def learned(norm: str, device: str) -> dict[str, Tensor]:
    """Everything in a network after three updates in float64, and its output in evaluation."""
    made = network(norm).to(device)
    optimizer = torch.optim.SGD(made.parameters(), 0.1)
    bank = SigmaBank(made, optimizer)
    x = torch.randn(6, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        with bank.shared():
            loss = made(x.to(device)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = {name: each for name, each in made.state_dict().items() if "block" not in name}
    found["output"] = made.eval()(x.to(device)).detach()
    return {name: each.cpu().double() for name, each in found.items()}


@pytest.mark.parametrize("norm", ONE_OF_EACH_KIND)
@pytest.mark.parametrize("device", DEVICES)
def test_a_network_learns_the_same_on_either(norm, device):
    expected, found = learned(norm, "cpu"), learned(norm, device)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        # Blocks of vectors follow a span by other operations there; sigma agrees to its accuracy.
        torch.testing.assert_close(found[name].abs(), value.abs(), rtol=1e-4, atol=1e-6)


def trained(device: str, graph: bool, precision: str, **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    gan = GAN(width=8, size=32, loss="nonsaturating", norm="mean_spectral", **options)
    said: list[str] = []
    if graph:
        gan.capture_steps(said.append)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    quiet |= {"enable_progress_bar": False, "enable_model_summary": False, "max_epochs": -1}
    where = {"accelerator": "gpu" if device == "cuda" else "cpu", "devices": 1}
    trainer = Trainer(callbacks=[End()], precision=precision, deterministic=True, **where, **quiet)
    trainer.fit(gan, Synthetic(8))
    assert said == []
    return {name: each.cpu() for name, each in copy.deepcopy(gan.state_dict()).items()}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("device", DEVICES)
def test_a_graph_plays_the_steps_that_it_stands_for(device, precision):
    plain, played = (trained(device, graph, precision) for graph in (False, True))
    for name, value in plain.items():
        assert value.isfinite().all(), name
        torch.testing.assert_close(played[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_resumes_to_the_bit(run, device):
    given = ["fit", "--config", "digits_msn", "--model.width", "8", "--scores.enabled", "false"]
    given += ["--samples.every", "0", "--dynamics.every", "0", "--trainer.deterministic", "true"]
    given += ["--trainer.accelerator", "gpu" if device == "cuda" else "cpu"]
    assert run(*given, "--run", "whole", "--steps", "12") == 0
    assert run(*given, "--run", "half", "--steps", "6") == 0
    assert run("resume", "half", "--steps", "12") == 0
    folders = (Path("checkpoints") / name for name in ("whole", "half"))
    assert same_bits(*(weights(folder) for folder in folders))


@pytest.mark.parametrize("device", DEVICES)
def test_distances_are_the_same_numbers(device):
    draw = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(300, 24, generator=draw, dtype=torch.float64) for _ in range(2))
    there = [each.to(device) for each in (real, fake)]
    for measure in (distances.frechet_distance, distances.kernel_distance):
        assert measure(*there) == pytest.approx(measure(real, fake), rel=1e-8)
    assert distances.neighbours(*there) == distances.neighbours(real, fake)
    assert torch.allclose(distances.radii(there[0], 3).cpu(), distances.radii(real, 3))
