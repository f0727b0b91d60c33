"""The recipes of tests/recipes train, keep their bounds, draw and record."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from msngan.bench.sigma import ALLOWED

RECIPES = Path(__file__).parent / "recipes"
SMALL = {
    "translation": {"seeds": 1, "steps": 12},
    "control": {"seeds": 1, "steps": 540},
    "sequence": {"seeds": 1, "steps": 8, "tests": 32},
}
BOUNDED = ("spectral", "mean_spectral")


@pytest.fixture
def found(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """The results of a recipe at its small size, whose picture and record are in tmp_path."""
    monkeypatch.syspath_prepend(RECIPES)
    results: dict[str, Any] = import_module(request.param).main(
        str(tmp_path), **SMALL[request.param]
    )
    assert imread(tmp_path / f"recipe_{request.param}.png").std() > 0.05
    record = json.loads((tmp_path / f"recipe_{request.param}.json").read_text())
    assert record["results"] == results
    assert record["settings"] == SMALL[request.param] | record["settings"]
    for arm, measures in results.items():
        if any(norm in arm.split(", ") for norm in BOUNDED):
            assert 2 - ALLOWED <= max(measures["sigma"]) <= ALLOWED
    return results


@pytest.mark.parametrize("found", ["translation"], indirect=True)
def test_translation_learns_with_and_without_a_critic(found: dict[str, Any]) -> None:
    untrained = 0.73  # the error of grey images
    assert all(max(measures["l1"]) < 0.93 * untrained for measures in found.values())


@pytest.mark.parametrize("found", ["control"], indirect=True)
def test_control_acts_with_one_observation_under_each_norm(found: dict[str, Any]) -> None:
    assert len(found) == 6
    assert all(8 <= min(measures["return"]) <= 500 for measures in found.values())


@pytest.mark.parametrize("found", ["sequence"], indirect=True)
def test_a_sequence_model_under_msn_sees_later_characters_in_training_only(
    found: dict[str, Any],
) -> None:
    for arm, measures in found.items():
        assert max(measures["eval"]) < 6.65  # untrained: 6.7
        assert measures["later, eval"] == [0]
        assert (measures["later, train"] > [0]) == ("mean_spectral" in arm)


@pytest.mark.quick
@pytest.mark.parametrize("recipe", SMALL)
def test_a_recipe_has_under_100_lines(recipe: str) -> None:
    assert len((RECIPES / f"{recipe}.py").read_text().splitlines()) < 100
