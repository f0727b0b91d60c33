"""Kill anything, any time: what is taken up again ends as the run that was let alone.

Weights, optimizers and moving averages of last.ckpt and best.ckpt, records, measurements and
pictures are compared bit for bit. The long forms: `pytest -m soak tests/test_soak.py -s`; the
seed of the random ones is MSNGAN_SOAK_SEED, or a new one each time, and is shown.
"""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import kills
import pytest


def elsewhere() -> str:
    """A folder on another file system than the temporary one, where there is such."""
    other = Path("/dev/shm")
    here = os.stat(tempfile.gettempdir()).st_dev
    if not other.is_dir() or other.stat().st_dev == here:
        pytest.skip("no second file system in /dev/shm")
    return str(other)


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_write_ends_as_if_it_had_not_been(tmp_path):
    report = kills.each_operation(tmp_path, "gan", few=True)
    assert (report.tried, report.losses) == (6, [])


@pytest.mark.slow
def test_a_run_killed_at_random_with_another_temporary_folder_ends_as_if_it_had_not_been(tmp_path):
    report = kills.at_random(tmp_path, "classifier", 2, random.randrange(10**6), elsewhere())
    assert (report.tried, report.losses) == (2, [])


@pytest.mark.soak
@pytest.mark.parametrize("task", ["gan", "classifier"])
@pytest.mark.parametrize("of_resume", [False, True], ids=["operations", "resumption"])
def test_a_kill_at_each_file_operation_loses_nothing(of_resume, task, tmp_path):
    report = kills.each_operation(tmp_path, task, of_resume=of_resume)
    print(report)
    assert report.losses == []
    assert report.tried > 100


@pytest.mark.soak
@pytest.mark.parametrize("task", ["gan", "classifier"])
def test_fifty_kills_at_random_times_lose_nothing(task, tmp_path):
    seed = int(os.environ.get("MSNGAN_SOAK_SEED") or random.randrange(10**6))
    report = kills.at_random(tmp_path, task, 50, seed, elsewhere())
    print("seed", seed, report)
    assert (report.tried, report.losses) == (50, [])
