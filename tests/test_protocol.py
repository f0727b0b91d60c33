"""Protocols: what their id depends on, what they are called, and how YAML files give them."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from score_lines import PROTOCOL

from msngan.runs.folder import UserError
from msngan.scores.protocol import PRESETS, Preset, Protocol, preset

BASE = Protocol(**PROTOCOL, resize="bicubic-antialias-32")


@pytest.mark.quick
@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
def test_id_changes_with_every_field_but_the_name(field):
    old = getattr(BASE, field)
    new = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else f"{old}x"
    new = 0.5 if old is None else new
    changed = replace(BASE, **{field: new})
    assert (changed.id == BASE.id) == (field == "name")


def test_id_is_the_same_on_every_machine_and_as_before_fields_were_added():
    assert BASE.id == "2807c14b6951"
    assert Protocol(**BASE.as_dict()) == BASE


def test_two_seeds_of_a_protocol_have_no_run_in_common():
    made = [replace(BASE, seed=seed) for seed in range(3)]
    seeds = [protocol.seed_of(run) for protocol in made for run in range(5)]
    assert len(set(seeds)) == 15
    assert seeds[:5] == [0, 1, 2, 3, 4]


def test_presets_are_the_published_sizes():
    sizes = {name: (each.runs, each.samples, each.splits) for name, each in PRESETS.items()}
    assert sizes == {"paper": (5, 2000, 1), "sngan": (10, 5000, 1), "50k": (1, 50_000, 10)}
    rest = {name: (each.reference, each.quantisation) for name, each in PRESETS.items()}
    assert rest == {
        "paper": ("train", "round-clamp"),
        "sngan": ("test", "truncate-clamp"),
        "50k": ("train", "round-clamp"),
    }


@pytest.mark.parametrize(
    "wrong",
    [{"runs": 0}, {"samples": 1}, {"splits": 0}, {"samples": 5, "splits": 6}]
    + [{"runs": 1001}, {"samples": 1_000_001}],
)
def test_sizes_that_cannot_be_scored_are_refused(wrong):
    with pytest.raises(UserError, match="protocol: "):
        replace(BASE, **wrong)
    with pytest.raises(UserError, match="protocol: "):
        replace(PRESETS["paper"], **wrong)


def test_label_warns_unless_the_extractor_is_official():
    label = BASE.label()
    for part in ("paper", "5 x 2,000", "50,000 images of cifar10 train", BASE.extractor):
        assert part in label
    assert "not comparable with published" in label
    official = replace(BASE, extractor="inception-6726825d", official_inception=True, splits=10)
    assert "not comparable" not in official.label()
    assert "in 10 splits" in official.label()


def test_public_names_are_what_they_say_even_after_their_modules_are_imported():
    import msngan.scores
    import msngan.scores.evaluation
    import msngan.scores.reference  # noqa: F401

    for name in msngan.scores.__all__:
        found = getattr(msngan.scores, name)
        assert isinstance(found, dict) or callable(found) or name == "Sampler"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        msngan.scores.nothing  # noqa: B018


# Protocols from YAML files

PAPER = "runs: 5\nsamples: 2000\n"


def refusal(path: Path, content: str | None = None) -> str:
    """The message of the UserError, one line of a readable length that names option and file."""
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as caught:
        preset(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    assert message.startswith(f"protocol {path}")
    return message


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (PAPER, PRESETS["paper"]),
        ("{runs: 1, samples: 2}", Preset(1, 2)),
        ("runs: 1\nsamples: 50_000\nsplits: 10\n", PRESETS["50k"]),
        (
            "# as in their code\nruns: 10\nsamples: 5000\nreference: test\n"
            "quantisation: truncate-clamp\n",
            PRESETS["sngan"],
        ),
        (PAPER + "resize: clean\n", Preset(5, 2000, resize="clean")),
    ],
    ids=["paper", "one line", "50k", "sngan", "clean"],
)
def test_a_file_means_what_it_says_under_its_own_name(tmp_path, content, want, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for ending in ("yaml", "yml"):
        path = tmp_path / f"my protocol.v2.{ending}"
        path.write_text(content)
        assert preset(str(path)) == ("my protocol.v2", want)
        assert preset(f"~/my protocol.v2.{ending}") == ("my protocol.v2", want)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAPER + "split: 3\n", "unknown field 'split' (did you mean 'splits'?); choose from runs"),
        (PAPER + "7: 3\n", "unknown field '7'"),
        (PAPER + f"? {'long' * 900}\n: 3\n", "unknown field 'longlong"),
        ("samples: 2000\n", "does not say runs"),
        ("runs: 5\n", "does not say samples"),
        ("runs: 5.0\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: true\nsamples: 2000\n", "runs must be a whole number"),
        ("runs:\nsamples: 2000\n", "runs must be a whole number"),
        (
            "runs: 1\nsamples: 1000000001\n",
            "samples must be from 1 to 1,000,000, not 1,000,000,001",
        ),
        ("runs: -5\nsamples: 2000\n", "runs must be from 1 to 1,000, not -5"),
        (PAPER + "splits: 2001\n", "too few for 2,001 splits"),
        (PAPER + "reference: [train]\n", "reference must be one of train, test"),
        (PAPER + "quantisation: round\n", "quantisation must be one of round-clamp, truncate"),
        (PAPER + "resize: pillow\n", "resize must be one of own, clean"),
        ("- runs: 5\n- samples: 2000\n", "must hold lines such as"),
        ("runs: [5\nsamples: 2000\n", "not valid YAML"),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_file_that_is_no_protocol_is_named_with_its_remedy(tmp_path, content, words):
    assert words in refusal(tmp_path / "mine.yaml", content)
    assert "no such file" in refusal(tmp_path / "missing.yaml")


def test_a_file_may_not_take_the_name_of_a_protocol_and_an_unknown_name_lists_the_known(tmp_path):
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER)
    assert preset(str(path)) == ("paper", PRESETS["paper"])
    assert "rename the file" in refusal(path, "runs: 1\nsamples: 100\n")
    for name, words in (
        ("papr", r"unknown protocol 'papr' \(did you mean 'paper'\?\); choose one of paper, sng"),
        ("mine.json", "or give a .yaml file"),
        ("", "unknown protocol ''"),
    ):
        with pytest.raises(UserError, match=words):
            preset(name)
