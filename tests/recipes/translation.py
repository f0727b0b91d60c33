"""Image translation as in pix2pix (Isola et al. 2017, arXiv:1611.07004): noisy to clean digits.

The critic (discriminator) sees a noisy image beside a clean one and scores patches of the pair.

    python tests/recipes/translation.py     # writes samples/recipe_translation.png and .json
"""

import torch
from matplotlib.figure import Figure
from record import Results, by_seed, largest_sigma, save
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import interpolate, l1_loss

from msngan import LOSSES, SigmaBank, convert

ARMS = ("no critic", "none", "spectral", "mean_spectral")  # without a critic; with, by its norm
TRAIN = 1500  # of the 1,797 digits; the others are the test


def block(layer: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    return nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels), nn.ReLU())


def generator_of(width: int) -> nn.Sequential:
    """An encoder and a decoder, (N, 1, 16, 16) -> the same."""
    down = [block(nn.Conv2d(1, width, 4, 2, 1)), block(nn.Conv2d(width, width, 4, 2, 1))]
    up = [block(nn.ConvTranspose2d(width, width, 4, 2, 1)) for _ in range(2)]
    return nn.Sequential(*down, *up, nn.Conv2d(width, 1, 3, 1, 1), nn.Tanh())


def critic_of(width: int) -> nn.Sequential:
    """Pairs (N, 2, 16, 16) -> a logit for each patch, (N, 1, 4, 4)."""
    first, second = nn.Conv2d(2, width, 4, 2, 1), nn.Conv2d(width, width, 4, 2, 1)
    body = [first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2)]
    return nn.Sequential(*body, nn.Conv2d(width, 1, 3, 1, 1))


def train(arm: str, seed: int, steps: int, weight: float) -> tuple[dict[str, float], list[Tensor]]:
    """Measures on the test images, and the noisy, made and clean images."""
    torch.manual_seed(seed)
    digits = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1) / 8 - 1
    clean = interpolate(digits, size=16, mode="bicubic").clamp(-1, 1)
    generator, critic, loss = generator_of(24), critic_of(24), LOSSES["hinge"]
    convert(critic, "none" if arm == "no critic" else arm, head="4")  # the head is not centred
    g_optimizer = torch.optim.Adam(generator.parameters(), 1e-3, betas=(0.5, 0.9))
    c_optimizer = torch.optim.Adam(critic.parameters(), 1e-3, betas=(0.5, 0.9))
    bank = SigmaBank(critic, c_optimizer)  # updates sigma after each step of the critic

    def scores(x: Tensor, real: Tensor, fake: Tensor) -> tuple[Tensor, ...]:
        """Of real and fake pairs, in one batch: MSN subtracts the same mean from both."""
        with bank.shared():
            logits: Tensor = critic(torch.cat([torch.cat([x, y], 1) for y in (real, fake)]))
        return logits.chunk(2)

    for _ in range(steps):
        chosen = torch.randint(TRAIN, (32,))
        x = interpolate(digits[chosen] + torch.randn(32, 1, 8, 8), size=16)
        real = clean[chosen]
        fake = generator(x)
        error = l1_loss(fake, real)
        if arm != "no critic":
            c_optimizer.zero_grad()
            loss.critic(*scores(x, real, fake.detach())).backward()
            c_optimizer.step()
            error = error + weight * loss.generator(*scores(x, real, fake))
        g_optimizer.zero_grad()
        error.backward()
        g_optimizer.step()

    torch.manual_seed(0)
    x, real = interpolate(digits + torch.randn_like(digits), size=16)[TRAIN:], clean[TRAIN:]
    made = generator.eval()(x).detach()
    edges = [image.diff(dim=-1).abs().mean().item() for image in (made, real)]
    found = {"l1": l1_loss(made, real).item(), "edges": edges[0] / edges[1]}
    return found | {"sigma": largest_sigma(critic[::2])}, [x, made, real]


def main(folder: str = "samples", seeds: int = 3, steps: int = 500, weight: float = 0.1) -> Results:
    runs = {arm: [train(arm, seed, steps, weight) for seed in range(seeds)] for arm in ARMS}
    rows = {arm: runs[arm][0][1][1] for arm in ARMS}
    rows = {"input": runs["none"][0][1][0], **rows, "target": runs["none"][0][1][2]}
    axes = (figure := Figure((7, 3.6), layout="constrained")).subplots()
    grid = torch.cat([torch.cat([*row[:12, 0]], 1) for row in rows.values()])
    axes.imshow(grid.clamp(-1, 1).numpy(), cmap="gray")
    axes.set(xticks=[], yticks=range(8, 16 * len(rows), 16), yticklabels=list(rows))
    results = {arm: by_seed([found for found, _ in runs[arm]]) for arm in ARMS}
    settings = {"seeds": seeds, "steps": steps, "weight": weight}
    save(folder, "translation", figure, settings, results)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
