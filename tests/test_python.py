"""From Python: a plain Trainer, any loader, networks of one's own, Lightning's callbacks."""

from __future__ import annotations

import ast
import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from conftest import Patch, Shown, same_bits
from pytorch_lightning.callbacks import EarlyStopping, LearningRateMonitor, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import msngan
import msngan.scores
from msngan import GAN, ImageData, Samples, Scores, load_generator
from msngan.__main__ import main
from msngan.runs.folder import UserError

SMALL: dict[str, Any] = dict(width=2, latent_dim=4, size=8, channels=1)
IMAGES = torch.arange(70 * 64).mul(37).remainder(256).to(torch.uint8).view(70, 1, 8, 8)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)


def trainer(steps: int, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    """A Trainer that stops after so many updates of the generator."""
    quiet = dict(enable_progress_bar=False, enable_model_summary=False, accelerator="cpu")
    options = {"logger": False, "enable_checkpointing": bool(callbacks), **quiet, **options}
    return pl.Trainer(max_steps=steps, callbacks=[*callbacks], **options)


def digits() -> ImageData:
    return ImageData("digits", size=8, batch_size=8, limit=64)


class Upsampler(nn.Module):
    """A generator of images 1x8x8."""

    def __init__(self, latent_dim: int = 6) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.layer = nn.Linear(latent_dim, 64)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.layer(z).tanh().view(-1, 1, 8, 8)


def own_critic(outputs: int = 1) -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, outputs)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    "images",
    [IMAGES, IMAGES.float() / 127.5 - 1, TensorDataset(IMAGES, torch.arange(70))],
    ids=["uint8", "float", "labelled"],
)
def test_any_loader_of_images_trains_for_max_steps_updates_of_the_generator(images: Any) -> None:
    gan, made = GAN(**SMALL), trainer(11)
    before = gan.generator.stem.weight.clone()
    made.fit(gan, DataLoader(images, 8))  # 9 batches an epoch, the last one of 6
    assert made.global_step == 11
    assert not torch.equal(gan.generator.stem.weight, before)


def test_bytes_and_floats_of_the_same_images_train_the_same_bits() -> None:
    states = []
    for images in (IMAGES, IMAGES.float() * (2 / 255) - 1):
        gan = GAN(**SMALL)
        trainer(4).fit(gan, DataLoader(images, 8))
        states.append(gan.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES.float() / 255, r"values from 0 to 1; .* of x in \[0, 1\] give x \* 2 - 1"),
        (IMAGES.float(), "values from 0 to 255"),
        (IMAGES.float() - 128, "values from -128 to 127"),
        (IMAGES.float() * torch.nan, "values from nan to nan"),
        (IMAGES.repeat(1, 3, 1, 1), r"makes images of 1x8x8, the batch has 3x8x8; give GAN\(chan"),
        (IMAGES[..., :4], "the batch has 1x8x4"),
        (IMAGES[:, 0], r"a batch is shape \(8, 8, 8\)"),
        ([{"image": 1}] * 9, "a batch is <class 'dict'>"),
    ],
)
def test_a_batch_that_is_no_images_of_the_networks_is_one_clear_error(
    images: Any, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        trainer(3).fit(GAN(**SMALL), DataLoader(images, 8))


def test_critic_steps_share_a_batch_and_its_rest_is_left() -> None:
    gan, made = GAN(critic_steps=3, **SMALL), trainer(2)
    made.fit(gan, DataLoader(IMAGES, 10))
    assert made.global_step == 2
    with pytest.raises(UserError, match="a batch of 2 images for 3 critic_steps"):
        trainer(2).fit(GAN(critic_steps=3, **SMALL), DataLoader(IMAGES, 2))


def of_modules() -> GAN:
    torch.manual_seed(5)
    own = dict(generator=Upsampler(), critic=own_critic(), penalty=["r1", "r2"])
    return GAN(**own, loss="relativistic_paired", generator_norm="mean_spectral")


@pytest.mark.parametrize("make", [lambda: GAN(**SMALL), of_modules], ids=["named", "modules"])
@pytest.mark.parametrize("stop", [3, 8, 11])  # within an epoch, at its end, in the next
def test_a_plain_trainer_resumes_to_the_bit(make: Callable[[], GAN], stop: int) -> None:
    def train(steps: int, folder: str, path: str | None = None) -> dict[str, torch.Tensor]:
        gan = make()
        saving = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True)
        trainer(steps, saving).fit(gan, digits(), ckpt_path=path)
        return dict(gan.state_dict())

    whole = train(13, "whole")
    train(stop, "parted")
    assert same_bits(whole, train(13, "parted", "parted/last.ckpt"))


def test_early_stopping_waits_for_a_first_score_that_comes_after_the_first_epoch() -> None:
    scores = Scores(every=12, runs=2, samples=20, real=IMAGES)
    stopping = EarlyStopping("fd", strict=False, patience=2, min_delta=1e9)
    made = trainer(40, scores, stopping)
    made.fit(GAN(**SMALL), DataLoader(IMAGES[:64], 8))  # 8 steps an epoch
    assert made.global_step == 32  # a score at 12, counted at 16; two epochs without a better one


def test_our_callbacks_and_lightning_s_work_beside_each_other() -> None:
    scores = Scores(every=4, runs=2, samples=20)
    best = ModelCheckpoint("best", monitor="fd", every_n_train_steps=4, filename="{step}")
    stopping = EarlyStopping("fd", patience=1, min_delta=1e9)  # no score is that much better
    callbacks = [Samples(every=4, count=4), scores, best, stopping, LearningRateMonitor()]
    loggers = [CSVLogger("."), TensorBoardLogger("events")]
    made = trainer(40, *callbacks, logger=loggers, log_every_n_steps=2)
    gan = GAN(**SMALL)
    made.fit(gan, digits())
    assert made.global_step == 16  # the second epoch's end is the first without a better score
    assert {path.name for path in Path("samples/lightning").glob("step-*")} >= {
        "step-00000000.png",
        "step-00000016.png",
    }
    assert len(Path("checkpoints/lightning/scores.jsonl").read_text().splitlines()) == 4
    with open(f"{made.logger.log_dir}/metrics.csv", newline="") as file:  # type: ignore[union-attr]
        rows = [*csv.DictReader(file)]
    for name in ("critic_loss", "fd/embed-digits-78ef9ba3", "lr-Adam"):
        assert any(row[name] for row in rows), name
    events = EventAccumulator(made.loggers[1].log_dir, {"images": 0}).Reload()  # type: ignore[arg-type]
    assert [event.step for event in events.Images("samples")] == [0, 4, 8, 12, 16]
    assert Path(best.best_model_path).name.startswith("step=")
    sampled = load_generator(best.best_model_path)(torch.zeros(2, 4))
    assert sampled.shape == (2, 1, 8, 8)


def test_scores_take_real_images_and_ask_for_them() -> None:
    gan = GAN(**SMALL)
    scores = Scores(every=2, runs=1, samples=20, real=IMAGES)
    made = trainer(2, scores)
    made.fit(gan, DataLoader(IMAGES, 8))
    assert made.callback_metrics["fd"] > 0
    with pytest.raises(UserError, match=r"give Scores\(real=images\)"):
        trainer(2, Scores()).fit(gan, DataLoader(IMAGES, 8))


@pytest.mark.parametrize("norm", ["spectral", "mean_spectral", "none"])
def test_modules_are_networks_and_their_checkpoints_load(norm: Any) -> None:
    gan = GAN(generator=Upsampler(), critic=own_critic(), norm=norm, generator_norm="spectral")
    saving = ModelCheckpoint("own", every_n_train_steps=6, filename="at")
    trainer(6, saving).fit(gan, DataLoader(IMAGES, 8))
    again = GAN.load_from_checkpoint("own/at.ckpt", generator=Upsampler(), critic=own_critic())
    assert torch.equal(again.sample(4, 1), gan.sample(4, 1))
    assert again.hparams["latent_dim"] == 6
    assert again.hparams["norm"] == norm
    z = torch.randn(3, 6)
    torch.testing.assert_close(
        load_generator("own/at.ckpt", generator=Upsampler())(z), gan.eval()(z)
    )
    with pytest.raises(UserError, match="give it again"):
        GAN.load_from_checkpoint("own/at.ckpt")
    with pytest.raises(UserError, match="give it again"):
        load_generator("own/at.ckpt")
    with pytest.raises(UserError, match="of the generator is"):
        load_generator("own/at.ckpt", generator=Upsampler(5))


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_critic_returns_one_logit_an_image(outputs: int) -> None:
    gan = GAN(critic=own_critic(outputs), norm="none", **SMALL)
    train: Callable[[], object] = lambda: trainer(2).fit(gan, DataLoader(IMAGES, 8))  # noqa: E731
    if outputs == 1:
        train()
        return
    with pytest.raises(UserError, match=r"logits of shape \(8, 3\)"):
        train()


@pytest.mark.parametrize("options", [{}, {"log_every_n_steps": 0}], ids=["usual", "never logs"])
@pytest.mark.parametrize("data", ["loader", "ImageData"])
def test_the_last_step_of_max_epochs_is_shown_and_scored(data: str, options: Any) -> None:
    callbacks = [Samples(every=0, count=4), Scores(every=0, runs=1, samples=20, real=IMAGES)]
    stopping = EarlyStopping("fd", check_on_train_epoch_end=False)
    made = trainer(-1, *callbacks, stopping, max_epochs=2, limit_train_batches=3, **options)
    made.fit(GAN(**SMALL), digits() if data == "ImageData" else DataLoader(IMAGES, 8))
    assert [path.name for path in Path("samples/lightning").glob("step*")] == ["step-00000006.png"]
    assert '"step": 6' in Path("checkpoints/lightning/scores.jsonl").read_text()


def test_an_epoch_of_image_data_ends_where_its_loader_does() -> None:
    trainer(-1, Samples(every=0, count=4), max_epochs=2).fit(GAN(**SMALL), digits())
    assert Path("samples/lightning/step-00000016.png").is_file()


def test_a_run_in_float64_resumes_to_the_bit() -> None:
    def train(steps: int, folder: str, path: str | None = None) -> dict[str, torch.Tensor]:
        gan = GAN(**SMALL)
        saving = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True)
        trainer(steps, saving, precision="64-true").fit(gan, digits(), ckpt_path=path)
        return dict(gan.state_dict())

    whole = train(5, "whole")
    train(3, "parted")
    assert same_bits(whole, train(5, "parted", "parted/last.ckpt"))


class Told(Upsampler):
    """Says what it is told to of the length of z."""

    def __init__(self, told: object) -> None:
        super().__init__()
        self.told = told

    @property
    def latent_dim(self) -> Any:
        return self.told

    @latent_dim.setter
    def latent_dim(self, value: int) -> None: ...


@pytest.mark.parametrize("told", [6, torch.tensor(6), np.int64(6)], ids=str)
def test_the_length_of_z_may_be_any_whole_number(told: object) -> None:
    gan = GAN(generator=Told(told), norm="none", **SMALL)
    trainer(1).fit(gan, DataLoader(IMAGES, 8))
    assert gan.sample(3, 0).shape == (3, 1, 8, 8)


def broken(critic: nn.Module) -> nn.Module:
    return nn.Sequential(critic, nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(generator=Told("6")), "its latent_dim is '6'; it must be an int"),
        (dict(generator=Told(0)), "latent_dim 0 is less than 1"),
        (dict(critic=broken(nn.Conv2d(1, 4, 3))), "lazy layers, without weights yet; pass a batch"),
        (dict(critic=broken(nn.Conv2d(1, 4, 3)), norm="none"), "lazy layers"),
        (dict(critic=nn.Linear), "is not a module; give one, such as"),
        (dict(critic=nn.Flatten()), "no layer to put a norm on.*; norm 'none' leaves the network"),
        (dict(loss="hing"), r"--model.loss: unknown value 'hing' \(did you mean 'hinge'"),
        (dict(penalty=["r1", "r3"]), "--model.penalty: unknown value 'r3'"),
        (dict(width="a"), "--model.width: 'a' is not an int"),
        (
            dict(
                critic=nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)),
                generator_statistics="last",
                norm="spectral",
            ),
            "--model.generator_statistics last: batch norm keeps no",
        ),
    ],
)
def test_arguments_that_cannot_be_are_one_clear_error(options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        GAN(**{**SMALL, **options})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: [Samples(every=-1)], "--samples.every -1 is less than 0"),
        (lambda: [Scores(best="x")], "--scores.best: unknown value 'x'"),
        (lambda: [Scores(real=IMAGES.float())], r"a Tensor of torch.float32 \(70, 1, 8, 8\); give"),
        (lambda: [Scores(real=IMAGES.numpy())], "a ndarray; give a tensor of images"),
        (lambda: [Scores(real=IMAGES.repeat(1, 3, 1, 1))], "images of 3x8x8, and the generator"),
        (lambda: [Samples(), Samples()], "two callbacks Samples would write the same files"),
    ],
)
def test_callbacks_that_cannot_be_are_refused_before_the_first_step(
    make: Callable[[], list[pl.Callback]], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        trainer(1, *make()).fit(GAN(**SMALL), DataLoader(IMAGES, 8))


def test_a_batch_of_one_image_is_one_clear_error() -> None:
    with pytest.raises(UserError, match=r"one image for an update; give .*drop_last=True"):
        trainer(9).fit(GAN(**SMALL), DataLoader(IMAGES[:9], 8))


def test_an_lr_decay_that_ends_elsewhere_than_training_is_said() -> None:
    with pytest.warns(UserWarning, match=r"ends at step 9, the Trainer at 1; give GAN\(steps=1\)"):
        trainer(1).fit(GAN(**SMALL, lr_decay="linear", steps=9), DataLoader(IMAGES, 8))


def test_several_processes_of_a_plain_trainer_are_one_clear_error() -> None:
    made = trainer(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(made), "world_size", 2)
        with pytest.raises(UserError, match=r"2 processes.*`msngan fit --trainer.devices 2`"):
            made.fit(GAN(**SMALL), DataLoader(IMAGES, 8))


class Module(pl.LightningDataModule):
    """Data of one's own, whose options Lightning keeps in the checkpoint."""

    def __init__(self, name: str = "mine") -> None:
        super().__init__()
        self.save_hyperparameters()

    def train_dataloader(self) -> Any:
        return DataLoader(IMAGES, 8)


@pytest.mark.parametrize("weights_only", [True, False])
def test_a_file_with_less_or_more_than_ours_is_sampled_from_and_not_resumed(
    weights_only: bool, capfd: Shown
) -> None:
    saving = ModelCheckpoint(".", "at", save_weights_only=weights_only)
    gan = GAN(**SMALL)
    trainer(2, saving).fit(gan, Module())
    z = torch.randn(3, 4)
    torch.testing.assert_close(load_generator("at.ckpt")(z), gan.eval()(z))
    assert main(["sample", "at.ckpt", "--out", "grid.png"]) == 0
    small = ["--model.width", "2", "--model.latent_dim", "4", "--data.size", "8"]
    assert main(["fit", "--config", "digits_msn", *small, "--ckpt_path", "at.ckpt"]) == 2
    assert "at.ckpt is not a valid checkpoint: it holds" in capfd.readouterr().err
    changed = torch.load("at.ckpt", weights_only=True)
    changed["datamodule_hyper_parameters"] = {"code": torch.zeros(2).expand(2**40, 2)}
    torch.save(changed, "bad.ckpt")
    with pytest.raises(UserError, match="code in it claims the shape"):
        load_generator("bad.ckpt")


def test_forward_and_sample_use_the_moving_average() -> None:
    gan = GAN(**SMALL).eval()
    gan.ema.head = None  # type: ignore[union-attr]
    for each in gan.ema.parameters():  # type: ignore[union-attr]
        each.data.zero_()
    assert gan(torch.randn(2, 4)).abs().max() == 0
    assert gan.sample(3, 0).unique().tolist() == [128]
    assert gan.sample(3, 0, ema=False).unique().numel() > 1


def test_importing_msngan_takes_little_time_and_no_torch() -> None:
    code = (
        "import sys, time; start = time.perf_counter(); import msngan;"
        "print(time.perf_counter() - start, 'torch' in sys.modules, 'numpy' in sys.modules)"
    )
    found = [subprocess.check_output([sys.executable, "-c", code], text=True) for _ in range(3)]
    assert min(float(line.split()[0]) for line in found) < 0.05
    assert all(line.split()[1:] == ["False", "False"] for line in found)


@pytest.mark.parametrize("package", [msngan, msngan.scores])
def test_a_type_checker_knows_every_public_name(package: Any) -> None:
    path = Path(package.__file__)
    assert (Path(msngan.__file__).parent / "py.typed").is_file()
    (seen,) = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.If))
    imported = {node.names[0].asname for node in seen.body if isinstance(node, ast.ImportFrom)}
    assert imported >= {*package._PLACES}


@pytest.mark.parametrize("name", msngan.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(msngan, name) is not None
