"""Kill anything, any time: what is taken up again ends as the run that was let alone.

Weights, optimizers and moving averages of last.ckpt and best.ckpt, records, measurements and
pictures are compared bit for bit. The long forms: `pytest -m soak tests/test_soak.py -s`; the
seed of the random ones is MSNGAN_SOAK_SEED, or a new one each time, and is shown.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def kills(*arguments: str) -> dict[str, object]:
    command = [sys.executable, str(HERE / "kills.py"), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(*arguments, "kills", report["kills"], "seconds", report["seconds"])
    assert report["losses"] == []
    return report


def elsewhere() -> str:
    """A folder on another file system than the temporary one, where there is such."""
    other = Path("/dev/shm")
    here = os.stat(tempfile.gettempdir()).st_dev
    if not other.is_dir() or other.stat().st_dev == here:
        pytest.skip("no second file system in /dev/shm")
    return str(other)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_write_ends_as_if_it_had_not_been():
    assert kills("operations", "gan", "--few")["kills"] == 5


@pytest.mark.slow
def test_a_run_killed_at_random_with_another_temporary_folder_ends_as_if_it_had_not_been():
    assert kills("random", "classifier", "--kills", "2", "--other", elsewhere())["kills"] == 2


@pytest.mark.soak
@pytest.mark.parametrize("task", ["gan", "classifier"])
@pytest.mark.parametrize("how", ["operations", "resumption"])
def test_a_kill_at_each_file_operation_loses_nothing(how, task):
    assert kills(how, task)["kills"] > 100


@pytest.mark.soak
@pytest.mark.parametrize("task", ["gan", "classifier"])
def test_fifty_kills_at_random_times_lose_nothing(task):
    seed = os.environ.get("MSNGAN_SOAK_SEED", str(random.randrange(10**6)))
    print("seed", seed)
    report = kills("random", task, "--kills", "50", "--seed", seed, "--other", elsewhere())
    assert report["kills"] == 50
