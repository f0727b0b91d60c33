"""A run from its options: build, train, save, say where things are."""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from msngan.callbacks import AtomicIO, Interrupt, Progress, RunCallback, StopAt
from msngan.plain import read_json, read_up_to
from msngan.machine import environment
from msngan.memory import keep_freed_memory
from msngan.options import FitCLI
from msngan.runs import Diverged, Failure, Run, UserError, new_run, now, replacing, write_json
from msngan.training.changes import flat
from msngan.training.checkpoint import JudgedIO, check_steps, fit_into, judged, say_changes
from msngan.training.classifier_task import ClassifierTask
from msngan.training.gan_task import GanTask
from msngan.training.room import room_for
from msngan.training.task import Task, resume_command

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
LARGEST_ENVIRONMENT = 2**20  # bytes
TORCH_WRITER = "inline_container.cc"  # the source that torch names when it cannot write
TASKS: dict[str, type[Task]] = {each.name: each for each in (GanTask, ClassifierTask)}


@dataclass(frozen=True)
class Start:
    """Where training begins: a fresh run, or a checkpoint (of this run, or of another)."""

    run: Run
    checkpoint: Path | None
    config_name: str
    resumed: bool = False


def fit(cli: FitCLI) -> int:
    """A new run, perhaps from another's checkpoint. Returns the exit code."""
    config = cli.config
    stems = getattr(cli.parser, "config_stems", [])
    stem = stems[-1] if stems else config.data.dataset
    root = Path(config.root)
    run = new_run(config.run, stem, config.seed, root)
    checkpoint = Path(config.ckpt_path) if config.ckpt_path else None
    return _train(cli, Start(run, checkpoint, stem))


def resume(cli: FitCLI, run: Run, checkpoint: Path | None) -> int:
    """Continue `run` in its own folder."""
    before = _environment(run)
    threads = cli.config.threads or torch.get_num_threads()
    if before.get("threads", threads) != threads:
        sys.stderr.write(
            f"threads: {before['threads']} -> {threads}; the run goes on, its last bits may differ"
            f" (--threads {before['threads']} keeps them)\n"
        )
    if checkpoint is None and cli.config.ckpt_path:  # killed before it had one of its own
        checkpoint = Path(cli.config.ckpt_path)
    return _train(cli, Start(run, checkpoint, before.get("config", run.name), resumed=True))


def _environment(run: Run) -> dict[str, Any]:
    """What the run said of its machine, nothing where that cannot be read: it decides nothing."""
    try:
        found = read_json(read_up_to(run.environment, LARGEST_ENVIRONMENT))
    except (OSError, ValueError):
        return {}
    kinds = {"threads": int, "config": str}
    known = found.items() if isinstance(found, dict) else ()
    return {name: value for name, value in known if type(value) is kinds.get(name)}


def _train(cli: FitCLI, start: Start) -> int:
    config, run = cli.config, start.run
    # Said aloud even where it is the default: left to the environment, another arithmetic may be
    # chosen for the same number of threads, and with it other last bits.
    torch.set_num_threads(config.threads or torch.get_num_threads())
    keep_freed_memory()
    task = TASKS[cli.task](config, cli.parser.instantiate(config))
    checkpoint, options = None, task.options
    if start.checkpoint is not None:
        checkpoint = judged(start.checkpoint, task.name, options)
    with room_for(task.name, options):
        module = task.module()
    if start.checkpoint is not None and checkpoint is not None:
        fit_into(checkpoint, module, start.checkpoint)
        if start.resumed and _ended_unsaid(run, checkpoint, task.steps):
            return 0
        check_steps(checkpoint, task.steps, start.checkpoint, task.steps_option)
        say_changes(checkpoint, task.name, options, task.data.description, config)
    interrupt, progress = Interrupt(), Progress()
    built = task.built
    recorders = [built.records, built.dynamics]
    callbacks = [StopAt(), interrupt, *recorders, *task.callbacks, built.checkpoint, progress]
    for callback in callbacks:
        if isinstance(callback, RunCallback):
            callback.attach(run, config.seed, task.steps, start.config_name)
    built.checkpoint.options = flat(config)
    trainer = _trainer(config, run, callbacks, JudgedIO(checkpoint))
    # Lightning would restore a checkpoint first, and float64 weights would pass through float32.
    trainer.precision_plugin.convert_module(module)
    # All that can be wrong with the input is found before anything is written.
    task.data.check(trainer.world_size)
    task.prepare(trainer.strategy.root_device)
    fresh = not run.folder.exists()
    _prepare_folder(cli, start)
    state = "new" if fresh else "continued"
    progress.say(f"run {run.name}: {state}, in {run.folder}\n{task.beginning(module)}")
    try:
        trainer.fit(module, task.data, ckpt_path=start.checkpoint, weights_only=True)
    except Diverged as problem:
        _write_result(run, "diverged", trainer.global_step, str(problem))
        raise
    except (OSError, RuntimeError) as problem:
        if (cause := _no_room(problem)) is None:
            raise
        raise Failure(
            f"cannot write to {run.folder}: {cause}; what it had saved is whole: make"
            f" room and go on with `{resume_command(run)}`"
        ) from problem
    finally:
        for logger in trainer.loggers:
            logger.finalize("finished")
    step = trainer.global_step
    if interrupt.signal is not None:
        progress.say(f"stopped at step {step}; continue with:\n  {resume_command(run)}")
        return 128 + interrupt.signal
    if task.stopped is not None and step < task.steps:
        _write_result(run, "collapsed", step, task.stopped)
        said = f"stopped at step {step}, as --scores.stop_on_collapse asks: {task.stopped}"
        progress.say("\n".join([said, *task.stopping(run)]))
        return 0
    _write_result(run, "done", step)
    lines = [f"done: run {run.name}", f"  checkpoints  {run.folder}", *task.ending(run)]
    progress.say("\n".join(lines))
    return 0


def _no_room(problem: Exception) -> str | None:
    """What a full or lost disk is called, None where the error is another."""
    if isinstance(problem, OSError) and problem.errno in NO_ROOM:
        return problem.strerror
    # torch writes a checkpoint in C++ and has no error number to give
    return "no room for a checkpoint" if TORCH_WRITER in str(problem) else None


def _ended_unsaid(run: Run, checkpoint: dict[str, Any], steps: int) -> bool:
    """Write the result of a run that was stopped between its last step and its result."""
    step = checkpoint["msngan"]["step"]
    if step != steps or run.result.is_file():
        return False
    _write_result(run, "done", step)
    sys.stderr.write(f"run {run.name} had done all of its {step} steps; it is done\n")
    return True


def _write_result(run: Run, status: str, step: int, reason: str | None = None) -> None:
    about = {"status": status, "step": step, "reason": reason, "time": now()}
    write_json(run.result, {"format": 1, **about})


def _trainer(config: Any, run: Run, callbacks: list[Any], files: AtomicIO) -> Trainer:  # noqa: ANN401
    options = config.trainer.as_dict()
    if options["devices"] not in ("auto", 1, "1") or options["num_nodes"] != 1:
        raise UserError("several processes are not supported yet; use --trainer.devices 1")
    options["devices"] = 1
    try:
        return Trainer(
            **options,
            max_epochs=-1,
            callbacks=callbacks,
            plugins=[files],
            logger=TensorBoardLogger(run.folder, name="tensorboard", version=""),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=run.folder,
        )
    except (MisconfigurationException, ValueError) as problem:
        raise UserError(f"--trainer options: {problem}") from problem


def _prepare_folder(cli: FitCLI, start: Start) -> None:
    run = start.run
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        run.samples.mkdir(parents=True, exist_ok=True)
        for stale in [*run.folder.glob(".*.tmp"), *run.folder.glob(".*.ckpt")]:
            stale.unlink()
        run.result.unlink(missing_ok=True)
        config = cli.config.clone()
        config.run = run.name
        for transient in ("config", "root", "ckpt_path"):
            config.pop(transient, None)
        if cli.config.ckpt_path:  # part of what the run is: it did not begin at nothing
            config.ckpt_path = str(Path(cli.config.ckpt_path).resolve())
        with replacing(run.config) as temporary:
            temporary.write_text(cli.parser.dump(config, skip_unset=False))
        write_json(run.environment, environment(start.config_name))
    except OSError as problem:
        raise UserError(
            f"cannot write to {run.folder}: {problem.strerror}; choose another folder with --root"
        ) from problem
