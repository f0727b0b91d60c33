"""However a run is ended, by a signal or with another process, it saves and goes on exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, same_bits, weights
from together import run_together

from msngan.gan import GAN

FIT = ["fit", *TINY, *QUIET, "--run", "mine", "--records.every", "1"]
JOB = [*FIT, "--data.batch_size", "4", "--checkpoint.every", "5"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
in_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc"
)


def start(folder: Path, command: list[str]) -> subprocess.Popen[str]:
    with open(folder / "said", "w") as said:
        return subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, text=True)


def wait_for(process: subprocess.Popen[str], done: Callable[[], bool]) -> None:
    for _ in range(1200):
        if done():
            return
        assert process.poll() is None, Path("said").read_text()
        time.sleep(0.05)
    pytest.fail("nothing in a minute")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    tiny, run, at_step, capfd, number, code
):
    at_step(3, lambda: os.kill(os.getpid(), number))
    assert run(*FIT) == code
    shown = capfd.readouterr().err
    assert "msngan resume mine" in shown
    assert "Traceback" not in shown
    assert torch.load("checkpoints/mine/last.ckpt", weights_only=True)["global_step"] == 4
    assert run("resume", "mine") == 0
    whole = tiny("whole", "--records.every", "1")
    assert same_bits(weights(whole), weights(Path("checkpoints/mine")))


# The step hangs or fails in this program; Lightning's launcher starts it again for each process.
PROGRAM = """import os, sys, time, msngan.gan as gan
average = gan.update_average
def changed(live, other, decay, step):
    if step == 7 and os.environ.get('LOCAL_RANK') == {!r}:
        {}
    average(live, other, decay, step)
gan.update_average = changed
from msngan.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(run, tmp_path):
    # The first interrupt has nothing to wait for but the second.
    program = PROGRAM.format(None, "open('hanging', 'w').close(); time.sleep(600)")
    process = start(tmp_path, [sys.executable, "-c", program, *FIT, "--steps", "9"])
    wait_for(process, Path("hanging").exists)
    process.send_signal(signal.SIGINT)
    wait_for(process, lambda: "SIGINT" in Path("said").read_text())
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    assert "Traceback" not in Path("said").read_text()


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


def test_a_signal_to_a_process_that_is_not_the_first_stops_all_after_saving(run, tmp_path):
    def prepare() -> None:
        step = GAN.training_step

        def signalled(self: GAN, *batch: object) -> object:
            if self.trainer.global_step == 3 and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGUSR1)
            return step(self, *batch)  # type: ignore[arg-type]

        GAN.training_step = signalled  # type: ignore[method-assign,assignment]

    assert run_together(2, [JOB], tmp_path, prepare) == [[143], [143]]
    said = (tmp_path / "0.log").read_text()
    assert "msngan resume mine" in said
    assert "Traceback" not in said + (tmp_path / "1.log").read_text()
    assert torch.load("checkpoints/mine/last.ckpt", weights_only=True)["global_step"] == 4


@pytest.mark.slow
@in_proc
def test_a_process_that_is_killed_ends_the_others_and_torchrun_starts_them_again(run, tmp_path):
    command = [*TORCHRUN, "--max-restarts", "1", "-m", "--", "msngan", *JOB, "--steps", "40"]
    process = start(tmp_path, command)
    records = Path("checkpoints/mine/metrics.jsonl")
    wait_for(process, lambda: records.is_file() and records.read_text().count("\n") > 6)
    pids = [process.pid, *children(process.pid)]
    os.kill(pids[-1], signal.SIGKILL)
    code, said = ended(process, pids)
    assert code == 0, said
    assert "run mine: continued" in said
    alone = [*JOB, "--steps", "40", "--run", "whole", "--checkpoint.every", "0"]
    assert run_together(2, [alone], tmp_path) == [[0], [0]]
    assert same_bits(*(weights(Path("checkpoints") / name) for name in ("mine", "whole")))


@pytest.mark.slow
def test_a_process_that_fails_shows_why_and_ends_the_others(run, tmp_path):
    Path("msngan_that_fails.py").write_text(PROGRAM.format("1", "raise KeyError('my own fault')"))
    options = ["--steps", "1000000", "--trainer.devices", "2"]
    code, said = ended(
        start(tmp_path, [sys.executable, "msngan_that_fails.py", *JOB, *options]), []
    )
    assert code == 1
    assert "KeyError: 'my own fault'" in said
    assert said.splitlines()[-1].startswith("msngan: error: another process of the run has ended")
    # One process goes on from what was saved.
    assert run("resume", "mine", "--steps", "8", "--trainer.devices", "1") == 0
