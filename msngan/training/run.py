"""A run from its options: build, train, save, say where the results are."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from msngan.runs import distributed
from msngan.runs.atomic import write_json
from msngan.runs.configs import FitConfig
from msngan.runs.folder import Diverged, Failure, Run, UserError, counted, new_run, now
from msngan.runs.hardware import cores, keep_freed_memory
from msngan.runs.safe_read import object_or_empty
from msngan.training import launch
from msngan.training.callbacks.anomaly import Anomaly
from msngan.training.callbacks.checkpoints import AtomicIO, Dump, Stop
from msngan.training.callbacks.progress import Progress
from msngan.training.callbacks.run_callback import RunCallback, Saving
from msngan.training.loggers import LOGGERS, check_wandb, chosen
from msngan.training.starting import (
    Hold,
    check_steps,
    checked,
    kept_options,
    load,
    newest_intact,
    prepare,
    report_changes,
    warn_if_short,
)
from msngan.training.tasks import TASKS, resume_command


@dataclass(frozen=True)
class Start:
    """Where training begins: a new run, or a checkpoint (of this run, or of another)."""

    run: Run
    checkpoint: Path | None
    config_name: str
    hold: Hold
    resumed: bool = False


def fit(config: FitConfig) -> int:
    """Train a new run, from a checkpoint of another if one is given. Returns the exit code."""
    quiet()
    checkpoint = Path(config.ckpt_path) if config.ckpt_path else None
    with launch.world(config.group("trainer")) as world:
        if launch.may_restart() and config.run is None:
            raise UserError("give --run NAME: torchrun may start again, and must find the run")
        known = Run(config.run or "", Path(config.root))
        if launch.restarted() and distributed.decided(known.config.is_file):
            return _continue(config, known, world)
        root = Path(config.root)
        run = distributed.decided(lambda: new_run(config.run, config.name, config.seed, root))
        with Hold(run) as hold:
            return world.code(_train(config, Start(run, checkpoint, config.stem, hold), world))


def resume(config: FitConfig, run: Run) -> int:
    """Continue `run` in its own folder. Returns the exit code."""
    quiet()
    with launch.world(config.group("trainer")) as world:
        return _continue(config, run, world)


def _continue(config: FitConfig, run: Run, world: launch.World) -> int:
    with Hold(run) as hold:
        distributed.decided(hold.take)
        checkpoint = distributed.decided(lambda: newest_intact(run))
        found = distributed.decided(lambda: object_or_empty(run.environment))
        kinds = {"threads": int, "processes": int, "config": str}  # what is compared and reported
        before = {name: found[name] for name in kinds if type(found.get(name)) is kinds[name]}
        if distributed.rank() == 0:
            _report_machine(before, config, world)
        if checkpoint is None and config.ckpt_path:  # killed before its own first checkpoint
            checkpoint = Path(config.ckpt_path)
        start = Start(run, checkpoint, before.get("config", run.name), hold, resumed=True)
        return world.code(_train(config, start, world))


def _threads(config: FitConfig, world: launch.World) -> int:
    """--threads, or this machine's cores shared among its processes."""
    if config.threads:
        return int(config.threads)
    if world.size == 1:
        return torch.get_num_threads()
    return max(1, cores() // max(1, world.size // world.nodes))


def _report_machine(before: dict[str, Any], config: FitConfig, world: launch.World) -> None:
    """Report what makes a resumed run inexact; `before` is its environment.json."""
    threads, size = _threads(config, world), world.size
    had = before.get("processes", 1)
    if had != size:
        batch = config.data.batch_size
        sys.stderr.write(
            f"processes: {had} -> {size}; the run continues, not exactly: a critic update now takes"
            f" {size} x {counted(batch, 'image')} (--data.batch_size is per process), and sums"
            " round"
            " differently\n"
        )
    if before.get("threads", threads) != threads:
        sys.stderr.write(
            f"threads: {before['threads']} -> {threads}; the run continues, its last bits may"
            f" differ (--threads {before['threads']} keeps them)\n"
        )


def _report_device(before: Any, device: torch.device) -> None:
    """Report that a run goes on on another kind of device; `before`: that of environment.json."""
    if isinstance(before, str) and before != device.type:
        sys.stderr.write(
            f"device: {before} -> {device.type}; the run continues, not exactly: it draws other"
            " random numbers and rounds differently\n"
        )


def _train(config: FitConfig, start: Start, world: launch.World) -> int:
    run = start.run
    # Set explicitly even if it is the default: left to the environment, another arithmetic may be
    # chosen for the same number of threads, with other last bits.
    torch.set_num_threads(_threads(config, world))
    keep_freed_memory()
    loggers = chosen(config.logger)
    if "wandb" in loggers:
        distributed.decided(check_wandb)
    task = TASKS[config.task](config)
    checkpoint, options, built = None, task.options, task.built
    if start.checkpoint is not None:
        checkpoint = checked(start.checkpoint, config.task, options)
    module = task.build()
    built.health.begin(module)
    if world.size > 1:
        own = config.model.norm_options or {}
        launch.synchronise(module, centring=own.get("sync") is not False)
    if start.checkpoint is not None and checkpoint is not None:
        load(checkpoint, module, start.checkpoint)
        if start.resumed and distributed.decided(
            lambda: _already_ended(config, run, checkpoint, task.steps)
        ):
            return 0
        check_steps(checkpoint, task.steps, start.checkpoint, task.steps_option)
        if distributed.rank() == 0:
            report_changes(checkpoint, options, task.data, config)
    stop, progress, saving = Stop(), Progress(), built.checkpoint.saving
    saving.run, saving.say = run, progress.say
    saving.remedy = f"make room and continue with `{resume_command(run)}`"
    watching = config.detect_anomaly
    watchers = [Anomaly(config.model.compile), Dump()] if watching else [Dump()]
    *before_saving, saves = vars(built).values()
    callbacks = [*watchers, stop, *before_saving, *task.of_plugins, saves, progress]
    for callback in callbacks:
        if isinstance(callback, RunCallback):
            callback.attach(run, start.config_name, saving)
    built.checkpoint.options = kept_options(config)
    done = checkpoint["msngan"]["step"] if checkpoint else -1  # all of step 0 comes again
    logging_guard = Saving("continue", run)
    logging_guard.say = progress.say
    of_logger = logging_guard, config.nested(run=run.name), done if start.resumed else None
    trainer = _trainer(
        config,
        world,
        callbacks=callbacks,
        plugins=[AtomicIO(checkpoint)],
        logger=[LOGGERS[name](run, *of_logger) for name in loggers],
        default_root_dir=run.folder,
    )
    # Lightning converts after it has restored a checkpoint: float64 weights would be rounded.
    trainer.precision_plugin.convert_module(module)
    # Everything that can be wrong with the input is found before anything is written.
    device = trainer.strategy.root_device
    task.data.check(trainer.world_size)
    task.prepare(device)
    if start.resumed and distributed.rank() == 0:
        _report_device(object_or_empty(run.environment).get("device"), device)
    distributed.decided(lambda: prepare(config, run, start.config_name, start.hold, device))
    if distributed.rank() == 0:
        warn_if_short(run, module)
    state = "continued" if start.resumed else "new"
    progress.say(f"run {run.name}: {state}, in {run.folder}\n{task.beginning(module)}")
    if device.type == "cuda" and config.trainer.cuda_graph == "auto" and not watching:
        module.capture_steps(progress.say)
    began = time.monotonic()
    try:
        trainer.fit(module, task.data, ckpt_path=start.checkpoint, weights_only=True)
    except Diverged as problem:
        if not watching:
            more = f"`{resume_command(run)} --detect-anomaly` names the layer"
            problem.args = (f"{problem}; {more}",)
        _write_result(run, "diverged", problem.step or trainer.global_step, str(problem))
        raise
    except torch.OutOfMemoryError as problem:
        lower = "--data.batch_size" + (" or --model.width" if start.checkpoint is None else "")
        raise Failure(
            f"the memory of {device} is full after step {trainer.global_step}:"
            f" {str(problem).partition('. ')[0]}; lower {lower}, or take --trainer.precision"
            " bf16-mixed or more GPUs. Saved files are intact"
        ) from problem
    step = trainer.global_step
    saving.check(run.last.name)
    if stop.signal is not None:
        progress.say(f"stopped at step {step}; continue with:\n  {resume_command(run)}")
        return 128 + stop.signal
    if task.stopped is not None and step < task.steps:
        _write_result(run, "collapsed", step, task.stopped)
        said = f"stopped at step {step}, as --scores.stop_on_collapse asks: {task.stopped}"
        progress.say("\n".join([said, *task.stopping(run)]))
        return 0
    _write_result(run, "done", step)
    lines = [f"done: run {run.name}", task.times(time.monotonic() - began)]
    lines += [f"  checkpoints  {run.folder}", *task.ending(run)]
    progress.say("\n".join(lines))
    return 0


def _already_ended(config: FitConfig, run: Run, checkpoint: dict[str, Any], steps: int) -> bool:
    """Write the missing result of a run that was killed after its last step."""
    about = checkpoint["msngan"]
    step, collapse = about["step"], about.get("collapse")
    collapsed = collapse is not None and step < steps and config.scores.stop_on_collapse
    if run.result.is_file() or not (step == steps or collapsed):
        return False
    if collapsed:
        _write_result(run, "collapsed", step, collapse)
        sys.stderr.write(f"run {run.name} had stopped at step {step}: {collapse}\n")
    else:
        _write_result(run, "done", step)
        sys.stderr.write(f"run {run.name} had already done all of its {counted(step, 'step')}\n")
    return True


def _write_result(run: Run, status: str, step: int, reason: str | None = None) -> None:
    if distributed.rank() > 0:
        return
    about = {"status": status, "step": step, "reason": reason, "time": now()}
    content = {"format": 1, **about}
    Saving(run=run).attempt(run.result.name, step, lambda: write_json(run.result, content))


def _trainer(config: FitConfig, world: launch.World, **parts: Any) -> Trainer:
    options = config.group("trainer")
    del options["cuda_graph"]  # not Lightning's
    options |= {"devices": 1 if world.one_each else world.devices, "num_nodes": world.nodes}
    if world.environment is not None:
        options["strategy"] = launch.Together(world)
    try:
        return Trainer(
            **options,
            **parts,
            max_epochs=-1,
            log_every_n_steps=0,  # the callback Records logs
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except (MisconfigurationException, ValueError) as problem:
        raise UserError(f"--trainer options: {problem}") from problem


def quiet() -> None:
    """Keep the advertisements and internal notices of other packages from the terminal."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(
        lambda record: "Tip:" not in record.getMessage()
    )
    for name in ("utilities.rank_zero", "accelerators.cuda"):
        logging.getLogger(f"pytorch_lightning.{name}").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    if not sys.warnoptions and "PYTHONWARNINGS" not in os.environ:
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="pytorch_lightning")
