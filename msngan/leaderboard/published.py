"""Published CIFAR-10 numbers of small convolutional GANs, as data. They are never ranked with ours.

Every row was measured with its own protocol: between two of them the number of images, the
reference split, the Inception port and the resize change FID by 10 to 50 %. Unconditional networks
of the DCGAN kind only, no ResNets; standard deviations as printed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

NEVER_RANKED = (
    "Published numbers, copied and not measured here; never ranked with ours, and comparable with"
    " one another only where the protocol is the same."
)

# Blocks of: source, protocol, and rows of model | Inception score | FID | note.
_TEXT = """
Subramanian & Chong 2019, Table II, https://arxiv.org/abs/1907.04003
as stated: mean over 5 runs of 2,000 generated images
Real data | 11.24±0.12 | 7.8 | equals Miyato et al. 2018 (10 x 5,000; 5k / 10k) digit for digit
WGAN-GP (with BN) | 6.42±0.10 | 41.3 | not in Miyato et al. 2018; no code released
SNGAN | 7.42±0.08 | 29.3 | equals Miyato et al. 2018 (10 x 5,000; 5k / 10k) digit for digit
MSNGAN | 7.39±0.07 | 29.8 | released code centres 3 of 7 convolutions; no other public figure known

Miyato et al. 2018, Table 2, https://arxiv.org/abs/1802.05957
IS 10 x 5,000; FID 5k generated / 10k real (test); TF Inception, truncated pixels
SNGAN, CNN | 7.42±0.08 | 29.3 |
WGAN-GP, CNN | 6.68±0.06 | 40.2 | StudioGAN prints 40.1
WGAN (clip), CNN | 6.41±0.11 | 42.6 |

https://github.com/pfnet-research/chainer-gan-lib (README)
IS 10 x 5,000 (Chainer Inception); FID 10k generated / 50k train
SNGAN, CNN (official code) | 7.5 | 23.6 | 100k steps, batch 64; 7.41 by the TF Inception
WGAN-GP, CNN | 6.8 | 28.2 | 100k steps, 5 critic steps
DCGAN, 7-conv critic with BN | 6.7 | 34.3 |
DRAGAN, CNN | 7.1 | 31.5 |

https://github.com/w86763777/pytorch-gan-collections (Readme)
50k generated / 50k train; pytorch-gan-metrics
SNGAN, CNN | 7.84±0.12 | 17.81 | hinge, 100k steps, batch 128, linear decay, no EMA
WGAN-GP, CNN, critic without norm | 7.66±0.10 | 19.83 | 100k steps, 1 critic step, flips
WGAN (clip 0.1), CNN | 6.62 | 40.03 |
DCGAN, BN critic | 6.01 | 42.72 | 100k steps

https://github.com/google/compare_gan (branch v2, src/generate_tasks_lib.py)
10k generated / 10k test
SNDCGAN, lr 2e-4 | - | 25.27 | 200k steps
SNDCGAN, lr 1e-4 | - | 26.16 | 200k steps
SNDCGAN + gradient penalty | - | 26 | 200k steps
CNN, no norm, lr 1e-4 | - | 28.66 | 200k steps
CNN, no norm, lr 2e-4 | - | 33.23 | 200k steps

https://github.com/POSTECH-CVLab/PyTorch-StudioGAN (docs/figures, reproducibility)
50k / 50k train presumably; conditioning not stated
SNDCGAN | 8.2 | 15.66 | no config released

https://github.com/POSTECH-CVLab/PyTorch-StudioGAN (docs/figures, reproducibility)
50k generated / 50k train; IS without splits
DCGAN | 6.11 | 48.29 | 2 critic steps
LSGAN, CNN | 6.55 | 40.22 | 2 critic steps
Geometric GAN (hinge), CNN | 6.61 | 43.16 | 2 critic steps

https://github.com/POSTECH-CVLab/PyTorch-StudioGAN (logs/CIFAR10)
10k generated / 10k test
DCGAN, best of training | 6.64 | 49.03 | at 42k steps; FID 137.4 at 200k

https://github.com/bioinf-jku/TTUR/issues/27 (a user)
not stated
WGAN-GP, DCGAN | 7.1 | 32.5 | 100k steps

https://github.com/igul222/improved_wgan_training/issues/92
IS of 1,000 images
WGAN-GP, CNN (gan_cifar.py) | 6 | - | about 6; 200k steps, 5 critic steps
"""


@dataclass(frozen=True)
class Published:
    """One printed row. fid and inception_score are None where the source has none."""

    model: str
    inception_score: float | None
    fid: float | None
    protocol: str
    source: str
    note: str = ""
    inception_score_sd: float | None = None
    fid_sd: float | None = None
    dataset: str = "cifar10"


def _parsed() -> Iterator[Published]:
    for block in _TEXT.strip().split("\n\n"):
        source, protocol, *rows = block.split("\n")
        for row in rows:
            model, score, fid, note = (part.strip() for part in row.split("|"))
            (score_mean, score_sd), (fid_mean, fid_sd) = map(_number, (score, fid))
            yield Published(model, score_mean, fid_mean, protocol, source, note, score_sd, fid_sd)


def _number(text: str) -> tuple[float | None, float | None]:
    """The mean and the sd of '7.42±0.08'; '-': none."""
    mean, _, sd = text.partition("±")
    return (None if mean == "-" else float(mean)), (float(sd) if sd else None)


PUBLISHED = list(_parsed())
