"""DINOv2 and CLIP as extractors: against their definitions, and which files are refused."""

from __future__ import annotations

import json
import math
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import QUIET, TINY
from safetensors.torch import save_file
from test_leaderboard_command import main as leaderboard
from torch import Tensor, nn
from torch_fidelity import feature_extractor_clip as fidelity_clip
from torch_fidelity import feature_extractor_dinov2 as fidelity_dinov2
from toy_extractor import photographs

from msngan.runs.folder import UserError
from msngan.scores.extractors import file_sha256
from msngan.scores.pretrained import PRETRAINED, Clip, Dinov2, PretrainedExtractor
from msngan.scores.scorer import choose

State = dict[str, Tensor]
TINY_KINDS: dict[str, Dinov2 | Clip] = {
    "dinov2-vit-s-14": Dinov2(width=12, depth=2, heads=3, size=28),
    "clip-vit-b-32": Clip(5, layers=2, width=64, patch=14, size=28),
    "clip-rn50": Clip(5, layers=(1, 2, 1, 1), width=2, size=64),
}
SIDE = 3  # of the grid of the positions in the DINOv2 file; the network's is 2
PUBLISHED = {  # millions of parameters: those of the files, for DINOv2 with 37 x 37 positions
    "dinov2-vit-s-14": 22.06,
    "dinov2-vit-b-14": 86.58,
    "dinov2-vit-l-14": 304.37,
    "clip-rn50": 38.32,
    "clip-vit-b-32": 87.85,
    "clip-vit-l-14": 303.97,
}


def random(*shape: int) -> Tensor:
    """Numbers that float16 holds exactly: torch-fidelity halves CLIP's weights."""
    return torch.randn(shape).half().float() / 4


def dinov2_state(kind: Dinov2) -> State:
    d, found = kind.width, {}
    found["cls_token"], found["mask_token"] = random(1, 1, d), random(1, d)
    found["pos_embed"] = random(1, 1 + SIDE**2, d)
    found["patch_embed.proj.weight"] = random(d, 3, kind.patch, kind.patch) / 4
    found["patch_embed.proj.bias"] = random(d)
    for block in range(kind.depth):
        shapes = {"norm1": (d,), "attn.qkv": (3 * d, d), "attn.proj": (d, d), "norm2": (d,)}
        shapes |= {"mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
        for name, shape in shapes.items():
            found[f"blocks.{block}.{name}.weight"] = random(*shape)
            found[f"blocks.{block}.{name}.bias"] = random(shape[0])
        for name in ("ls1", "ls2"):
            found[f"blocks.{block}.{name}.gamma"] = random(d)
    found["norm.weight"], found["norm.bias"] = random(d), random(d)
    return found


def clip_state(kind: Clip) -> State:
    """A whole CLIP's, with its text network's tensors."""
    found = {f"visual.{name}": x for name, x in kind.network().state_dict().items()}
    for name, x in found.items():
        if x.is_floating_point():  # vectors of 0.1 or more, or every ReLU would be dead
            value = random(*x.shape)
            found[name] = (value.abs() + 0.1).half().float() if x.ndim == 1 else value
    texts = {"text_projection": (7, 5), "logit_scale": (), "token_embedding.weight": (9, 7)}
    texts |= {"positional_embedding": (4, 7), "ln_final.weight": (7,), "ln_final.bias": (7,)}
    texts |= {"transformer.resblocks.0.ln_1.bias": (7,)}
    return found | {name: random(*shape) for name, shape in texts.items()}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in TINY_KINDS.items():
        monkeypatch.setitem(PRETRAINED, name, kind)


@pytest.fixture
def states(tiny: None) -> dict[str, State]:
    return {
        name: dinov2_state(kind) if isinstance(kind, Dinov2) else clip_state(kind)
        for name, kind in TINY_KINDS.items()
    }


@pytest.fixture
def files(states: dict[str, State], tmp_path: Path) -> dict[str, Path]:
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pth")
    return {name: tmp_path / f"{name}.pth" for name in states}


# DINOv2 by its definition: Dosovitskiy et al. 2021 with the scaled branches of Touvron et al. 2021


def bicubic(square: np.ndarray, size: int, factor: float) -> np.ndarray:
    """(n, n, d) to (size, size, d), by Keys' kernel with a = -0.75 as torch has it."""

    def weight(x: float, a: float = -0.75) -> float:
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0

    n = len(square)
    matrix = np.zeros((size, n))
    for row in range(size):
        place = (row + 0.5) / factor - 0.5
        for k in range(math.floor(place) - 1, math.floor(place) + 3):
            matrix[row, min(max(k, 0), n - 1)] += weight(place - k)
    return np.einsum("ap,bq,pqd->abd", matrix, matrix, square)


def layer_norm(x: Tensor, state: State, name: str) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: Tensor, state: State, name: str) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def dinov2(images: Tensor, state: State, kind: Dinov2) -> Tensor:
    """The class token of normalised images, in float64."""
    state = {name: x.double() for name, x in state.items()}
    p, d, grid = kind.patch, kind.width, kind.size // kind.patch
    patches = images.double().unfold(2, p, p).unfold(3, p, p)  # (n, 3, grid, grid, p, p)
    x = torch.einsum("ncijpq,dcpq->nijd", patches, state["patch_embed.proj.weight"])
    x = (x + state["patch_embed.proj.bias"]).flatten(1, 2)
    square = state["pos_embed"][0, 1:].view(SIDE, SIDE, d).numpy()
    positions = torch.from_numpy(bicubic(square, grid, (grid + 0.1) / SIDE)).reshape(-1, d)
    start = (state["cls_token"] + state["pos_embed"][:, :1]).expand(len(x), -1, -1)
    x = torch.cat([start, x + positions], 1)
    for index in range(kind.depth):
        block = f"blocks.{index}."
        qkv = linear(layer_norm(x, state, f"{block}norm1"), state, f"{block}attn.qkv")
        q, k, v = qkv.view(*x.shape[:2], 3, kind.heads, d // kind.heads).unbind(2)
        near = torch.einsum("nihd,njhd->nhij", q, k) / (d // kind.heads) ** 0.5
        mixed = torch.einsum("nhij,njhd->nihd", near.softmax(-1), v).flatten(2)
        x = x + state[f"{block}ls1.gamma"] * linear(mixed, state, f"{block}attn.proj")
        inner = linear(layer_norm(x, state, f"{block}norm2"), state, f"{block}mlp.fc1")
        inner = inner * (1 + torch.erf(inner / 2**0.5)) / 2
        x = x + state[f"{block}ls2.gamma"] * linear(inner, state, f"{block}mlp.fc2")
    return layer_norm(x, state, "norm")[:, 0]


def of_torch_fidelity(kind: type[nn.Module], layer: str, **fields: object) -> nn.Module:
    """One of its extractors around a given network, without its download."""
    made = kind.__new__(kind)
    nn.Module.__init__(made)
    fields |= {"features_list": [layer], "feature_extractor_internal_dtype": torch.float32}
    for name, value in fields.items():
        setattr(made, name, value)
    return made.eval()


@pytest.mark.parametrize("size", [28, 40, 16], ids=["same size", "larger", "smaller"])
def test_dinov2_is_its_definition_on_torch_fidelity_s_input(size, states, files, monkeypatch):
    name = "dinov2-vit-s-14"
    kind = fidelity_dinov2.FeatureExtractorDinoV2
    monkeypatch.setattr(kind, "INPUT_IMAGE_SIZE", 28)
    model = lambda x: dinov2(x, states[name], TINY_KINDS[name])  # noqa: E731
    images = photographs(4, size=size)
    (expected,) = of_torch_fidelity(kind, "dinov2", model=model)(images)
    found = PretrainedExtractor(name, files[name]).features(images)
    assert found.pool.shape == (4, 12)
    assert found.logits.shape == (4, 0)
    torch.testing.assert_close(found.pool.float(), expected, rtol=1e-4, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 0.1


@pytest.mark.parametrize("name", ["clip-vit-b-32", "clip-rn50"])
def test_clip_is_torch_fidelity_s(name, states, files):
    model = fidelity_clip.build_model(dict(states[name]), torch.float32)
    fields = {"model": model, "resolution": model.visual.input_resolution}
    images = photographs(4, size=40)
    with torch.no_grad():
        (expected,) = of_torch_fidelity(fidelity_clip.FeatureExtractorCLIP, "clip", **fields)(
            images
        )
    found = PretrainedExtractor(name, files[name]).features(images)
    assert found.pool.shape == (4, 5)
    torch.testing.assert_close(found.pool.float(), expected, rtol=1e-4, atol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-2


@pytest.mark.quick
@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_the_published_numbers_of_parameters(name):
    kind = PRETRAINED[name]
    with torch.device("meta"):
        count = sum(each.numel() for each in kind.network().parameters())
    if isinstance(kind, Dinov2):  # the file's positions, scales and mask token
        count += (37**2 - 16**2) * kind.width + 2 * kind.depth * kind.width + kind.width
    assert count / 1e6 == pytest.approx(PUBLISHED[name], abs=0.006)


def test_the_name_holds_the_file_s_hash_and_safetensors_give_the_same_features(
    states, files, tmp_path
):
    name, images = "dinov2-vit-s-14", photographs(3)
    save_file(states[name], tmp_path / "w.safetensors")
    before = torch.get_rng_state()
    made, other = (
        choose(name, "cifar10", 3, extractor_weights=str(path))[0]
        for path in (files[name], tmp_path / "w.safetensors")
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert made.weights_sha256 == file_sha256(files[name])
    assert made.name == f"{name}-{made.weights_sha256[:8]}" != other.name
    assert torch.equal(made.features(images).pool, other.features(images).pool)
    assert made.keys["frechet"] == f"fd/{made.name}"
    assert "score" not in made.keys
    assert made.resize == "tensorflow1-bilinear-28"
    assert not made.official_inception


class Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("opened",)


def program(state: State, path: Path) -> None:
    """The first members of a TorchScript file."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "code/__torch__/torch/nn/modules.py", "constants.pkl"):
            archive.writestr(f"ViT-B-32/{name}", b"\x80\x02N.")


def changed(**tensors: Tensor | None) -> object:
    """A way to write the state with other tensors; None leaves one out; __ stands for a dot."""

    def write(state: State, path: Path) -> None:
        new = {name.replace("__", "."): x for name, x in tensors.items()}
        kept = {**state, **new}
        torch.save({name: x for name, x in kept.items() if x is not None}, path)

    return write


BAD = {
    "is TorchScript, a program, and is not opened": program,
    "names 'nt.mkdir'|names 'posix.mkdir'": lambda state, path: torch.save({"a": Trap()}, path),
    "it does not hold tensors by name": lambda state, path: torch.save({"a": 1}, path),
    r"it holds no 'norm\.bias'": changed(norm__bias=None),
    "it also holds register_tokens": changed(register_tokens=torch.zeros(1, 4, 12)),
    "size mismatch for encoder.ln.weight": changed(norm__weight=torch.zeros(13)),
    "holds NaN or Inf": changed(norm__bias=torch.full((12,), math.nan)),
    "it is cut, or another program wrote it": lambda state, path: path.write_bytes(b"weights"),
    "no weights file .*dinov2_vits14_pretrain.pth": lambda state, path: None,
}


@pytest.mark.parametrize("words", BAD)
def test_a_file_that_is_not_the_network_s_is_one_line_and_runs_nothing(
    words, states, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pth"
    BAD[words](states["dinov2-vit-s-14"], path)
    with pytest.raises(UserError, match=words) as error:
        choose("dinov2-vit-s-14", "cifar10", 3, extractor_weights=str(path))
    assert "\n" not in str(error.value)
    assert "extractor dinov2-vit-s-14: " in str(error.value)
    assert not (tmp_path / "opened").exists()


def test_a_run_is_scored_without_the_inception_score(run, refused, files, tmp_path, capfd):
    weights = ["--extractor", "dinov2-vit-s-14", "--extractor-weights"]
    weights.append(str(files["dinov2-vit-s-14"]))
    name = f"dinov2-vit-s-14-{file_sha256(files['dinov2-vit-s-14'])[:8]}"
    in_training = ["--scores.runs", "1", "--scores.samples", "20", "--scores.extractor"]
    in_training += [weights[1], "--scores.extractor_weights", weights[3], "--run", "mine"]
    fit = ["fit", *TINY, *QUIET[2:]]
    assert f"{name} has no classes, which `is` needs; use fid" in refused(
        *fit, *in_training, "--scores.best", "is"
    )
    assert run(*fit, *in_training) == 0
    assert run("evaluate", "mine", *weights, "--runs", "2", "--images", "20") == 0
    text = Path("checkpoints/mine/scores.jsonl").read_text()
    for line in map(json.loads, text.splitlines()):
        kinds = ["fd", "kd", "precision", "recall", "density", "coverage"]
        assert list(line["scores"]) == [f"{kind}/{name}" for kind in kinds]
        assert all(score["mean"] is not None for score in line["scores"].values())
        assert set(line["floors"]) == {f"fd/{name}", f"kd/{name}"}
        assert line["protocol"]["extractor"] == name
    capfd.readouterr()
    assert leaderboard(["--no-published"]) == 0
    assert "cs" not in capfd.readouterr().out.split()
    assert f"{name} has no classes, which `is` needs; use fid" in refused(
        "evaluate", "mine", *weights, "--metrics", "is"
    )
    assert "its weights are missing; give --extractor-weights" in refused(
        "evaluate", "mine", *weights[:2]
    )
    assert "the extractor is embedded: they are for DINOv2 and CLIP" in refused(
        "evaluate", "mine", "--extractor", "embedded", *weights[2:]
    )
