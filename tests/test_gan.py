"""One step of a GAN: who is updated, with what, and how often."""

from __future__ import annotations

import copy
import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import COUPLED, TINY, Patch, under, weights
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from msngan.classifier import Classifier
from msngan.gan import GAN
from msngan.networks import Generator
from msngan.networks.updates import share_of, update_average
from msngan.norms import NORMS, SigmaBank, is_batch_coupled
from msngan.runs.jsonl import read_lines

BATCH = 8  # of the tiny runs


@pytest.fixture
def inputs(monkeypatch: Patch) -> list[tuple[int, bool, bool]]:
    """(batch size, gradient wanted for weights, training statistics) of each pass of a critic."""
    seen: list[tuple[int, bool, bool]] = []
    original = GAN.__init__

    def watched(self: GAN, *arguments: Any, **options: Any) -> None:
        original(self, *arguments, **options)

        def hook(critic: nn.Module, given: tuple[torch.Tensor], result: torch.Tensor) -> None:
            trained = all(weight.requires_grad for weight in critic.parameters())
            parts = [part for part in critic.modules() if hasattr(part, "track_running_stats")]
            tracking = all(part.track_running_stats and part.training for part in parts)
            seen.append((len(given[0]), trained, bool(parts) and tracking))

        self.critic.register_forward_hook(hook)

    watched.__wrapped__ = original  # type: ignore[attr-defined]  # keeps the signature for the parser
    monkeypatch.setattr(GAN, "__init__", watched)
    return seen


JOINT, LAST = ["--model.critic_batch", "joint"], ["--model.generator_statistics", "last"]
SEPARATE = ["--model.critic_batch", "separate"]
# (batch size, gradient for the weights, training statistics) of a pass, and of both together.
UPDATE, GENERATOR = (BATCH, True, False), (BATCH, False, False)
JOINT_UPDATE, JOINT_GENERATOR = (2 * BATCH, True, True), (2 * BATCH, False, False)


@pytest.mark.parametrize(
    ("norm", "options", "passes"),
    [  # of the kinds of norm: none, of the weight, of each image, of the batch
        ("none", JOINT, [UPDATE, UPDATE, GENERATOR]),
        ("spectral", JOINT, [UPDATE, UPDATE, GENERATOR]),
        ("layer", JOINT, [UPDATE, UPDATE, GENERATOR]),
        ("mean_spectral", JOINT, [JOINT_UPDATE, JOINT_GENERATOR]),
        (
            "mean_spectral",
            [*JOINT, "--model.critic_steps", "2"],
            [JOINT_UPDATE, JOINT_UPDATE, JOINT_GENERATOR],
        ),
        ("mean_spectral", [*JOINT, *LAST], [JOINT_UPDATE, GENERATOR]),
        ("batch", SEPARATE, [(BATCH, True, True), (BATCH, True, True), GENERATOR]),
        ("mean_spectral", SEPARATE, [(BATCH, True, True), (BATCH, True, True), GENERATOR]),
    ],
)
def test_real_and_fake_pass_together_where_the_norm_couples_a_batch_and_joint_is_asked(
    tiny, inputs, norm, options, passes
):
    tiny("mine", *under(norm), "--steps", "1", *options)
    assert inputs == passes


@pytest.mark.parametrize(("norm", "batches"), [("batch", "joint"), ("mean_spectral", "separate")])
def test_statistics_and_sigma_move_in_the_critic_s_own_updates_alone(
    tiny, monkeypatch, norm, batches
):
    calls: list[SigmaBank] = []
    update = SigmaBank.update
    monkeypatch.setattr(SigmaBank, "update", lambda self: (calls.append(self), update(self)))
    options = ["--model.norm", norm, "--model.critic_batch", batches, "--model.penalty", "gradient"]
    options += ["--steps", "3", "--model.critic_steps", "2", "--samples.every", "1"]
    state = weights(tiny("mine", *options))
    counts = [v for k, v in state.items() if k.startswith("critic") and "tracked" in k]
    assert len(counts) == 7
    assert set(map(int, counts)) == {3 * 2 * (1 if batches == "joint" else 2)}
    if norm == "mean_spectral":
        assert len(calls) == 3 * 2


@pytest.mark.parametrize("norm", sorted({*NORMS} - {"instance"}))
@pytest.mark.filterwarnings("ignore:convert. .* normalise the output of:UserWarning")
def test_a_generator_trains_under_every_norm_and_its_average_samples(norm):
    gan = GAN(generator_norm=norm, init="orthogonal", width=2, latent_dim=4, size=8)
    optimizer, _ = gan.configure_optimizers()
    for step in range(2):
        with gan.generator_bank.shared():
            gan.critic(gan.generator(torch.randn(5, 4))).mean().backward()
        optimizer.step()
        gan.generator_bank.update()
        update_average(gan.ema, gan.generator, share_of(0.5, step))
    assert gan.sample(3, 0).float().std() > 0
    gan.ema.load_state_dict(gan.generator.state_dict())
    assert torch.equal(gan.sample(3, 0), gan.sample(3, 0, ema=False))


def test_an_instance_norm_where_each_channel_has_one_value_is_one_line(refused):
    line = refused("fit", *TINY, "--model.generator_norm", "instance")
    assert "--model.generator_norm instance: instance norm needs more than one value" in line


def gradients(folder: Path, optimizer: int) -> torch.Tensor:
    """Of the first step, from Adam's first moments, all weights in one vector."""
    state = weights(folder)
    names = sorted(k for k in state if k.startswith(f"adam{optimizer}.") and "exp_avg" in k)
    return torch.cat([state[name].flatten() for name in names if not name.endswith("_sq")])


@pytest.mark.parametrize("norm", ["none", "mean_spectral"])
def test_bfloat16_gives_both_networks_the_gradients_of_float32(tiny, norm):
    # Autocast can keep copies of weights made without gradients (Lightning switches that off);
    # a network that met them would learn nothing.
    options = ["--model.norm", norm, "--model.width", "8", "--steps", "1"]
    single = tiny("single", *options)
    half = tiny("half", *options, "--trainer.precision", "bf16-mixed")
    # The generator comes second: it meets a critic that rounding has already led elsewhere.
    for optimizer, least in ((0, 0.3), (1, 0.95)):
        exact, rounded = gradients(single, optimizer), gradients(half, optimizer)
        assert torch.cosine_similarity(exact, rounded, dim=0) > least


def test_a_critic_update_uses_the_weights_of_the_update_before_in_bfloat16(tiny, monkeypatch):
    original, scores = GAN._score, []

    def watched(self: GAN, real: torch.Tensor, *others: Any) -> Any:
        logits, wrong = original(self, real, *others)
        with torch.autocast("cpu", enabled=False), torch.no_grad():
            exact = self.critic(real.float())
        scores.append((logits[0] - exact).abs().max() / exact.abs().max())
        return logits, wrong

    monkeypatch.setattr(GAN, "_score", watched)
    options = ["--model.norm", "none", "--model.critic_steps", "4", "--model.critic_lr", "0.05"]
    tiny("mine", *options, "--steps", "2", "--trainer.precision", "bf16-mixed")
    assert len(scores) == 8
    assert sorted(scores)[4] < 0.1
    assert max(scores) < 0.5


def test_linear_decay_and_two_time_scales_set_the_rates(tiny):
    options = ["--model.lr_decay", "linear", "--model.critic_lr", "4e-4", "--records.every", "1"]
    rows = read_lines(tiny("mine", *options, "--steps", "4") / "metrics.jsonl")
    assert [row["generator_lr"] for row in rows] == pytest.approx([2e-4, 1.5e-4, 1e-4, 0.5e-4])
    assert [row["critic_lr"] for row in rows] == pytest.approx([4e-4, 3e-4, 2e-4, 1e-4])


def test_clip_bounds_every_weight_of_the_critic(tiny):
    options = ["--model.penalty", "clip", "--model.norm", "none", "--model.penalty_weight", "0.003"]
    state = weights(tiny("mine", *options, "--model.critic_lr", "0.01"))
    largest = max(v.abs().max() for k, v in state.items() if k.startswith("critic."))
    assert largest == pytest.approx(0.003)


def test_the_average_moves_by_hand_and_takes_buffers_whole():
    average, live = nn.BatchNorm1d(1), nn.BatchNorm1d(1)
    with torch.no_grad():
        average.weight.fill_(0.0)
        live.weight.fill_(1.0)
        live.running_mean.fill_(5.0)  # type: ignore[union-attr]
        live.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    update_average(average, live, share_of(0.9, 10_000))
    assert average.weight.item() == pytest.approx(0.1)
    assert average.running_mean == 5
    assert average.num_batches_tracked == 7
    update_average(average, live, share_of(0.9, 0))  # decay 1/10
    assert average.weight.item() == pytest.approx(0.1 * 0.1 + 0.9)


@pytest.mark.quick
def test_an_average_moves_by_a_share_in_a_tensor_as_by_a_number():
    live, one = Generator(4, 4, 1, 8).double(), Generator(4, 4, 1, 8).double()
    other = copy.deepcopy(one)
    update_average(one, live, 0.3)
    update_average(other, live, torch.tensor(0.3, dtype=torch.float64))
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-15)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["spectral", "mean_spectral"])  # test_norms compiles each
def test_compiled_networks_train_as_eager_ones(tiny, monkeypatch, norm):
    eager = weights(tiny("eager", *under(norm), "--steps", "3"))
    original = nn.Module.compile
    # The graphs are what the project answers for; generating C++ for them takes a minute.
    monkeypatch.setattr(nn.Module, "compile", lambda self: original(self, backend="aot_eager"))
    torch._dynamo.reset()
    options = [*under(norm), "--steps", "3", "--model.compile", "true"]
    compiled = weights(tiny("compiled", *options))
    assert eager.keys() == compiled.keys()
    for name, value in eager.items():
        if name.endswith("weight"):
            assert torch.allclose(value, compiled[name], atol=1e-4), name


def test_memory_layout_changes_rounding_only(tiny):
    last = weights(tiny("last", "--steps", "2"))
    first = weights(tiny("first", "--steps", "2", "--model.channels_last", "false"))
    for name in last:
        if name.endswith(("u", "v", "running_mean")):
            assert torch.allclose(last[name], first[name], atol=1e-3), name


def test_the_sampler_is_in_eval_and_leaves_modes_alone():
    gan = GAN(width=2, latent_dim=4, size=8, channels=1)
    gan.generator.train()
    gan.ema.body[0].eval()  # type: ignore[union-attr, index]
    before = [part.training for part in gan.modules()]
    images = gan.sample(5, seed=1)
    assert images.shape == (5, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert [part.training for part in gan.modules()] == before
    assert torch.equal(images, gan.sample(5, seed=1))
    assert torch.equal(gan.sample(7, seed=1, ema=False)[:2], gan.sample(7, seed=1, ema=False)[:2])


def test_only_batch_and_mean_norms_couple_a_batch():
    coupled = {name for name in NORMS if is_batch_coupled(GAN(norm=name, width=2, size=16).critic)}
    assert coupled == COUPLED


@pytest.mark.parametrize("kind", ["gan", "classifier"])
def test_under_a_plain_trainer_the_losses_of_every_step_reach_its_logger(kind, tmp_path):
    images, labels = torch.rand(32, 1, 8, 8) * 2 - 1, torch.arange(32) % 10
    shape: dict[str, Any] = {"channels": 1, "size": 8, "width": 2, "steps": 4}
    module = GAN(latent_dim=4, **shape) if kind == "gan" else Classifier(**shape)
    data = images if kind == "gan" else list(zip(images, labels, strict=True))
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=CSVLogger(tmp_path, version=0),
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data, batch_size=8))  # type: ignore[arg-type]
    with open(tmp_path / "lightning_logs/version_0/metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["0", "1", "2", "3"]
    names = ("critic_loss", "generator_loss") if kind == "gan" else ("loss", "accuracy")
    assert all(float(row[name]) >= -10 for row in rows for name in names)


def test_the_networks_of_a_study_are_built_before_anything_else_reads_the_images() -> None:
    from msngan.runs.configs import parse
    from msngan.training.tasks import TASKS

    words = ["-c", "digits_msn", "--model.width", "2", "--data.limit", "128"]
    module = TASKS["gan"](parse(words)).build()
    assert {parameter.device.type for parameter in module.parameters()} == {"cpu"}
