"""Control: deep Q-learning (Mnih et al. 2015) of CartPole, with a norm on the hidden layers.

Spectral norms in value networks: Gogianu et al. 2021, arXiv:2105.05246.

    python tests/recipes/control.py     # writes samples/recipe_control.png and .json
"""

import copy
import random
from collections import deque

import gymnasium
import numpy as np
import torch
from matplotlib.figure import Figure
from record import Results, largest_sigma, save
from torch import nn
from torch.nn.functional import smooth_l1_loss

from msngan import SigmaBank, convert

NORMS = ("none", "spectral", "mean_spectral")
REWARDS = (0.01, 1.0)  # per step: with a discount of 0.99 values reach 1, or 100


def network_of(norm: str) -> nn.Sequential:
    """Observations (N, 4) -> the values of both actions, (N, 2)."""
    hidden = [nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU()]
    network = nn.Sequential(*hidden, nn.Linear(64, 2))
    convert(network, norm, layers=["0", "2"])  # not the head, which scales the values
    return network


def train(norm: str, reward: float, seed: int, steps: int) -> tuple[list[tuple[int, int]], float]:
    """(last step, steps) of each episode, and the largest sigma of the hidden layers at the end."""
    draw, env = random.Random(seed), gymnasium.make("CartPole-v1")
    torch.manual_seed(seed)
    network = network_of(norm)
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    bank = SigmaBank(network, optimizer)
    target = copy.deepcopy(network).eval()
    memory: deque[tuple[np.ndarray, int, np.ndarray, bool]] = deque(maxlen=10_000)
    episodes, begun = list[tuple[int, int]](), 0
    state, _ = env.reset(seed=seed)
    for step in range(1, steps + 1):
        if draw.random() < max(0.05, 1 - 5 * step / steps):
            action = draw.randrange(2)
        else:  # one observation is no minibatch: in eval MSN subtracts its running means
            with torch.no_grad(), bank.shared():
                action = int(network.eval()(torch.from_numpy(state)[None]).argmax())
        after, _, fallen, timed_out, _ = env.step(action)
        memory.append((state, action, after, fallen))
        state = after
        if fallen or timed_out:
            episodes.append((step, step - begun))
            begun, (state, _) = step, env.reset()
        if step >= 500 and step % 4 == 0:
            parts = zip(*draw.sample(memory, 64), strict=True)
            states, actions, afters, ends = (torch.from_numpy(np.stack(each)) for each in parts)
            with torch.no_grad():
                wanted = reward + 0.99 * target(afters).amax(1) * ~ends
            with bank.shared():
                values = network.train()(states).gather(1, actions[:, None]).squeeze(1)
            optimizer.zero_grad()
            smooth_l1_loss(values, wanted).backward()
            optimizer.step()
        if step % 250 == 0:
            target.load_state_dict(network.state_dict())  # weights, sigmas and running means
    return episodes, largest_sigma(network[:3:2])


def main(folder: str = "samples", seeds: int = 5, steps: int = 6000) -> Results:
    results: Results = {}
    figure = Figure((8, 4.5), layout="constrained")
    axes = iter(figure.subplots(2, 3, sharex=True, sharey=True).flat)
    for reward in REWARDS:
        for norm in NORMS:
            arm, panel = f"{norm}, reward {reward:g}", next(axes)
            runs = [train(norm, reward, seed, steps) for seed in range(seeds)]
            late = [[length for end, length in run if 3 * end > 2 * steps] for run, _ in runs]
            returns = [float(np.mean(lengths)) for lengths in late]
            results[arm] = {"return": returns, "sigma": [sigma for _, sigma in runs]}
            for episodes, _ in runs:
                ends, lengths = np.array(episodes).T
                means = [lengths[max(0, i - 9) : i + 1].mean() for i in range(len(ends))]
                panel.plot(ends, means, linewidth=1)
            panel.set_title(arm, fontsize=9)
    figure.supxlabel("step", fontsize=9)
    figure.supylabel("return, mean of 10 episodes", fontsize=9)
    save(folder, "control", figure, {"seeds": seeds, "steps": steps}, results)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
