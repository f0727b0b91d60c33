"""Conditional GANs: labels in the networks, the losses, training, samples, scores and files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY, smallest
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from msngan import GAN, ImageData, load_generator
from msngan.losses import LOSSES, PENALTIES
from msngan.networks import Critic, Generator
from msngan.networks.conditional import CONDITIONINGS, ConditionalBatchNorm2d
from msngan.networks.sampling import class_rows, draw_samples, first_of_each
from msngan.norms import NORMS
from msngan.norms.layers import stored
from msngan.runs.folder import UserError
from msngan.scores.scorer import Real, Scorer

COND = ["fit", *TINY, *QUIET, "--model.conditional", "true"]
LABELS = torch.tensor([2, 0, 1, 2])


@pytest.mark.quick
def test_a_conditional_batch_norm_is_batch_norm_times_the_gain_of_the_class_plus_its_offset():
    norm = ConditionalBatchNorm2d(5, 3).double()
    nn.init.normal_(norm.gain)
    nn.init.normal_(norm.offset)
    x = torch.randn(4, 5, 2, 3, dtype=torch.float64, requires_grad=True)
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = (x - mean).square().mean((0, 2, 3), keepdim=True)
    plain = (x - mean) / (variance + 1e-5).sqrt()
    expected = torch.stack(
        [
            plain[i] * norm.gain[label][:, None, None] + norm.offset[label][:, None, None]
            for i, label in enumerate(LABELS)
        ]
    )
    got, weights = norm(x, LABELS), torch.randn(4, 5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    parameters = (x, norm.gain, norm.offset)
    for one, other in zip(
        torch.autograd.grad((got * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    other = nn.BatchNorm2d(5).double()
    other(x)
    assert int(norm.norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.norm.running_mean, other.running_mean)
    torch.testing.assert_close(norm.norm.running_var, other.running_var)
    halves = norm.eval()(x, F.one_hot(LABELS, 3).double())
    torch.testing.assert_close(halves, norm(x, LABELS), rtol=0, atol=1e-12)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_conditional_batch_norm_has_the_same_gradients_in_float32_and_in_either_layout(layout):
    wide, norm = ConditionalBatchNorm2d(5, 3).double(), ConditionalBatchNorm2d(5, 3)
    nn.init.normal_(wide.gain)
    norm.load_state_dict(wide.state_dict())
    x = (torch.randn(4, 5, 6, 6, dtype=torch.float64) + 30).requires_grad_()  # a mean of 30 sd
    narrow = x.detach().float().to(memory_format=layout).requires_grad_()
    weights = torch.randn(4, 5, 6, 6)
    exact, *expected = torch.autograd.grad(
        (wide(x, LABELS) * weights).sum(), (x, wide.gain, wide.offset)
    )
    found, *others = torch.autograd.grad(
        (norm(narrow, LABELS) * weights).sum(), (narrow, norm.gain, norm.offset)
    )
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-4)
    for one, other in zip(others, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=0, atol=1e-3)


def test_one_value_of_a_channel_has_no_variance_with_labels_either():
    for classes in (0, 3):
        labels = (torch.zeros(1, dtype=torch.int64),) if classes else ()
        with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
            Generator(4, 2, 1, 8, classes=classes)(torch.randn(1, 4), *labels)


def features(critic: Critic, images: Tensor) -> Tensor:
    """Of a critic without a norm, by torch's functions."""
    x = images
    for layer in critic.body:
        if isinstance(layer, nn.Conv2d):
            x = F.conv2d(x, layer.weight, layer.bias, layer.stride, layer.padding)
            x = torch.where(x > 0, x, 0.1 * x)
    return x.reshape(len(x), -1)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
def test_a_conditional_critic_is_its_head_and_the_head_of_the_class(conditioning):
    critic = Critic("none", 2, 1, 8, classes=3, conditioning=conditioning).double()
    images = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    phi = features(critic, images)
    logits = (phi @ critic.head.weight.T + critic.head.bias).squeeze(1)
    found = critic(images, LABELS)
    if conditioning == "acgan":
        weight, bias = critic.classifier.weight, critic.classifier.bias
        torch.testing.assert_close(found[1], phi @ weight.T + bias, rtol=0, atol=1e-12)
        found = found[0]
    else:
        rows = [critic.embedding.weight[label] @ phi[i] for i, label in enumerate(LABELS)]
        logits = logits + torch.stack(rows)
    torch.testing.assert_close(found, logits, rtol=0, atol=1e-12)


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_the_head_of_the_classes_gets_a_norm_s_weight_part_and_no_output_part(norm, conditioning):
    size = smallest(norm)
    critic = Critic(norm, 2, 1, size, classes=3, conditioning=conditioning)
    head = critic.classifier if conditioning == "acgan" else critic.embedding
    assert hasattr(head, "weight_norm") == hasattr(critic.head, "weight_norm")
    assert getattr(head, "output_norm", None) is None
    found = critic(torch.randn(4, 1, size, size), LABELS)
    total = sum(each.square().sum() for each in (found if isinstance(found, tuple) else [found]))
    total.backward()
    assert all(each.grad.isfinite().all() for each in critic.parameters() if each.grad is not None)
    assert stored(head).grad is not None
    if norm in ("spectral", "mean_spectral", "spectral_bias"):
        sigma = torch.linalg.matrix_norm(head.weight.detach(), 2)
        assert 0.98 < float(sigma) < 1.02


def a_step(**options) -> tuple[GAN, dict[str, float]]:
    """One step of a tiny conditional GAN on random images, and its figures."""
    import pytorch_lightning as pl

    gan = GAN(
        **{"norm": "none", "conditional": True, "classes": 3, "width": 2, "latent_dim": 4}
        | {"channels": 1, "size": 8}
        | options
    )
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(8, 1, 8, 8, generator=draw) * 2 - 1
    labels = torch.randint(3, (8,), generator=draw)
    figures: dict[str, float] = {}
    step = gan.training_step

    def watched(batch, batch_idx):
        figures.update({name: float(value) for name, value in step(batch, batch_idx).items()})

    gan.training_step = watched
    loader = torch.utils.data.DataLoader([*zip(images, labels, strict=True)], 8)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    pl.Trainer(max_steps=1, enable_model_summary=False, accelerator="cpu", **quiet).fit(gan, loader)
    return gan, figures


@pytest.mark.parametrize("conditioning", CONDITIONINGS)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_with_labels(loss, conditioning):
    _, figures = a_step(loss=loss, conditioning=conditioning)
    assert ("generator_class_loss" in figures) == (conditioning == "acgan")
    assert np.isfinite([*figures.values()]).all()


@pytest.mark.parametrize("penalty", [name for name in PENALTIES if name != "none"])
def test_every_penalty_takes_the_critic_with_the_labels(penalty):
    found = [a_step(penalty=penalty, conditioning=each)[1] for each in CONDITIONINGS]
    assert all(np.isfinite([*figures.values()]).all() for figures in found)


def test_the_classes_weigh_in_the_losses_of_both_networks_as_the_option_says():
    def moved(weight: float) -> tuple[dict[str, Tensor], dict[str, float]]:
        options = dict(conditioning="acgan", class_weight=weight, optimizer="sgd")
        gan, figures = a_step(**options, critic_lr=1.0, generator_lr=1.0)
        return gan.state_dict(), figures

    start = GAN(
        norm="none", conditional=True, classes=3, width=2, latent_dim=4, channels=1, size=8,
        conditioning="acgan",
    ).state_dict()  # fmt: skip
    none, one, two = (moved(weight) for weight in (0.0, 1.0, 2.0))
    key = "critic.classifier.weight"
    assert torch.equal(none[0][key], start[key])  # nothing else trains it
    torch.testing.assert_close(two[0][key] - start[key], 2 * (one[0][key] - start[key]))
    # -log softmax of logits near zero, of real and of fake images
    assert one[1]["real_class_loss"] == pytest.approx(np.log(3), abs=0.05)
    assert one[1]["fake_class_loss"] == pytest.approx(np.log(3), abs=0.05)
    assert not torch.equal(none[0]["generator.stem.weight"], one[0]["generator.stem.weight"])


def test_in_a_joint_batch_real_and_fake_images_have_their_own_labels():
    options = dict(norm="mean_only", width=2, latent_dim=4, channels=1, size=8)
    gan = GAN(**options, critic_batch="joint", conditional=True, classes=3)
    real, fake = torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)
    (one, other), wrong = gan._score(real, fake, LABELS, joint=True)
    both = gan.critic(torch.cat([real, fake]), torch.cat([LABELS, LABELS]))
    torch.testing.assert_close(torch.cat([one, other]), both)
    assert not wrong


# Samples


def test_a_grid_has_a_row_for_each_class():
    labels, columns = class_rows([0, 3, 5], 12)
    assert labels.tolist() == [0] * 4 + [3] * 4 + [5] * 4
    assert columns == 4
    labels, columns = class_rows(range(100), 64)
    assert labels.tolist() == [*range(100)]
    assert columns == 10
    labels, _ = class_rows(range(10_000), 64)
    assert len(labels) == len(labels.unique()) == 250


def test_real_images_beside_a_grid_are_the_first_of_their_classes_in_its_order():
    labels = torch.tensor([1, 0, 1, 1, 0])
    assert first_of_each(labels, torch.tensor([0, 0, 1, 1, 0])).tolist() == [1, 4, 0, 2, 1]


def tiny_run(run, name: str = "a", *options: str) -> Path:
    assert run(*COND, "--run", name, *options) == 0
    return Path("checkpoints") / name


@pytest.mark.quick
def test_samples_are_of_the_classes_that_are_asked_for(run):
    tiny_run(run)
    generator = load_generator("a")
    assert generator.classes == 10
    assert run("sample", "a", "--classes", "3,7", "--n", "6", "--format", "npz", "--out", "x") == 0
    found = np.load("x")
    assert found["arr_1"].tolist() == [3, 7, 3, 7, 3, 7]
    labels = torch.from_numpy(found["arr_1"])
    drawn = torch.cat(list(draw_samples(generator, 6, 0, labels=labels)))
    assert torch.equal(torch.from_numpy(found["arr_0"]).permute(0, 3, 1, 2), drawn)
    assert run("sample", "a", "--n", "20", "--out", "folder") == 0
    assert {path.name for path in Path("folder").iterdir()} == {str(label) for label in range(10)}
    assert run("sample", "a", "--out", "grid.png") == 0
    assert run("sample", "a", "--classes", "3,7", "--out", "rows.png") == 0
    tile, edge = 8 * 8, 2 * 8  # a picture is enlarged eight times, its gap too
    whole = np.asarray(Image.open("rows.png"))
    assert whole.shape == tuple(edge + count * (tile + edge) for count in (2, 8))
    assert run("sample", "a", "--interpolate", "2", "--classes", "3,7", "--out", "path.png") == 0
    whole = np.asarray(Image.open("path.png"))
    z_ends = [torch.full((2,), label) for label in (3, 7)]
    ends = [
        torch.cat(list(draw_samples(generator, 4, 0, labels=torch.cat([y, y])))) for y in z_ends
    ]
    for row in range(2):
        top = edge + row * (tile + edge)
        for images, column in ((ends[0], 0), (ends[1], 9)):
            place = whole[top : top + tile : 8, edge + column * (tile + edge) :][:, :tile:8]
            assert (place == images[row, 0].numpy()).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["sample", "a", "--classes", "10"], "--classes 10: a has the classes 0 to 9"),
        (["sample", "a", "--classes", ""], "--classes is empty; give numbers of classes"),
        (["sample", "a", "--classes", "1,2,3", "--interpolate", "2"], "takes one class or two"),
        (["sample", "b", "--classes", "1"], "--classes: b is not conditional; leave it out"),
    ],
)
def test_classes_that_cannot_be_are_one_line(run, refused, options, said):
    tiny_run(run)
    assert run("fit", *TINY, *QUIET, "--run", "b", "--steps", "1") == 0
    assert said in refused(*options)


@pytest.mark.parametrize("ending", ["safetensors", "onnx", "pt"])
def test_an_exported_generator_takes_labels_and_one_that_is_no_program_shares(run, capfd, ending):
    tiny_run(run)
    assert run("export", "a", "--out", f"a.{ending}") == 0
    path = ["--interpolate", "1", "--classes", "0,1", "--out", "path.png"]
    assert run("sample", f"a.{ending}", *path) == (0 if ending == "safetensors" else 2)
    assert ("takes whole numbers as labels" in capfd.readouterr().err) != Path("path.png").exists()
    exported, generator = load_generator(f"a.{ending}"), load_generator("a")
    z = torch.randn(4, 4)
    assert exported.classes == 10
    torch.testing.assert_close(exported(z, LABELS), generator(z, LABELS), rtol=0, atol=1e-5)
    assert not torch.equal(exported(z, LABELS), exported(z, LABELS + 1))


# Scores


def test_scored_samples_have_the_classes_of_the_reference_in_its_shares():
    images = torch.randint(0, 256, (40, 1, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0] * 30 + [1] * 10)
    real = Real(images, None, "folder", "all", None, labels)
    scorer = Scorer(real, classes=2, runs=1, samples=20)
    found = scorer.labels_of(10_000, 3)
    assert found.float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.equal(found, scorer.labels_of(10_000, 3))
    assert not torch.equal(found, scorer.labels_of(10_000, 4))
    assert scorer.protocol.id == Scorer(real, runs=1, samples=20).protocol.id
    other = Scorer(real, classes=3, runs=1, samples=20)  # class 2 has no image here, all the same
    assert int(other.labels_of(1000, 0).max()) == 1
    uniform = Scorer(images, classes=2, runs=1, samples=20)
    assert uniform.labels_of(10_000, 3).float().mean() == pytest.approx(0.5, abs=0.02)
    assert uniform.protocol.id != Scorer(images, runs=1, samples=20).protocol.id
    assert "uniform labels" in uniform.protocol.label()


def test_a_conditional_run_is_scored_and_evaluated_to_the_same_numbers(run):
    scored = ["--scores.enabled", "true", "--scores.samples", "30", "--scores.runs", "2"]
    tiny_run(run, "a", *scored)
    assert run("evaluate", "a", "--images", "30", "--runs", "2", "--via", "torchmetrics") == 0
    lines = Path("checkpoints/a/scores.jsonl").read_text().splitlines()
    fit, evaluated = (json.loads(line)["scores"] for line in lines)
    assert fit == evaluated


# Bad input


class Plain(nn.Module):
    def forward(self, z: Tensor) -> Tensor:
        return z[:, :, None, None].tanh()


def test_networks_that_take_no_labels_and_labels_that_cannot_be_are_one_line():
    given = dict(conditional=True, width=2, latent_dim=4, channels=1, size=8)
    with pytest.raises(UserError, match="--model.conditional: conditional needs the number of"):
        GAN(**given)
    with pytest.raises(UserError, match=r"GAN\(generator=...\): its forward takes no labels"):
        GAN(generator=Plain(), classes=3, **given)
    for labels, said in (
        (None, "the labels of a batch are missing"),
        (torch.zeros(7).long(), r"the labels of a batch are of shape \(7,\)"),
        (torch.zeros(8, 1).long(), r"the labels of a batch are of shape \(8, 1\)"),
        (torch.full((8,), 3), "a batch has labels from 3 to 3, the GAN 3 classes"),
        (torch.full((8,), -100), "a batch has labels from -100 to -100, the GAN 3 classes"),
        (torch.full((8,), 0.5), "the labels of a batch are torch.float32; give whole numbers"),
        (torch.full((8,), float("nan")), "the labels of a batch are torch.float32; give whole"),
    ):
        gan, images = GAN(classes=3, **given), torch.zeros(8, 1, 8, 8)
        for gan._looked in (False, True):  # of the first batch, and of a later one
            with pytest.raises(UserError, match=said):
                gan._images(images if labels is None else (images, labels))


WHOLE = [torch.int8, torch.int16, torch.int32, torch.int64]
WHOLE += [torch.uint8, torch.uint16, torch.uint32, torch.uint64]


class TakesOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


class TakesNames(nn.Module):
    def forward(self, x: Tensor, *, labels: Tensor) -> Tensor:
        return x


class TakesAny(nn.Module):
    def forward(self, *given: Tensor) -> Tensor:
        return given[0]


def test_a_network_of_one_s_own_is_called_with_two_arguments():
    given = dict(conditional=True, classes=3, norm="none", size=8, channels=1, width=2)
    for each in (TakesOne(), TakesNames()):
        with pytest.raises(UserError, match=r"GAN\(critic=...\): its forward takes no labels"):
            GAN(critic=each, **given)
    assert GAN(critic=TakesAny(), **given).critic(1, 2) == 1


def test_labels_are_of_any_type_of_whole_numbers():
    gan = GAN(conditional=True, classes=3, width=2, latent_dim=4, channels=1, size=8)
    images, samples = torch.full((4, 1, 8, 8), -0.5), gan.sample(4, 0, labels=LABELS)
    for dtype in WHOLE:
        gan._looked = False
        assert torch.equal(gan._images((images, LABELS.to(dtype)))[1], LABELS)
        assert torch.equal(gan.sample(4, 0, labels=LABELS.to(dtype)), samples)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--data.limit", "8"],
            "class 8 of 10 has none of the 8 images; add some, or raise --data.",
        ),
        (["--data.dataset", "folder", "--data.root", "flat"], "flat has no labels: 2 of its 2"),
        (["--model.conditioning", "project"], "--model.conditioning"),
        (["--model.class_weight", "-1"], "--model.class_weight"),
        (["--model.class_weight", "2"], "--model.class_weight 2.0 without --model.conditioning"),
        (
            ["--model.conditional", "false", "--model.conditioning", "acgan"],
            "--model.conditioning acgan without --model.conditional true",
        ),
    ],
)
def test_data_without_the_labels_that_are_needed_are_one_line(refused, options, said):
    Path("flat").mkdir()
    for name in ("a", "b"):
        Image.new("L", (8, 8)).save(f"flat/{name}.png")
    assert said in refused(*COND, *options)
    assert not Path("checkpoints").exists()


def test_a_data_set_of_which_some_images_have_no_label_is_one_line():
    data = ImageData("digits")
    found = data.images("all")
    found.labels[5] = -1
    with pytest.raises(ValueError, match="has images without a label in its split"):
        _ = data.labels


def test_a_conditional_network_says_that_it_needs_labels():
    with pytest.raises(ValueError, match="the network is conditional; give it labels"):
        Generator(4, 2, 1, 8, classes=3)(torch.randn(2, 4))
    with pytest.raises(ValueError, match="the network is conditional; give it labels"):
        Critic("none", 2, 1, 8, classes=3)(torch.randn(2, 1, 8, 8))


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([1, 2, 10], "labels from 1 to 10: the generator has the classes 0 to 9"),
        ([-1, 2, 3], "labels from -1 to 3"),
        ([1, 2], "labels are torch.int64 of shape (2,); give 3 whole numbers"),
        (torch.ones(3), "labels are torch.float32 of shape (3,); give 3 whole numbers"),
    ],
)
def test_samples_of_labels_that_cannot_be_are_refused_in_words(labels, said):
    gan = GAN(conditional=True, classes=10, width=2, latent_dim=4, channels=1, size=8)
    with pytest.raises(ValueError, match=re.escape(said)):
        gan.sample(3, seed=0, labels=labels)
    assert torch.equal(
        gan.sample(3, seed=0, labels=[1, 2, 3]), gan.sample(3, seed=0, labels=torch.arange(1, 4))
    )


def test_classes_of_a_gan_that_is_not_conditional_are_refused():
    with pytest.raises(UserError, match="classes 10 without conditional"):
        GAN(classes=10)
