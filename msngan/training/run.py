"""A run from its options: build, train, save, say where things are."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from msngan.runs import distributed as processes
from msngan.runs.atomic import write_json
from msngan.runs.fit_config import FitConfig
from msngan.runs.folder import Diverged, Run, UserError, new_run, now
from msngan.runs.memory import keep_freed_memory
from msngan.runs.safe_read import object_or_empty
from msngan.training import launch
from msngan.training.board import Board
from msngan.training.callbacks import (
    Anomaly,
    AtomicIO,
    Dump,
    Interrupt,
    Progress,
    RunCallback,
    StopAt,
)
from msngan.training.callbacks.saving import Saving
from msngan.training.checkpoint import (
    JudgedIO,
    check_steps,
    fit_into,
    judged,
    kept_options,
    say_changes,
)
from msngan.training.folder import Hold, prepare, say_if_short, take_up
from msngan.training.strategy import Together, synchronise
from msngan.training.tasks import TASKS, resume_command
from msngan.training.threads import say_machine, threads_of


@dataclass(frozen=True)
class Start:
    """Where training begins: a fresh run, or a checkpoint (of this run, or of another)."""

    run: Run
    checkpoint: Path | None
    config_name: str
    hold: Hold
    resumed: bool = False


def fit(config: FitConfig) -> int:
    """A new run, perhaps from another's checkpoint. Returns the exit code."""
    quiet()
    checkpoint = Path(config.ckpt_path) if config.ckpt_path else None
    with launch.world(config.group("trainer")) as world:
        if launch.may_restart() and config.run is None:
            raise UserError("give --run NAME: torchrun may start again, and must find the run")
        known = Run(config.run or "", Path(config.root))
        if launch.restarted() and processes.decided(known.config.is_file):
            return _continue(config, known, world)
        root = Path(config.root)
        run = processes.decided(lambda: new_run(config.run, config.name, config.seed, root))
        with Hold(run) as hold:
            return world.code(_train(config, Start(run, checkpoint, config.stem, hold), world))


def resume(config: FitConfig, run: Run) -> int:
    """Continue `run` in its own folder."""
    quiet()
    with launch.world(config.group("trainer")) as world:
        return _continue(config, run, world)


def _continue(config: FitConfig, run: Run, world: launch.World) -> int:
    with Hold(run) as hold:
        processes.decided(hold.take)
        checkpoint = processes.decided(lambda: take_up(run))
        before = processes.decided(lambda: _environment(run))
        say_machine(before, config, world)
        if checkpoint is None and config.ckpt_path:  # killed before it had one of its own
            checkpoint = Path(config.ckpt_path)
        start = Start(run, checkpoint, before.get("config", run.name), hold, resumed=True)
        return world.code(_train(config, start, world))


def _environment(run: Run) -> dict[str, Any]:
    """What the run said of its machine, nothing where that cannot be read: it decides nothing."""
    kinds = {"threads": int, "processes": int, "config": str}
    found = object_or_empty(run.environment).items()
    return {name: value for name, value in found if type(value) is kinds.get(name)}


def _train(config: FitConfig, start: Start, world: launch.World) -> int:
    run = start.run
    # Said aloud even where it is the default: left to the environment, another arithmetic may be
    # chosen for the same number of threads, and with it other last bits.
    torch.set_num_threads(threads_of(config, world))
    keep_freed_memory()
    task = TASKS[config.task](config)
    checkpoint, options = None, task.options
    if start.checkpoint is not None:
        checkpoint = judged(start.checkpoint, config.task, options)
    module = task.build()
    task.built.health.begin(module)
    if world.size > 1:
        own = config.model.norm_options or {}
        synchronise(module, centring=own.get("sync") is not False)
    if start.checkpoint is not None and checkpoint is not None:
        fit_into(checkpoint, module, start.checkpoint)
        if start.resumed and processes.decided(
            lambda: _ended_unsaid(config, run, checkpoint, task.steps)
        ):
            return 0
        check_steps(checkpoint, task.steps, start.checkpoint, task.steps_option)
        if processes.rank() == 0:
            say_changes(checkpoint, options, task.data.description, config)
    interrupt, progress = Interrupt(), Progress()
    built = task.built
    saving = built.checkpoint.saving
    saving.run, saving.say = run, progress.say
    saving.remedy = f"make room and go on with `{resume_command(run)}`"
    recorders = [built.records, built.dynamics, built.health]
    watching = config.detect_anomaly or config.trainer.detect_anomaly
    watchers = [Anomaly(config.model.compile), Dump()] if watching else [Dump()]
    callbacks = [*watchers, StopAt(), interrupt, *recorders, *task.callbacks, built.checkpoint]
    callbacks.append(progress)
    for callback in callbacks:
        if isinstance(callback, RunCallback):
            callback.attach(run, config.seed, task.steps, start.config_name)
            callback.saving = saving
    built.checkpoint.options = kept_options(config)
    trainer = _trainer(config, run, callbacks, world, JudgedIO(checkpoint))
    # Lightning would restore a checkpoint first, and float64 weights would pass through float32.
    trainer.precision_plugin.convert_module(module)
    # All that can be wrong with the input is found before anything is written.
    task.data.check(trainer.world_size)
    task.prepare(trainer.strategy.root_device)
    processes.decided(lambda: prepare(config, run, start.config_name, start.hold))
    if processes.rank() == 0:
        say_if_short(run, module)
    state = "continued" if start.resumed else "new"
    progress.say(f"run {run.name}: {state}, in {run.folder}\n{task.beginning(module)}")
    try:
        trainer.fit(module, task.data, ckpt_path=start.checkpoint, weights_only=True)
    except Diverged as problem:
        if not watching:
            more = f"`{resume_command(run)} --detect-anomaly` names the layer"
            problem.args = (f"{problem}; {more}",)
        _write_result(run, "diverged", trainer.global_step, str(problem))
        raise
    finally:
        for logger in trainer.loggers:
            logger.finalize("finished")
    step = trainer.global_step
    saving.check(run.last.name)
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


def _ended_unsaid(config: Any, run: Run, checkpoint: dict[str, Any], steps: int) -> bool:
    """Write the result of a run that was stopped between its last step and its result."""
    about = checkpoint["msngan"]
    step, collapse = about["step"], about.get("collapse")
    collapsed = collapse is not None and config.scores.stop_on_collapse
    if run.result.is_file() or not (step == steps or collapsed):
        return False
    if step < steps:
        _write_result(run, "collapsed", step, collapse)
        sys.stderr.write(f"run {run.name} had stopped at step {step}: {collapse}\n")
        return True
    _write_result(run, "done", step)
    sys.stderr.write(f"run {run.name} had done all of its {step} steps; it is done\n")
    return True


def _write_result(run: Run, status: str, step: int, reason: str | None = None) -> None:
    if processes.rank() > 0:
        return
    about = {"status": status, "step": step, "reason": reason, "time": now()}
    with Saving(run=run).attempt(run.result.name, step):
        write_json(run.result, {"format": 1, **about})


def _trainer(
    config: FitConfig,
    run: Run,
    callbacks: list[Any],
    world: launch.World,
    files: AtomicIO,
) -> Trainer:
    options = config.group("trainer")
    options |= {"devices": world.devices, "num_nodes": world.nodes}
    options["detect_anomaly"] = False  # Anomaly is in its place, which names layers
    if world.environment is not None:
        options["strategy"] = Together(world.environment)
    try:
        return Trainer(
            **options,
            max_epochs=-1,
            callbacks=callbacks,
            plugins=[files],
            logger=Board(run),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=run.folder,
        )
    except (MisconfigurationException, ValueError) as problem:
        raise UserError(f"--trainer options: {problem}") from problem


def quiet() -> None:
    """Keep the advertisements and internal notices of other packages from the terminal."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="pytorch_lightning")
