"""Published CIFAR-10 numbers of small convolutional GANs, as data. They are never ranked with ours.

Every row was measured with its own protocol: between two of them the number of images, the
reference split, the Inception port and the resize move FID by 10 to 50 %. Unconditional networks of
the DCGAN kind only, no ResNets; standard deviations as printed.
"""

from __future__ import annotations

from dataclasses import dataclass

NEVER_RANKED = (
    "Published numbers, copied and not measured here; never ranked with ours, and comparable with"
    " one another only where the protocol is the same."
)

PAPER = "Subramanian & Chong 2019, Table II, https://arxiv.org/abs/1907.04003"
PAPER_PROTOCOL = "as stated: mean over 5 runs of 2,000 generated images"
MIYATO = "Miyato et al. 2018, Table 2, https://arxiv.org/abs/1802.05957"
MIYATO_PROTOCOL = (
    "IS 10 x 5,000; FID 5k generated / 10k real (test); TF Inception, truncated pixels"
)
CHAINER = "https://github.com/pfnet-research/chainer-gan-lib (README)"
CHAINER_PROTOCOL = "IS 10 x 5,000 (Chainer Inception); FID 10k generated / 50k train"
COLLECTIONS = "https://github.com/w86763777/pytorch-gan-collections (Readme)"
COLLECTIONS_PROTOCOL = "50k generated / 50k train; pytorch-gan-metrics"
COMPARE = "https://github.com/google/compare_gan (branch v2, src/generate_tasks_lib.py)"
COMPARE_PROTOCOL = "10k generated / 10k test"
STUDIO = "https://github.com/POSTECH-CVLab/PyTorch-StudioGAN (docs/figures, reproducibility)"
STUDIO_PROTOCOL = "50k generated / 50k train; IS without splits"
STUDIO_LOG = "https://github.com/POSTECH-CVLab/PyTorch-StudioGAN (logs/CIFAR10)"


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


PUBLISHED: list[Published] = [
    Published(
        "Real data",
        11.24,
        7.8,
        PAPER_PROTOCOL,
        PAPER,
        "equals Miyato et al. 2018 (10 x 5,000; 5k / 10k) digit for digit",
        0.12,
    ),
    Published(
        "WGAN-GP (with BN)",
        6.42,
        41.3,
        PAPER_PROTOCOL,
        PAPER,
        "not in Miyato et al. 2018; no code released",
        0.10,
    ),
    Published(
        "SNGAN",
        7.42,
        29.3,
        PAPER_PROTOCOL,
        PAPER,
        "equals Miyato et al. 2018 (10 x 5,000; 5k / 10k) digit for digit",
        0.08,
    ),
    Published(
        "MSNGAN",
        7.39,
        29.8,
        PAPER_PROTOCOL,
        PAPER,
        "released code centres 3 of 7 convolutions; no other public figure known",
        0.07,
    ),
    Published("SNGAN, CNN", 7.42, 29.3, MIYATO_PROTOCOL, MIYATO, "", 0.08),
    Published("WGAN-GP, CNN", 6.68, 40.2, MIYATO_PROTOCOL, MIYATO, "StudioGAN prints 40.1", 0.06),
    Published("WGAN (clip), CNN", 6.41, 42.6, MIYATO_PROTOCOL, MIYATO, "", 0.11),
    Published(
        "SNGAN, CNN (official code)",
        7.5,
        23.6,
        CHAINER_PROTOCOL,
        CHAINER,
        "100k steps, batch 64; 7.41 by the TF Inception",
    ),
    Published("WGAN-GP, CNN", 6.8, 28.2, CHAINER_PROTOCOL, CHAINER, "100k steps, 5 critic steps"),
    Published("DCGAN, 7-conv critic with BN", 6.7, 34.3, CHAINER_PROTOCOL, CHAINER),
    Published("DRAGAN, CNN", 7.1, 31.5, CHAINER_PROTOCOL, CHAINER),
    Published(
        "SNGAN, CNN",
        7.84,
        17.81,
        COLLECTIONS_PROTOCOL,
        COLLECTIONS,
        "hinge, 100k steps, batch 128, linear decay, no EMA",
        0.12,
    ),
    Published(
        "WGAN-GP, CNN, critic without norm",
        7.66,
        19.83,
        COLLECTIONS_PROTOCOL,
        COLLECTIONS,
        "100k steps, 1 critic step, flips",
        0.10,
    ),
    Published("WGAN (clip 0.1), CNN", 6.62, 40.03, COLLECTIONS_PROTOCOL, COLLECTIONS),
    Published("DCGAN, BN critic", 6.01, 42.72, COLLECTIONS_PROTOCOL, COLLECTIONS, "100k steps"),
    Published("SNDCGAN, lr 2e-4", None, 25.27, COMPARE_PROTOCOL, COMPARE, "200k steps"),
    Published("SNDCGAN, lr 1e-4", None, 26.16, COMPARE_PROTOCOL, COMPARE, "200k steps"),
    Published("SNDCGAN + gradient penalty", None, 26.00, COMPARE_PROTOCOL, COMPARE, "200k steps"),
    Published("CNN, no norm, lr 1e-4", None, 28.66, COMPARE_PROTOCOL, COMPARE, "200k steps"),
    Published("CNN, no norm, lr 2e-4", None, 33.23, COMPARE_PROTOCOL, COMPARE, "200k steps"),
    Published(
        "SNDCGAN",
        8.20,
        15.66,
        "50k / 50k train presumably; conditioning not stated",
        STUDIO,
        "no config released",
    ),
    Published("DCGAN", 6.11, 48.29, STUDIO_PROTOCOL, STUDIO, "2 critic steps"),
    Published("LSGAN, CNN", 6.55, 40.22, STUDIO_PROTOCOL, STUDIO, "2 critic steps"),
    Published("Geometric GAN (hinge), CNN", 6.61, 43.16, STUDIO_PROTOCOL, STUDIO, "2 critic steps"),
    Published(
        "DCGAN, best of training",
        6.64,
        49.03,
        COMPARE_PROTOCOL,
        STUDIO_LOG,
        "at 42k steps; FID 137.4 at 200k",
    ),
    Published(
        "WGAN-GP, DCGAN",
        7.10,
        32.5,
        "not stated",
        "https://github.com/bioinf-jku/TTUR/issues/27 (a user)",
        "100k steps",
    ),
    Published(
        "WGAN-GP, CNN (gan_cifar.py)",
        6.0,
        None,
        "IS of 1,000 images",
        "https://github.com/igul222/improved_wgan_training/issues/92",
        "about 6; 200k steps, 5 critic steps",
    ),
]
