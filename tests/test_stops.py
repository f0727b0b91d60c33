"""Signals save at the end of a step; a save is atomic; a failed one says how to resume."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import QUIET, TINY, same_bits, weights

Run = Callable[..., int]
Tiny = Callable[..., Path]


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "msngan", "fit", *TINY, *QUIET, "--run", "mine", *options]
    return subprocess.Popen(
        command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def wait_for_steps(folder: Path, process: subprocess.Popen[str]) -> None:
    metrics = folder / "checkpoints/mine/metrics.jsonl"
    for _ in range(1200):
        if metrics.is_file() and metrics.stat().st_size:
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    pytest.fail("no step in a minute")


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_says_how_to_go_on_and_loses_nothing(
    tiny: Tiny, run: Run, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    process = start(tmp_path, "--steps", "1000000", "--records.every", "1")
    wait_for_steps(tmp_path, process)
    process.send_signal(number)
    _, shown = process.communicate(timeout=60)
    assert process.returncode == code, shown
    assert "msngan resume mine" in shown
    assert "Traceback" not in shown
    stopped = torch.load("checkpoints/mine/last.ckpt", weights_only=True)["global_step"]
    assert stopped >= 1
    total = str(stopped + 3)
    assert run("resume", "mine", "--steps", total) == 0
    whole = tiny("whole", "--steps", total, "--records.every", "1")
    assert same_bits(weights(whole), weights(Path("checkpoints/mine")))


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once(tmp_path: Path) -> None:
    # The step hangs, so the first interrupt has nothing to wait for but the second.
    code = (
        "import sys, time, msngan.gan as g\n"
        "slow = g.update_average\n"
        "def hang(average, live, decay, step):\n"
        "    if step == 3: open('hanging', 'w').close(); time.sleep(600)\n"
        "    slow(average, live, decay, step)\n"
        "g.update_average = hang\n"
        "from msngan.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "fit", *TINY, *QUIET, "--run", "mine"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "hanging").exists():
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in shown


def test_a_run_killed_before_its_first_checkpoint_starts_anew(tiny: Tiny, run: Run) -> None:
    whole = tiny("whole")
    parts = tiny("parts", "--steps", "2")
    (parts / "last.ckpt").unlink()
    assert run("resume", "parts", "--steps", "6") == 0
    assert same_bits(weights(whole), weights(parts))


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 7 vs 6"),
    ],
)
def test_a_full_disk_is_one_line_that_says_how_to_go_on(
    tiny: Tiny,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    problem: Exception,
) -> None:
    folder = tiny("mine", "--steps", "2")
    whole = weights(folder)

    def full(*arguments: object) -> None:
        raise problem

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        assert run("resume", "mine", "--steps", "3") == 1
    shown = capsys.readouterr().err.splitlines()[-1]
    assert shown.startswith(f"msngan: error: cannot write to {folder}: ")
    assert "`msngan resume mine`" in shown
    assert same_bits(whole, weights(folder))
    assert run("resume", "mine", "--steps", "3") == 0
