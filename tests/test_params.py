"""msngan params: the critic's rows of Table III, counted from built networks."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from msngan.commands.params import FORMS, HEADINGS
from msngan.models import Critic
from msngan.norms import NORMS

Run = Callable[..., int]
# By hand: seven biased convolutions of 1,408 channels in all and the head.
PLAIN = 1_792 + 65_600 + 73_856 + 262_272 + 295_168 + 1_048_832 + 1_180_160 + 8_193
# Table III of arXiv:1907.04003, its row of the WGAN's critic.
PUBLISHED = {"batch": 2_938_689, "spectral": 2_935_873, "mean_spectral": 2_937_282}


@pytest.fixture
def rows(run: Run, capfd: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    def call(*options: str) -> list[dict[str, Any]]:
        assert run("params", "--format", "json", *options) == 0
        made = json.loads(capfd.readouterr().out)
        assert made["format"] == 1
        return made["rows"]

    return call


@pytest.fixture(scope="module")
def paper() -> dict[tuple[str, str], dict[str, Any]]:
    """The rows at the paper's size."""
    from dataclasses import asdict

    from msngan.commands.params import PAPER_SIZE, counts

    return {(row.norm, row.form): asdict(row) for row in counts(**PAPER_SIZE)}


def test_the_published_numbers_stand_beside_ours(paper: dict[tuple[str, str], Any]) -> None:
    ours = {key: row["parameters"] for key, row in paper.items()}
    theirs = {key: row["table_iii"] for key, row in paper.items() if row["table_iii"]}
    assert theirs == {
        ("batch", "conv_bias"): PUBLISHED["batch"],
        ("spectral", "default"): PUBLISHED["spectral"],
        ("mean_spectral", "conv_bias"): PUBLISHED["mean_spectral"],
        ("mean_spectral", "everywhere"): PUBLISHED["mean_spectral"],
    }
    different = {key for key in theirs if ours[key] != theirs[key]}
    assert different == {("mean_spectral", "conv_bias")}
    assert ours["mean_spectral", "conv_bias"] == PUBLISHED["mean_spectral"] - 1
    assert "one more" in paper["mean_spectral", "conv_bias"]["note"]


def test_our_numbers_are_those_worked_out_by_hand(paper: dict[tuple[str, str], Any]) -> None:
    assert PLAIN == 2_935_873
    added = {
        ("none", "default"): 0,
        ("batch", "default"): 1_408,
        ("batch", "conv_bias"): 2 * 1_408,
        ("spectral", "default"): 0,
        ("mean_spectral", "default"): 0,
        ("mean_spectral", "conv_bias"): 1_408,
        ("mean_spectral", "everywhere"): 1_409,
        ("mean_spectral", "released"): 2 * (128 + 256 + 512),
    }
    for key, more in added.items():
        assert paper[key]["parameters"] == PLAIN + more
        assert paper[key]["against_none"] == more
    # The authors' code counts a scalar for each of eight spectral norms, which is never trained.
    assert paper["mean_spectral", "released"]["parameters"] == 2_937_673 - 8


def test_the_released_form_is_the_authors_own() -> None:
    from msngan.commands.params import build

    (form,) = [form for form in FORMS["mean_spectral"] if form.name == "released"]
    critic = build("mean_spectral", form, {"width": 1, "size": 16, "channels": 3})
    layers = [*(part for part in critic.body if hasattr(part, "weight")), critic.head]
    assert all(layer.weight_norm is not None for layer in layers)
    centred = [index for index, layer in enumerate(layers) if layer.output_norm is not None]
    assert centred == [3, 5, 6]


def test_every_norm_has_a_row(paper: dict[tuple[str, str], Any]) -> None:
    assert {norm for norm, form in paper if form == "default"} == set(NORMS)
    assert set(FORMS) <= set(NORMS)


def test_buffers_are_counted(paper: dict[tuple[str, str], Any]) -> None:
    assert paper["none", "default"]["buffers"] == 0
    # Running mean and variance of 1,408 channels, and seven counters.
    assert paper["batch", "default"]["buffers"] == 2 * 1_408 + 7


def test_buffers_that_need_an_image_are_counted_too(
    rows: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from msngan.norms import Norm, WeightPart

    class Late(WeightPart):
        def prepare(self, layer: object, x: Any) -> None:
            self.register_buffer("size", x.new_zeros(3))

        def normalised(self, weight: Any) -> Any:
            return weight

    monkeypatch.setitem(NORMS, "late", Norm(weight=lambda _: Late()))
    (row,) = [row for row in rows("--width", "1", "--size", "16") if row["norm"] == "late"]
    assert row["buffers"] == 8 * 3


def test_another_size_is_counted_and_has_no_published_number(
    rows: Callable[..., list[dict[str, Any]]],
) -> None:
    made = rows("--width", "4", "--size", "16", "--channels", "1")
    assert {row["norm"] for row in made} == set(NORMS)
    assert not any(row["table_iii"] for row in made)
    for row in made:
        if row["form"] == "default":
            critic = Critic(row["norm"], 4, 1, 16)
            assert row["parameters"] == sum(each.numel() for each in critic.parameters())


def test_a_norm_that_refuses_a_size_has_a_row_that_says_so(
    rows: Callable[..., list[dict[str, Any]]],
    run: Run,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torch import nn

    from msngan.norms import Norm

    class Choosy(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("this image is too small")

    def refuse(layer: nn.Module) -> nn.Module:
        raise ValueError("this layer is too small")

    monkeypatch.setitem(NORMS, "choosy", Norm(output=lambda _: Choosy()))
    monkeypatch.setitem(NORMS, "choosier", Norm(weight=refuse))
    found = {row["norm"]: row for row in rows("--width", "1", "--size", "8")}
    assert set(found) == set(NORMS)
    assert found["none"]["parameters"] > 0
    for name, kind in (("choosy", "image"), ("choosier", "layer")):
        assert found[name]["note"] == f"this {kind} is too small"
        assert found[name]["parameters"] is found[name]["buffers"] is None
    assert run("params", "--width", "1", "--size", "8") == 0
    assert "choosy, default: this image is too small." in capfd.readouterr().out


def test_every_format_has_every_row(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    small = ["--width", "1", "--size", "16"]
    shown = {}
    for form in ("table", "md", "csv"):
        assert run("params", "--format", form, *small) == 0
        shown[form] = capfd.readouterr().out
    records = list(csv.DictReader(io.StringIO(shown["csv"])))
    assert {record["norm"] for record in records} == set(NORMS)
    assert all(int(record["parameters"]) > 0 for record in records)
    lines = [line for line in shown["md"].splitlines() if line.startswith("|")]
    assert lines[0] == f"| {' | '.join(HEADINGS)} |"
    assert len(lines) == 2 + len(records)
    for name in NORMS:
        assert name in shown["table"]
    assert max(map(len, shown["table"].splitlines())) <= 80


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--width", "0"], "--width 0 is less than 1"),
        (["--size", "33"], "image size 33 is not a multiple of 8"),
        (["--channels", "2"], "1 or 3 channels, not 2"),
        (["--size", "big"], "--size"),
        (["--format", "tabel"], "did you mean 'table'"),
        (["--widht", "3"], "did you mean '--width'"),
        (["spectral"], "unexpected argument 'spectral'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_named(
    run: Run, capfd: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert run("params", *options) == 2
    shown = capfd.readouterr()
    (line,) = shown.err.strip().splitlines()
    assert line.startswith("msngan")
    assert words in line
    assert not shown.out


@pytest.mark.parametrize("arguments", [["--help"], ["--width", "0"], ["--formt"]], ids=" ".join)
def test_help_and_usage_errors_do_not_import_torch(arguments: list[str]) -> None:
    code = (
        "import sys, msngan.__main__ as m\n"
        "try: m.main(['params', *sys.argv[1:]])\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode == 0
