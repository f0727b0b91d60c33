"""However one of several processes ends, the others follow, and the run goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUIET, TINY, same_bits, weights
from together import run_together

Run = Callable[..., int]
JOB = ["fit", *TINY, *QUIET, "--run", "mine", "--records.every", "1"]
JOB += ["--data.batch_size", "4", "--checkpoint.every", "5"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
LONG = ["--steps", "1000000"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc"),
]


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    with open(folder / "said", "w") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, text=True)


def workers(process: subprocess.Popen[str]) -> list[int]:
    """The processes that train, in order of rank, once they have trained a few steps."""
    folder = Path("checkpoints/mine/metrics.jsonl")
    for _ in range(600):
        if folder.is_file() and len(folder.read_text().splitlines()) > 6:
            break
        assert process.poll() is None, Path("said").read_text()
        time.sleep(0.1)
    return [process.pid, *children(process.pid)]


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


def ended(process: subprocess.Popen[str], others: list[int]) -> tuple[int, str]:
    """Within a minute: the exit code, and what was said. No process is left."""
    code = process.wait(timeout=60)
    for _ in range(600):
        if not any(map(runs, others)):
            return code, Path("said").read_text()
        time.sleep(0.1)
    pytest.fail("a process is left")


def test_a_signal_to_a_process_that_is_not_the_first_stops_all_after_saving(
    run: Run, tmp_path: Path
) -> None:
    process = start(tmp_path, [sys.executable, "-m", "msngan", *JOB, *LONG, "--trainer.devices=2"])
    pids = workers(process)
    os.kill(pids[1], signal.SIGUSR1)
    code, said = ended(process, pids)
    assert code == 143, said
    assert "msngan resume mine" in said
    assert "Traceback" not in said


def test_a_process_that_is_killed_ends_the_others_and_torchrun_starts_them_again(
    run: Run, tmp_path: Path
) -> None:
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "--", "msngan", *JOB, "--steps", "40"]
    process = start(tmp_path, command)
    pids = workers(process)
    os.kill(pids[-1], signal.SIGKILL)
    code, said = ended(process, pids)
    assert code == 0, said
    assert "run mine: continued" in said
    alone = [*JOB, "--steps", "40", "--run", "whole", "--checkpoint.every", "0"]
    assert run_together(2, [alone], tmp_path) == [[0], [0]]
    assert same_bits(*(weights(Path("checkpoints") / name) for name in ("mine", "whole")))


def test_a_process_that_fails_shows_why_and_ends_the_others(run: Run, tmp_path: Path) -> None:
    # Lightning's launcher starts this file again for each process.
    (tmp_path / "msngan_that_fails.py").write_text(
        "import os, sys, msngan.gan as gan\n"
        "average = gan.update_average\n"
        "def fail(live, other, decay, step):\n"
        "    if step == 7 and os.environ.get('LOCAL_RANK') == '1': raise KeyError('my own fault')\n"
        "    average(live, other, decay, step)\n"
        "gan.update_average = fail\n"
        "from msngan.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "msngan_that_fails.py", *JOB, *LONG, "--trainer.devices", "2"]
    process = start(tmp_path, command)
    code, said = ended(process, [])
    assert code == 1
    assert "KeyError: 'my own fault'" in said
    assert said.splitlines()[-1].startswith("msngan: error: another process of the run has ended")
    assert (
        run("resume", "mine", "--steps", "8", "--trainer.devices", "1") == 0
    )  # of what was saved, by one process
