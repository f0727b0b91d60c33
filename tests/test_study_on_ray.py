"""A study on a Ray cluster of this machine: two nodes, of which one is killed while it trains."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import same_bits, weights

from msngan.__main__ import main

pytestmark = pytest.mark.slow
STUDY = """
config: digits_msn
options:
  steps: 600
  model.width: 4
  data.batch_size: 4
  threads: 1
  scores.enabled: false
  samples.every: 0
  dynamics.every: 0
  health.every: 0
  checkpoint.every: 10
arms:
  spectral: {model.norm: spectral}
  msn: {model.norm: mean_spectral}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head without CPUs and two nodes with one each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        yield made
        made.shutdown()


def wait_for(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.1)


def start(cluster: Any, said: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "msngan", "study", "tiny.yaml", "--on", "ray"]
    command += ["--address", cluster.address]
    with open(said, "w") as file:
        return subprocess.Popen(command, stderr=file)


def test_runs_survive_a_lost_machine_and_ctrl_c_and_end_in_the_bits_of_fit(
    cluster, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(STUDY)
    runs = [Path(f"checkpoints/tiny-{arm}-s0") for arm in ("spectral", "msn")]
    said = Path("said.txt")
    nodes = [cluster.add_node(num_cpus=1) for _ in runs]
    study = start(cluster, said)
    wait_for(lambda: all((run / "last.ckpt").is_file() for run in runs))
    cluster.remove_node(nodes[0], allow_graceful=False)
    wait_for(lambda: "its worker was lost; it goes on where it saved last" in said.read_text())
    study.send_signal(signal.SIGINT)
    assert study.wait(120) == 130, said.read_text()
    assert "continue with:" in said.read_text()
    study = start(cluster, said)
    assert study.wait(240) == 0, said.read_text()
    results = json.loads(Path("checkpoints/tiny/results.json").read_text())
    assert [each["state"] for each in results["children"]] == ["done", "done"]
    for run in runs:
        alone = ["--config", str(run / "config.yaml"), "--run", f"alone-{run.name}"]
        assert main(["fit", *alone]) == 0
        assert same_bits(weights(run), weights(Path(f"checkpoints/alone-{run.name}")))
