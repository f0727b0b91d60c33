"""What a study says of its runs' layers, from records written by hand; nothing is trained here."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from figure_runs import accuracies, make_run, synthetic
from scipy import stats

from msngan.report.tables.study_layers import layer_tables
from msngan.study.layer_measures import layer_measures
from msngan.study.plan import make_study
from msngan.training.dynamics import (
    ADDED,
    FIRST,
    LISTS,
    LOSS,
    PER_LAYER,
    PER_NETWORK,
    Dynamics,
    read,
    write,
)

NORMS = {"sn": "spectral", "msn": "mean_spectral"}
CONTENT: dict[str, Any] = {
    "config": "base.yaml",
    "arms": {arm: {"model.norm": norm} for arm, norm in NORMS.items()},
    "grid": {"seed": [0, 1, 2]},
    "compare": [["msn", "sn"]],
}
LAYERS = ("network.a", "network.b", "network.head")
SHAPES = ((2, 1, 3, 3), (2, 2, 3, 3), (10, 8))
DRIFT = {"sn": [0.5, 0.7, 0.6], "msn": [0.1, 0.4, 0.1]}  # of layer a, by seed


def record(drift: float, complexity: float, up: bool = False) -> Dynamics:
    """Three measurements; layer b drifts half as far as a, after being thrice as far before."""
    made = synthetic(3, layers=LAYERS, shapes=SHAPES)
    course = np.array([[0, 0], [drift, 1.5 * drift], [drift, drift / 2]])
    signed = course * [1 if up else -1, -1]
    nothing = np.full((3, 1), np.nan)

    def column(*values: list[float]) -> Any:
        return np.array(values, np.float32)

    return replace(
        made,
        drift=np.hstack([course, nothing]).astype(np.float32),
        drift_signed=np.hstack([signed, nothing]).astype(np.float32),
        dead=column([0, 0.5, np.nan], [0, 0, np.nan], [0, 0.25, np.nan]),
        gradient_zero=column([np.nan] * 3, [0, 0, 0], [0, 0.5, 0.25]),
        gradient_sd=column([np.nan] * 3, [1, 10, 100], [10, 1, 100]),
        stable_rank=column([1, 2, 3], [1, 1, 1], [2, 3, 4]),
        operator_norm=column([1, 2, 3], [1, 1, 1], [9, 3, 4]),
        spectral_complexity=np.array([[10.0], [1.0], [complexity]]),
        subspace_left=column([1, 1, np.nan], [0.5, 0.5, np.nan], [drift, 0.5, np.nan]),
        subspace_link=column([np.nan, 0.25, 0.25], [np.nan, 1, 1], [np.nan, drift, 0.5]),
        loss_range=np.array([[3.0], [np.nan], [drift]]),
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six runs: the gap grows with the complexity, except between the seeds of an arm."""
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("task: classifier\nepochs: 6\n")
    Path("mine.yaml").write_text(yaml.safe_dump(CONTENT, sort_keys=False))
    for arm, norm in NORMS.items():
        for seed, drift in enumerate(DRIFT[arm]):
            up = (arm, seed) == ("sn", 2)
            made = record(drift, 10.0 ** (3 - seed if arm == "sn" else 6 - seed), up)
            lines = accuracies()
            gap = (0.01 if arm == "sn" else 0.2) + 0.01 * seed
            lines[-1] |= {"train_accuracy": lines[-1]["test_accuracy"] + gap}
            lines[-1] |= {"train_loss": 1.0, "test_loss": 1.0 + 2 * gap}
            make_run(tmp_path, f"mine-{arm}-s{seed}", norm, seed=seed, record=made, lines=lines)
    return tmp_path


def layers(root: Path, changes: dict[str, str] | None = None) -> Any:
    """changes: states by run. GANs (accuracy.jsonl is empty) have no epochs, as in results."""
    study = make_study("mine", CONTENT)
    children = []
    for child in study.children:
        lines = (root / f"checkpoints/{child.name}/accuracy.jsonl").read_text().splitlines()
        about = {"run": child.name, "row": child.row, "column": child.column, "seed": child.seed}
        state = (changes or {}).get(child.name, "done")
        epochs = {"epochs": list(map(json.loads, lines))} if lines else {}
        children.append({**about, "state": state, **epochs})
    return layer_measures(study, children, root)


def test_measures_of_the_layers_are_summed_up_over_seeds(folder):
    sn, msn = layers(folder)["results"]
    assert (sn["row"], sn["column"], sn["network"], sn["seeds"]) == ("sn", "", "network", [0, 1, 2])
    first, last = sn["first"], sn["last"]
    assert (first["steps"], last["steps"]) == ([0, 0, 0], [100, 100, 100])
    assert not {name for name in first if "drift" in name or "gradient_" in name} - {*LOSS}
    values = np.array(DRIFT["sn"])
    expected = {
        "drift_peak": 1.5 * values,
        "drift_largest": values,
        "drift_mean": 0.75 * values,
        "drift_signed_largest": values * [-1, -1, 1],
        "drift_signed_mean": values * [-0.75, -0.75, 0.25],
        "moved_down": np.array([1, 1, 0.5]),
        "gradient_zero": np.full(3, 0.25),
        "log10_gradient_sd": np.full(3, 1.0),
        "gradient_sd_span": np.full(3, 2 / 3),
        "dead": np.full(3, 0.125),
        "stable_rank": np.full(3, 3.0),
        "operator_norm": np.full(3, 9.0),
        "log10_complexity": np.array([3.0, 2.0, 1.0]),
        "subspace_left": (values + 0.5) / 2,
        "subspace_link": (values + 0.5) / 2,
        "loss_range": values,
        "loss_range_peak": np.full(3, 3.0),
    }
    for name, each in expected.items():
        np.testing.assert_allclose(last[name]["values"], each, rtol=1e-6)
        assert last[name]["mean"] == pytest.approx(each.mean(), rel=1e-6)
        assert last[name]["sd"] == pytest.approx(each.std(ddof=1), rel=1e-6)
    assert (first["stable_rank"]["mean"], first["operator_norm"]["mean"]) == (2, 3)
    assert (first["subspace_link"]["mean"], first["loss_range"]["mean"]) == (0.25, 3)
    assert not {"subspace_left", "loss_range_peak"} & first.keys()
    assert (first["dead"]["mean"], first["log10_complexity"]["mean"]) == (0.25, 1)
    a, b, head = sn["layers"]
    assert (b["name"], b["shape"]) == ("network.b", [2, 2, 3, 3])
    np.testing.assert_allclose(b["last"]["drift"]["values"], values / 2, rtol=1e-6)
    assert a["last"]["operator_norm"]["mean"] == 9
    assert head["first"]["stable_rank"] == {"mean": 3, "sd": 0, "values": [3, 3, 3]}
    assert {*head["first"]} == {"stable_rank", "operator_norm", "subspace_link"}
    np.testing.assert_allclose(msn["last"]["drift_largest"]["values"], DRIFT["msn"], rtol=1e-6)


def test_differences_are_paired_by_seed(folder):
    found = layers(folder)
    (one,) = [each for each in found["comparisons"] if each["measure"] == "drift_largest"]
    interval = stats.ttest_rel(DRIFT["msn"], DRIFT["sn"]).confidence_interval(0.95)
    assert (one["of"], one["network"], one["n"]) == (["msn", "sn"], "network", 3)
    np.testing.assert_allclose(one["differences"], [-0.4, -0.3, -0.5], rtol=1e-6)
    assert (one["low"], one["high"]) == pytest.approx([*interval], rel=1e-6)
    fewer = layers(folder, {"mine-msn-s1": "diverged"})
    (one,) = [each for each in fewer["comparisons"] if each["measure"] == "drift_largest"]
    assert one["differences"] == pytest.approx([-0.4, -0.5])
    assert fewer["results"][1]["seeds"] == [0, 2]


def test_the_gap_is_set_beside_the_spectral_complexity(folder):
    gap = layers(folder)["gap"]
    sn, msn = gap["results"]
    assert sn["accuracy_gap"]["values"] == pytest.approx([0.01, 0.02, 0.03])
    assert msn["loss_gap"]["values"] == pytest.approx([0.4, 0.42, 0.44])
    accuracy, loss = gap["correlations"]
    x, y = [3, 2, 1, 6, 5, 4], [0.01, 0.02, 0.03, 0.2, 0.21, 0.22]
    assert accuracy["spearman"] == pytest.approx(stats.spearmanr(x, y).statistic)
    assert (accuracy["items"], accuracy["groups"], accuracy["low"]) == (6, 2, None)
    assert {**loss, "of": accuracy["of"]} == accuracy
    difference = {each["measure"]: each["mean"] for each in gap["comparisons"]}
    assert difference["accuracy_gap"] == pytest.approx(0.19)


def test_what_is_missing_is_left_out_or_named(folder):
    (folder / "checkpoints/mine-sn-s0/dynamics.npz").unlink()
    (folder / "checkpoints/mine-sn-s1/dynamics.npz").write_bytes(b"damaged")
    found = layers(folder)
    assert found["results"][0]["seeds"] == [2]
    (remark,) = found["remarks"]
    assert "mine-sn-s1/dynamics.npz cannot be read" in remark
    *tables, legend = layer_tables("mine", found)
    assert remark in legend.notes
    assert tables[0].rows[0][:3] == ["sn", "1", "0.6000"]
    for path in folder.rglob("dynamics.npz"):
        path.unlink()
    assert layers(folder) is None
    assert [*layer_tables("mine", None)] == []


def of_two_layers(made: Dynamics) -> Dynamics:
    """Without the last layer."""
    columns = {name: getattr(made, name)[:, :2] for name in (*PER_LAYER, "histogram")}
    lists = ("layers", "shapes", *LISTS, *FIRST)
    return replace(made, **columns, **{name: getattr(made, name)[:2] for name in lists})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (of_two_layers, "is of other layers than the first run of its arm"),
        (lambda made: replace(made, networks=("critic",)), "cannot be read"),
        (lambda made: replace(made, networks=()), "cannot be read"),
    ],
)
def test_a_file_of_other_layers_is_left_out_and_named(folder, run, capsys, change, words):
    path = folder / "checkpoints/mine-sn-s1/dynamics.npz"
    made = change(read(path))
    networks = {name: getattr(made, name)[:, : len(made.networks)] for name in PER_NETWORK}
    write(path, replace(made, **networks))
    found = layers(folder)
    assert found["results"][0]["seeds"] == [0, 2]
    (remark,) = found["remarks"]
    assert "mine-sn-s1/dynamics.npz" in remark
    assert words in remark
    assert run("study", "mine.yaml", "--table") == 0
    assert words in " ".join(capsys.readouterr().out.split())


def test_what_no_number_can_hold_is_left_out(folder, run, capsys):
    path = folder / "checkpoints/mine-sn-s1/dynamics.npz"
    made = read(path)
    huge = ("beta_smoothness", "loss_range", "drift", "stable_rank")
    changed = {name: np.full(getattr(made, name).shape, 1.5e308) for name in huge}
    signed = np.full_like(made.drift_signed, np.nan)
    write(path, replace(made, **changed, drift_signed=signed))
    sn = layers(folder)["results"][0]
    for name in ("beta_smoothness", "loss_range_peak", "drift_largest", "drift_signed_mean"):
        values = sn["last"].get(name, {"values": [None] * 3})["values"]
        assert values[1] is None
    assert sn["layers"][0]["last"]["drift"]["values"][1] is None
    assert run("study", "mine.yaml", "--table", "--format", "json") == 0
    assert "Infinity" not in capsys.readouterr().out


def test_the_tables_have_at_most_eight_columns_and_every_format_the_layers(folder, run, capsys):
    *tables, _ = layer_tables("mine", layers(folder))
    assert all(len(each.columns) <= 8 for each in tables)
    assert all(len(row) == len(each.columns) for each in tables for row in each.rows)
    drift, gradients, _, subspaces, smoothness, _ = tables
    assert gradients.columns[2:] == ["zero", "small", "log10 sd", "span of log10 sd"]
    assert gradients.rows[0][4:] == ["1.000 ± 0.000", "0.6667 ± 0.0000"]
    assert subspaces.rows[0][2] == "0.550 ± 0.050"
    assert smoothness.rows[0][2:4] == ["0.60 ± 0.10", "3.000 ± 0.000"]
    assert drift.rows[0][:3] == ["sn", "3", "0.600 ± 0.100"]
    assert drift.rows[2][:3] == ["msn - sn", "3", "-0.40 [-0.65, -0.15]"]
    shown = {}
    for how in ("json", "csv", "md", "table"):
        assert run("study", "mine.yaml", "--table", "--format", how) == 0
        shown[how] = capsys.readouterr().out
    assert json.loads(shown["json"])["layers"] == layers(folder)
    rows = [row for row in csv.DictReader(io.StringIO(shown["csv"])) if row["network"]]
    assert len(rows) == 12
    assert (rows[3]["run"], rows[3]["step"], rows[3]["seed"]) == ("mine-sn-s0", "100", "0")
    assert float(rows[3]["drift_largest"]) == pytest.approx(0.5)
    assert rows[0]["drift_largest"] == ""
    assert "| msn - sn | 3 | -0.40 \\[-0.65, -0.15\\] |" in shown["md"]
    assert "of R with the accuracy's gap: 0.54 over 6 runs of 2 arms" in shown["table"]


def test_the_networks_of_a_gan_are_summed_up_apart(folder):
    for path in folder.glob("checkpoints/*/accuracy.jsonl"):
        path.write_text("")
    names = ("critic.a", "generator.b", "generator.head")
    for arm in NORMS:
        made = synthetic(3, layers=names, shapes=SHAPES, networks=("critic", "generator"))
        for seed in range(3):
            make_run(folder / "gans", f"mine-{arm}-s{seed}", record=made)
            path = folder / f"gans/checkpoints/mine-{arm}-s{seed}"
            (path / "accuracy.jsonl").touch()
    found = layers(folder / "gans")
    arms = [(each["row"], each["network"]) for each in found["results"]]
    assert arms == [(arm, network) for arm in NORMS for network in ("critic", "generator")]
    assert [len(each["layers"]) for each in found["results"]] == [1, 2, 1, 2]
    assert {each["network"] for each in found["comparisons"]} == {"critic", "generator"}
    assert found["gap"] is None
    drift, *_ = layer_tables("gans", found)
    assert [row[0] for row in drift.rows][3:5] == ["msn generator", "msn - sn critic"]
    older = replace(made, **{name: getattr(made, name) * np.nan for name in ADDED})
    for path in (folder / "gans").rglob("dynamics.npz"):
        write(path, older)
    tables = layer_tables("gans", layers(folder / "gans"))
    assert not any("subspace" in each.title or "smooth" in each.title for each in tables)


GANS = """
config: digits_msn
options:
  steps: 2
  threads: 1
  model.width: 2
  data: {batch_size: 4, limit: 32}
  scores: {every: 2, runs: 1, samples: 8, metrics: fid}
  samples.every: 0
arms: {SN: {model.norm: spectral}, MSN: {model.norm: mean_spectral}}
compare: [[MSN, SN]]
"""


@pytest.mark.slow
def test_a_study_of_gans_ends_in_its_layers_and_its_page_has_them(run, capsys, tmp_path):
    Path("gans.yaml").write_text(GANS)
    assert run("study", "gans.yaml", "--format", "md") == 0
    said = capsys.readouterr().out
    assert "| MSN critic | 1 |" in said
    assert said.index("by step") < said.index("drift of the layers")
    assert run("report", "gans", "--out", "page.html") == 0
    assert "drift of the layers" in Path("page.html").read_text()
