"""However a run is ended, by a signal or with another process, it saves and goes on exactly."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, same_bits, weights
from together import fork, run_together
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from msngan.__main__ import main
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.gan import game as gan

FIT = ["fit", *TINY, *QUIET, "--run", "mine", "--records.every", "1"]
JOB = [*FIT, "--data.batch_size", "4", "--checkpoint.every", "5"]
LONG = [*JOB, "--steps", "40"]
in_proc = pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="looks for processes in /proc"
)


def has_ended(process: int) -> int | None:
    """The exit code of a child that has ended, or minus the signal that ended it."""
    child, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if child else None


def wait_for(process: int, done: Callable[[], bool]) -> None:
    for _ in range(1200):
        if done():
            return
        assert has_ended(process) is None, Path("said").read_text()
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_before_the_first_step_stops_after_it(run, monkeypatch, number, code):
    load = ImageData.train_dataloader

    def signalled(data: ImageData) -> object:
        os.kill(os.getpid(), number)
        return load(data)

    monkeypatch.setattr(ImageData, "train_dataloader", signalled)
    assert run(*FIT) == code
    assert torch.load("checkpoints/mine/last.ckpt", weights_only=True)["global_step"] == 1


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(run):
    def work() -> None:
        def hang(*_: object) -> None:
            Path("hanging").touch()
            time.sleep(600)

        gan.update_average = hang
        sys.exit(main(FIT))

    process = fork(work, Path("said"))
    wait_for(process, Path("hanging").exists)
    os.kill(process, signal.SIGINT)
    # It has nothing to wait for but the second.
    wait_for(process, lambda: "SIGINT" in Path("said").read_text())
    os.kill(process, signal.SIGINT)
    assert ended(process, []) == (130, Path("said").read_text())
    assert "Traceback" not in Path("said").read_text()


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    except FileNotFoundError:
        return False


def ended(process: int, others: list[int]) -> tuple[int, str]:
    """Within two minutes: the exit code, and what was said. No process is left."""
    code = None
    for _ in range(1200):
        if code is None:
            code = has_ended(process)
        elif not any(map(runs, others)):
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


def torchrun() -> None:
    arguments = ["--nproc-per-node", "2", "--max-restarts", "1", "-m", "--", "msngan", *LONG]
    os.execv(sys.executable, [sys.executable, "-m", "torch.distributed.run", *arguments])


def agent() -> None:
    """What torchrun calls once it has read its command line; the processes are forks."""
    config = LaunchConfig(
        1,
        1,
        2,
        max_restarts=1,
        start_method="fork",
        rdzv_endpoint="localhost:0",
        rdzv_backend="c10d",
    )
    elastic_launch(config, worker)()


def worker() -> None:
    if code := main(LONG):
        sys.exit(code)


@pytest.mark.slow
@in_proc
@pytest.mark.parametrize("launch", [agent, pytest.param(torchrun, marks=pytest.mark.soak)])
def test_a_process_that_is_killed_ends_the_others_and_torchrun_starts_them_again(
    run, tmp_path, launch
):
    process = fork(launch, Path("said"))
    records = Path("checkpoints/mine/metrics.jsonl")
    wait_for(process, lambda: records.is_file() and records.read_text().count("\n") > 6)
    pids = [process, *children(process)]
    os.kill(pids[-1], signal.SIGKILL)
    code, said = ended(process, pids)
    assert code == 0, said
    assert "run mine: continued" in said
    alone = [*LONG, "--run", "whole", "--checkpoint.every", "0"]
    assert run_together(2, [alone], tmp_path) == [[0], [0]]
    assert same_bits(*(weights(Path("checkpoints") / name) for name in ("mine", "whole")))


# The step fails in this program; Lightning's launcher starts it again for the other process.
PROGRAM = """import os, sys, msngan.gan.game as gan
average, calls = gan.update_average, []
def changed(*given):
    calls.append(given)
    if len(calls) == 8 and os.environ.get('LOCAL_RANK') == '1':
        raise KeyError('my own fault')
    average(*given)
gan.update_average = changed
from msngan.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_process_that_fails_shows_why_and_ends_the_others(run):
    Path("msngan_that_fails.py").write_text(PROGRAM)

    def work() -> None:
        sys.argv[1:] = [*JOB, "--steps", "1000000", "--trainer.devices", "2"]
        runpy.run_path("msngan_that_fails.py", run_name="__main__")

    code, said = ended(fork(work, Path("said")), [])
    assert code == 1
    assert "KeyError: 'my own fault'" in said
    assert said.splitlines()[-1].startswith("msngan: error: another process of the run has ended")
    # One process goes on from what was saved.
    assert run("resume", "mine", "--steps", "8", "--trainer.devices", "1") == 0
