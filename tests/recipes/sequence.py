"""Sequence models: the next character of English text, by an LSTM and by a transformer block.

MSN of a linear layer in (N, T, C) takes one mean per channel over all N T characters of a batch, so
in training a position sees a trace of later ones; `later` measures it. In eval it sees none.

    python tests/recipes/sequence.py     # writes samples/recipe_sequence.png and .json
"""

from itertools import product
from math import log
from pydoc_data.topics import topics  # texts about Python that come with Python

import torch
from matplotlib.figure import Figure
from record import Results, by_seed, largest_sigma, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from msngan import SigmaBank, convert
from msngan.norms import select, statistics

NORMS = (("none", 32), ("spectral", 32), ("mean_spectral", 32), ("mean_spectral", 1))  # sequences
LENGTH, HELD_OUT = 64, 50_000  # the last characters are the test
LAYERS = ["!embed", "!place", "!head"]  # all others get the norm
SYMBOLS = {each: i for i, each in enumerate(sorted(set("".join(topics.values()))))}
TEXT = torch.tensor([SYMBOLS[each] for key in sorted(topics) for each in topics[key]])


class Model(nn.Module):  # characters (N, T) -> logits of the next ones, (N, T, symbols)
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(len(SYMBOLS), 64), nn.Embedding(LENGTH, 64)
        block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True)
        self.body = block if kind == "transformer" else nn.LSTM(64, 64, batch_first=True)
        self.mix, self.head = nn.Linear(64, 64), nn.Linear(64, len(SYMBOLS))

    def forward(self, characters: Tensor) -> Tensor:
        x = self.embed(characters) + self.place.weight
        mask = nn.Transformer.generate_square_subsequent_mask(LENGTH)
        x = self.body(x)[0] if isinstance(self.body, nn.LSTM) else self.body(x, mask)
        return self.head(relu(self.mix(x)))  # type: ignore[no-any-return]


def windows(text: Tensor, count: int) -> Tensor:  # (count, LENGTH + 1), from random places
    return text[torch.randint(len(text) - LENGTH, (count, 1)) + torch.arange(LENGTH + 1)]


def bits(model: nn.Module, batch: Tensor) -> Tensor:  # per character
    return cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()) / log(2)


def later(model: nn.Module, batch: Tensor) -> float:
    """Change the last character: the change of the other logits over that of its own."""
    x = batch[:, :-1]
    change = (model(torch.cat([x[:, :-1], 1 - x[:, -1:].clamp(max=1)], 1)) - model(x)).abs()
    return (change[:, :-1].mean() / change[:, -1].mean()).item()


def train(kind: str, norm: str, count: int, seed: int, steps: int, tests: int) -> dict[str, float]:
    torch.manual_seed(seed)
    model = Model(kind)
    convert(model, norm, layers=LAYERS, report=True)  # as a report, not as a warning
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    bank = SigmaBank(model, optimizer)
    for _ in range(steps):
        with bank.shared():
            loss = bits(model, windows(TEXT[:-HELD_OUT], count))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.manual_seed(0)  # the test is the same for all
    batches = [windows(TEXT[-HELD_OUT:], count) for _ in range(tests // count)]
    found = {"sigma": largest_sigma(select(model, LAYERS).values())}
    with torch.no_grad(), statistics(model, "batch"):
        for mode in ("train", "eval"):
            model.train(mode == "train")
            found[mode] = sum(bits(model, batch).item() for batch in batches) / len(batches)
            found[f"later, {mode}"] = later(model, batches[0])
    return found


def main(folder: str = "samples", seeds: int = 3, steps: int = 300, tests: int = 256) -> Results:
    results: Results = {}
    for kind, (norm, count) in product(("lstm", "transformer"), NORMS):
        runs = [train(kind, norm, count, seed, steps, tests) for seed in range(seeds)]
        results[f"{kind}, {norm}, batch {count}"] = by_seed(runs)
    axes = (figure := Figure((7, 3.4), layout="constrained")).subplots()
    for mode, marker in (("eval", "o"), ("train", "x")):
        points = [(bit, arm) for arm in reversed(results) for bit in results[arm][mode]]
        axes.plot(*zip(*points, strict=True), marker, fillstyle="none", label=f"{mode} mode")
    axes.set_xlabel("bits per character")
    axes.legend()
    save(folder, "sequence", figure, {"seeds": seeds, "steps": steps, "tests": tests}, results)
    return results


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
