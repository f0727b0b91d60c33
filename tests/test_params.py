"""msngan params: Table III and what every norm adds, counted from built networks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from torch import nn

from msngan.bench.parameters import CODE, CRITIC, Count, build, counts, forms
from msngan.bench.settings import PUBLISHED, REBUILT, SHAPES
from msngan.networks import CLASSIFIERS, Critic
from msngan.networks.released import RELEASED
from msngan.norms import NORMS, Norm, WeightPart
from msngan.report.tables.bench_tables import params_tables
from msngan.report.tables.table import print_as, print_terminal

Rows = dict[tuple[str, str], dict[str, Any]]
# By hand: seven biased convolutions of 1,408 channels in all and the head.
PLAIN = 1_792 + 65_600 + 73_856 + 262_272 + 295_168 + 1_048_832 + 1_180_160 + 8_193
PLAIN_OF = {"cnn3": 103_402, "vgg7": 437_162, "densenet_bc": 978_772, "critic": PLAIN}
PAPERS = ("none", "batch", "spectral", "mean_spectral")


@pytest.fixture
def rows(run, capfd) -> Callable[..., list[dict[str, Any]]]:
    def call(*options: str) -> list[dict[str, Any]]:
        assert run("params", "--format", "json", *options) == 0
        made = json.loads(capfd.readouterr().out)
        assert made["format"] == 2
        return made["rows"]

    return call


@pytest.fixture(scope="module")
def paper() -> dict[str, Rows]:
    """The rows of the paper's norms at its sizes, by network."""
    return {
        network: {(x.norm, x.form): asdict(x) for x in counts(network, SHAPES[network], PAPERS)}
        for network in PUBLISHED
    }


def test_all_twelve_published_counts_are_those_of_built_networks(paper):
    # Table III of arXiv:1907.04003.
    published = [103_562, 103_406, 103_486, 438_314, 437_168, 437_744]
    published += [1_009_730, 1_007_608, 1_008_670, 2_938_689, 2_935_873, 2_937_282]
    found = [row for each in paper.values() for row in each.values() if row["table_iii"]]
    assert [row["table_iii"] for row in found] == published
    assert [row["parameters"] for row in found] == published
    assert {row["form"] for row in found} == set(REBUILT)
    assert {row["norm"] for row in found} == {"batch", "spectral", "mean_spectral"}
    assert set(SHAPES) == {*CLASSIFIERS, "critic"}
    assert set(PUBLISHED) == set(SHAPES) - {"resnet18"}
    assert all(set(norms) - {"none"} == set(PUBLISHED[name]) for name, norms in RELEASED.items())


# What is added to the plain networks, by hand: cnn3 has 80 output channels, vgg7 576, densenet_bc
# 3,367 or 15,479 before the activations, 1,063 of them outside the dense layers.
# network, norm: form: parameters.
ADDED = {
    ("cnn3", "none"): {"as_released": 0},
    ("cnn3", "batch"): {"default": 80, "conv_bias": 160},
    ("cnn3", "spectral"): {"default": 0, CODE: 4},
    ("cnn3", "mean_spectral"): {"default": 0, "conv_bias": 80, CODE: 160 + 4},
    ("vgg7", "batch"): {"default": 576},
    ("vgg7", "spectral"): {CODE: 6},
    ("vgg7", "mean_spectral"): {"conv_bias": 576, CODE: 2 * 576 + 6},
    ("densenet_bc", "batch"): {"after_layer": 2 * 3_367},
    ("densenet_bc", "spectral"): {"default": 0, CODE: 1_007_608 - 978_772},
    ("densenet_bc", "mean_spectral"): {
        "default": 15_479,
        "after_layer": 3_367,
        CODE: 2 * (15_479 - 1_063) + 2 * 1_063 + 3,
    },
    ("critic", "batch"): {"default": 1_408},
    ("critic", "spectral"): {"default": 0, CODE: 8},
    ("critic", "mean_spectral"): {
        "default": 0,
        "conv_bias": 1_408,
        "rebuilt": 1_409,
        CODE: 2 * (128 + 256 + 512) + 8,
    },
}


def test_what_a_form_adds_is_worked_out_by_hand(paper):
    for (network, norm), forms_of in ADDED.items():
        for form, more in forms_of.items():
            row = paper[network][norm, form]
            assert row["parameters"] == PLAIN_OF[network] + more, (network, norm, form)
            assert row["against_none"] == more
    assert paper["critic"]["none", "default"]["buffers"] == 0
    # Running mean and variance of 1,408 channels, and seven counters.
    assert paper["critic"]["batch", "default"]["buffers"] == 2 * 1_408 + 7
    assert paper["densenet_bc"]["batch", "default"]["buffers"] == 2 * 15_479 + 99


def test_the_critic_of_the_authors_code_is_centred_after_three_convolutions():
    (form,) = [form for form in CRITIC["mean_spectral"] if form.name == CODE]
    critic: Any = build("critic", "mean_spectral", form, {"width": 1, "size": 16, "channels": 3})
    layers = [*(part for part in critic.body if hasattr(part, "weight")), critic.head]
    assert all(layer.weight_norm is not None for layer in layers)
    centred = [index for index, layer in enumerate(layers) if layer.output_norm is not None]
    assert centred == [3, 5, 6]


def test_forms_follow_from_the_parts_of_a_norm():
    names = {norm: [form.name for form in forms("densenet_bc", norm)] for norm in NORMS}
    assert {n for n in NORMS if "after_layer" in names[n]} == {n for n in NORMS if NORMS[n].output}
    assert not any("conv_bias" in each for each in names.values())
    biased = {norm for norm in NORMS if "conv_bias" in {f.name for f in forms("vgg7", norm)}}
    assert biased == {norm for norm, entry in NORMS.items() if entry.cancels_bias}


def test_all_networks_are_counted_under_the_paper_s_norms(rows, monkeypatch):
    def counted(network: str, shape: dict[str, int], norms: list[str]) -> list[Count]:
        assert shape == SHAPES[network]
        return [Count(network, **shape, norm=norm, form="default") for norm in norms]

    monkeypatch.setattr("msngan.bench.parameters.counts", counted)
    found = [(row["network"], row["norm"]) for row in rows()]
    assert found == [(network, norm) for network in PUBLISHED for norm in PAPERS]


@pytest.mark.quick
def test_a_size_without_a_network_is_the_critic_s_and_every_format_has_every_norm(rows, capfd):
    made = rows("--width", "1", "--size", "16", "--channels", "1")
    assert {row["network"] for row in made} == {"critic"}
    assert [row["norm"] for row in made if row["form"] == "default"] == list(NORMS)
    assert not any(row["table_iii"] for row in made)
    for row in made:
        assert (row["width"], row["size"], row["channels"]) == (1, 16, 1)
        if row["form"] == "default":
            critic = Critic(row["norm"], 1, 1, 16)
            assert row["parameters"] == sum(each.numel() for each in critic.parameters())
    shown = {}
    for form in ("table", "md", "csv"):
        parts = {"tables": lambda: params_tables(made), "rows": lambda: made}
        print_as(form, **parts, whole=lambda: None)
        shown[form] = capfd.readouterr().out
    lines = [line for line in shown["md"].splitlines() if line.startswith("|")]
    assert lines[0] == ("| norm | rebuilt | genuine | vs none | buffers | conv_bias | their code |")
    assert len(lines) == 2 + len(NORMS)
    cells = {line.split(" | ")[0].strip("| ").replace("\\", ""): line for line in lines[2:]}
    for record in csv.DictReader(io.StringIO(shown["csv"])):
        assert record["norm"] in shown["table"]
        assert f"{int(record['parameters']):,}" in cells[record["norm"]]
    assert max(map(len, shown["table"].splitlines())) <= 80


def test_late_buffers_are_counted_and_a_refused_size_is_said(rows, monkeypatch):
    class Late(WeightPart):
        def prepare(self, layer: object, x: Any) -> None:
            self.register_buffer("size", x.new_zeros(3))

        def normalised(self, weight: Any) -> Any:
            return weight

    class Choosy(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("this image is too small")

    def refuse(*_: Any) -> nn.Module:
        raise ValueError("this layer is too small")

    monkeypatch.setitem(NORMS, "late", Norm(weight=lambda *_: Late()))
    monkeypatch.setitem(NORMS, "choosy", Norm(output=lambda _: Choosy(), cancels_bias=True))
    monkeypatch.setitem(NORMS, "choosier", Norm(weight=refuse))
    made = rows("--width", "1", "--size", "8")
    found = {row["norm"]: row for row in made}
    assert set(found) == set(NORMS)
    assert found["late"]["buffers"] == 8 * 3
    for name, kind in (("choosy", "image"), ("choosier", "layer")):
        assert found[name]["note"] == f"this {kind} is too small"
        assert found[name]["parameters"] is found[name]["buffers"] is None
    _, table = params_tables(made)
    assert table.notes.count("choosy, genuine: this image is too small.") == 1
    assert sum(note.startswith("choosy, ") for note in table.notes) == 1


def test_a_published_count_is_marked_and_the_other_forms_fit_a_terminal(paper, capfd, monkeypatch):
    for columns, tables in ((80, 2), (120, 1)):
        monkeypatch.setenv("COLUMNS", str(columns))
        print_terminal(params_tables([*paper["cnn3"].values()]))
        shown = capfd.readouterr().out.splitlines()
        assert max(map(len, shown)) <= columns
        lines = [line.split() for line in shown if line.startswith("mean_spectral ")]
        assert len(lines) == tables
        whole = sum((line[1:] for line in lines), [])
        expected = ["103,486", "=", "103,486", "103,402", "0", "10,430", "103,482", "103,566"]
        assert whole == expected


@pytest.mark.quick
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--width 0", "--width 0 is less than 1"),
        ("--size 33", "image size 33 is not a multiple of 8"),
        ("--network vgg7 --size 28", "vgg7 takes images of 32 pixels"),
        ("--network critics", "did you mean 'critic'"),
        ("--channels 2", "1 or 3 channels, not 2"),
        ("--size big", "--size"),
        ("--format tabel", "did you mean 'table'"),
        ("--widht 3", "did you mean '--width'"),
        ("spectral", "unexpected argument 'spectral'"),
    ],
)
def test_a_wrong_argument_is_named(refused, options, words):
    assert words in refused("params", *options.split())
