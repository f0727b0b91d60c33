"""Protocols: what their id depends on, what they are called, and that they need no torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace

import pytest

from msngan.runs.folder import UserError
from msngan.scores.protocol import PRESETS, Protocol, bias_note

BASE = Protocol(
    name="paper",
    runs=5,
    samples=2000,
    splits=1,
    dataset="cifar10",
    split="train",
    reference_images=50_000,
    reference_sha256="ab" * 32,
    size=32,
    channels=3,
    extractor="embed-cifar10-46378be3",
    official_inception=False,
    resize="bicubic-antialias-32",
)


@pytest.mark.parametrize("field", [field.name for field in fields(Protocol)])
def test_id_changes_with_every_field_but_the_name(field: str) -> None:
    old = getattr(BASE, field)
    new = not old if isinstance(old, bool) else old + 1 if isinstance(old, int) else old + "x"
    changed = replace(BASE, **{field: new})
    assert (changed.id == BASE.id) == (field == "name")


def test_id_is_the_same_on_every_machine_and_as_before_fields_were_added() -> None:
    assert BASE.id == "2807c14b6951"
    assert Protocol(**BASE.as_dict()) == BASE


def test_presets_are_the_published_sizes() -> None:
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
def test_sizes_that_cannot_be_scored_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="protocol: "):
        replace(BASE, **wrong)
    with pytest.raises(UserError, match="protocol: "):
        replace(PRESETS["paper"], **wrong)


def test_fewer_samples_than_features_are_told_and_no_others() -> None:
    note = bias_note(2000, 2048)
    assert note is not None
    assert note.startswith("2,000 samples a run are fewer than the 2,048 features")
    assert bias_note(2048, 2048) is None


def test_label_warns_unless_the_extractor_is_official() -> None:
    label = BASE.label()
    for part in ("paper", "5 x 2,000", "50,000 images of cifar10 train", BASE.extractor):
        assert part in label
    assert "not comparable with published" in label
    official = replace(BASE, extractor="inception-6726825d", official_inception=True, splits=10)
    assert "not comparable" not in official.label()
    assert "in 10 splits" in official.label()


def test_protocols_are_read_without_torch() -> None:
    code = "import sys, msngan.scores.protocol; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_are_what_they_say_even_after_their_modules_are_imported() -> None:
    import msngan.scores
    import msngan.scores.evaluation
    import msngan.scores.reference  # noqa: F401

    for name in msngan.scores.__all__:
        found = getattr(msngan.scores, name)
        assert isinstance(found, dict) or callable(found) or name == "Sampler"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        msngan.scores.nothing  # noqa: B018
