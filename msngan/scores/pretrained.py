"""DINOv2 and CLIP as extractors, from weights of the user's own.

DINOv2 (Oquab et al. 2023, arXiv:2304.07193) is torchvision's vision transformer with DINOv2's
weights; CLIP (Radford et al. 2021, arXiv:2103.00020) is torch-fidelity's image network. Images are
resized and normalised as torch-fidelity does. Neither has classes, so there is no inception score.

The weights are a plain file of tensors, from torch.save or safetensors. CLIP is published as
TorchScript, which is a program, and is not opened: its tensors must be saved once without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from msngan.runs.checkpoint_files import DAMAGED, check_archive, load_plain
from msngan.runs.folder import UserError
from msngan.runs.safe_read import read_tensors
from msngan.scores.extractors import Extractor, file_sha256

State = dict[str, Tensor]


@dataclass(frozen=True)
class Dinov2:
    """A DINOv2 network by its width, number of blocks and number of heads; 14 x 14 patches."""

    width: int
    depth: int
    heads: int
    size: int = 224
    patch: int = 14

    mean = (0.485, 0.456, 0.406)
    sd = (0.229, 0.224, 0.225)

    @property
    def dimensions(self) -> int:
        return self.width

    def network(self) -> nn.Module:
        """uint8 range and normalisation are the caller's; the class token (N, width) comes out."""
        from torchvision.models.vision_transformer import VisionTransformer

        net = VisionTransformer(
            image_size=self.size,
            patch_size=self.patch,
            num_layers=self.depth,
            num_heads=self.heads,
            hidden_dim=self.width,
            mlp_dim=4 * self.width,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )
        net.heads = nn.Sequential()
        return net

    def state(self, given: State) -> State:
        """Published tensors by torchvision's names; KeyError for a missing one, ValueError for one
        too many.

        The scale of each branch (LayerScale) is multiplied into its last layer, and the positions
        are interpolated from the grid of training to that of `size`, as DINOv2 does itself.
        """
        left = given.keys() - {"mask_token"}

        def take(name: str) -> Tensor:
            left.discard(name)
            return given[name]

        found = {
            "class_token": take("cls_token"),
            "conv_proj.weight": take("patch_embed.proj.weight"),
            "conv_proj.bias": take("patch_embed.proj.bias"),
            "encoder.pos_embedding": _positions(take("pos_embed"), self.size // self.patch),
            "encoder.ln.weight": take("norm.weight"),
            "encoder.ln.bias": take("norm.bias"),
        }
        for index in range(self.depth):
            ours, theirs = f"encoder.layers.encoder_layer_{index}.", f"blocks.{index}."
            for name, published, scale in _PARTS:
                for kind in ("weight", "bias"):
                    value = take(f"{theirs}{published}.{kind}")
                    if scale:
                        gamma = take(f"{theirs}{scale}.gamma")
                        value = (gamma if value.ndim == 1 else gamma[:, None]) * value
                    joint = "_" if name.endswith("in_proj") else "."
                    found[f"{ours}{name}{joint}{kind}"] = value
        if left:  # of a network with registers, say, which is another one
            raise ValueError(f"it also holds {min(left)}")
        return found


# torchvision's name of a part of a block, DINOv2's, and the scale that is multiplied into it
_PARTS = (
    ("ln_1", "norm1", None),
    ("self_attention.in_proj", "attn.qkv", None),
    ("self_attention.out_proj", "attn.proj", "ls1"),
    ("ln_2", "norm2", None),
    ("mlp.0", "mlp.fc1", None),
    ("mlp.3", "mlp.fc2", "ls2"),
)


def _positions(table: Tensor, grid: int) -> Tensor:
    """Position vectors (1, 1 + n, d) for a square of grid x grid patches: (1, 1 + grid^2, d).

    Bicubic, by DINOv2's factor of (grid + 0.1) / sqrt(n), which is not quite the grids' ratio.
    """
    side = round((table.shape[1] - 1) ** 0.5)
    if side == grid:
        return table
    square = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factor = (grid + 0.1) / side
    square = F.interpolate(square, scale_factor=(factor, factor), mode="bicubic")
    return torch.cat([table[:, :1], square.flatten(2).transpose(1, 2)], 1)


@dataclass(frozen=True)
class Clip:
    """CLIP's image network: `layers` blocks of a transformer, or in each stage of a ResNet.

    dimensions: of the space shared with texts; patch: of a transformer.
    """

    dimensions: int
    layers: int | tuple[int, int, int, int]
    width: int
    patch: int = 0
    size: int = 224

    mean = (0.48145466, 0.4578275, 0.40821073)
    sd = (0.26862954, 0.26130258, 0.27577711)

    def network(self) -> nn.Module:
        from torch_fidelity.feature_extractor_clip import CLIPVisual

        return CLIPVisual(self.dimensions, self.size, self.layers, self.width, self.patch).visual

    def state(self, given: State) -> State:
        """The image network's tensors of the whole CLIP's, without those of the texts'."""
        start = "visual."
        return {name[len(start) :]: given[name] for name in given if name.startswith(start)}


PRETRAINED: dict[str, Dinov2 | Clip] = {
    # Oquab et al. 2023, table 17
    "dinov2-vit-s-14": Dinov2(width=384, depth=12, heads=6),
    "dinov2-vit-b-14": Dinov2(width=768, depth=12, heads=12),
    "dinov2-vit-l-14": Dinov2(width=1024, depth=24, heads=16),
    # Radford et al. 2021, tables 19 and 20
    "clip-rn50": Clip(1024, (3, 4, 6, 3), 64),
    "clip-rn101": Clip(512, (3, 4, 23, 3), 64),
    "clip-rn50x4": Clip(640, (4, 6, 10, 6), 80, size=288),
    "clip-rn50x16": Clip(768, (6, 8, 18, 8), 96, size=384),
    "clip-rn50x64": Clip(1024, (3, 15, 36, 10), 128, size=448),
    "clip-vit-b-32": Clip(512, 12, 768, patch=32),
    "clip-vit-b-16": Clip(512, 12, 768, patch=16),
    "clip-vit-l-14": Clip(768, 24, 1024, patch=14),
    "clip-vit-l-14-336px": Clip(768, 24, 1024, patch=14, size=336),
}


def get_weights(request: str) -> str:
    """How to come by the weights file of a network in PRETRAINED, in a few words."""
    option = "give --extractor-weights FILE (in training --scores.extractor_weights)"
    if request.startswith("clip-"):
        return (
            f"{option}: the tensors of OpenAI's TorchScript file, saved once as"
            " msngan/scores/README.md says"
        )
    name = f"dinov2_vit{request.split('-')[2]}14"
    return f"{option}: dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth"


class PretrainedExtractor(Extractor):
    """A network in PRETRAINED with features (N, d) and no logits."""

    def __init__(
        self,
        request: str,
        path: Path | str,
        device: torch.device | str = "cpu",
        clean: bool = False,
    ) -> None:
        """path: its weights; UserError for any other file. Nothing in it is executed."""
        self.kind, path = PRETRAINED[request], Path(path).expanduser()
        if not path.is_file():
            raise UserError(f"extractor {request}: no weights file {path}; {get_weights(request)}")
        network, sha256 = _load(request, path), file_sha256(path)
        size = self.kind.size
        super().__init__(
            f"{request}-{sha256[:8]}",
            sha256,
            network,
            dimensions=self.kind.dimensions,
            classes=0,
            size=size,
            channels=3,
            resize=f"tensorflow1-bilinear-{size}",
            batch=250 if torch.device(device).type == "cuda" else 25,
            bytes_per_image=500 * size * size,  # 24 MB of 224 x 224, as Inception's
            device=device,
            clean=clean,
        )

    def _embed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        from torch_fidelity.interpolate_compat_tensorflow import (
            interpolate_bilinear_2d_like_tensorflow1x as resized,
        )

        x = images.float()
        if not self.clean:
            x = resized(x, (self.size, self.size), align_corners=False)
        mean, sd = (x.new_tensor(each).view(3, 1, 1) for each in (self.kind.mean, self.kind.sd))
        pool = self.network((x - 255 * mean) / (255 * sd))
        return pool, pool.new_empty(len(pool), 0)


def _load(request: str, path: Path) -> nn.Module:
    """The network with the file's weights, as float32."""
    kind, what = PRETRAINED[request], f"extractor {request}: {path}"
    if _is_program(path):
        raise UserError(
            f"{what} is TorchScript, a program, and is not opened; {get_weights(request)}"
        )
    try:
        if path.suffix == ".safetensors":
            given: Any = read_tensors(path)[1]
        else:
            check_archive(path)
            given = load_plain(path, "cpu")
        if not isinstance(given, dict) or not all(isinstance(x, Tensor) for x in given.values()):
            raise ValueError("it does not hold tensors by name")
        with torch.device("meta"):  # nothing is allocated before the shapes are checked
            net = kind.network()
        net.load_state_dict(kind.state(given), assign=True)
    except OSError as problem:
        raise UserError(f"{what} cannot be read ({problem.strerror or problem})") from problem
    except KeyError as problem:
        raise UserError(f"{what} is not of this network: it holds no {problem}") from problem
    except DAMAGED as problem:
        reason = " ".join(str(problem).split())[:200]
        raise UserError(f"{what} does not hold the weights of this network ({reason})") from problem
    net = net.float()
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise UserError(f"{what} holds NaN or Inf; get the weights again")
    return net


def _is_program(path: Path) -> bool:
    """Whether a zip file lists code, as TorchScript does; its list of members is at its end."""
    try:
        with open(path, "rb") as file:
            zipped = file.read(4) == b"PK\3\4"
            file.seek(-min(path.stat().st_size, 2**22), 2)
            return zipped and b"/code/__torch__" in file.read()
    except OSError:
        return False
