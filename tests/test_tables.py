"""Tables in a terminal and in Markdown, and the usage errors of commands that print them."""

from __future__ import annotations

import io
import sys

import pytest

from msngan.report.tables.table import Table, plus_minus, print_markdown, print_terminal

Captured = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("mean", "sd", "expected"),
    [
        (12.3, 0.2, "12.30±0.20"),
        (123.456, 7.0, "123.5±7.0"),
        (54321.0, 12.0, "5.432e+04±1.2e+01"),
        (0.0123, 0.0004, "0.01230±0.00040"),
        (-0.5, None, "-0.5000"),
        (0.0, 0.1, "0.00±0.10"),
        (0.0, 0.0, "0±0"),
        (0.0075, 0.003536, "0.0075±0.0035"),
        (36.4684, 0.0088, "36.47±0.01"),
        (1.5e7, 2e6, "1.500e+07±2.0e+06"),
        (2e-6, None, "2.000e-06"),
        (None, None, "failed"),
    ],
)
def test_a_mean_has_four_digits_at_most_and_its_spread_as_many_places(mean, sd, expected):
    assert plus_minus(mean, sd) == expected


@pytest.mark.parametrize("show", [print_terminal, print_markdown])
def test_an_output_without_unicode_gets_ascii(show, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    show([Table("é", columns=["a"], rows=[["1±2"]], notes=["n\x1b"])])
    sys.stdout.flush()
    assert b"1+-2" in raw.getvalue()
    assert b"\x1b" not in raw.getvalue()


def test_a_reader_that_has_gone_is_no_failure_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        print_terminal([Table("runs", ["name"], [["a"]])])
