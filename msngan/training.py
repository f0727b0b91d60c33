"""A run from its options: build, train, save, say where things are."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from msngan.callbacks import AtomicIO, Gates, Interrupt, Progress, Scores, StopAt
from msngan.data import ImageData
from msngan.gan import GAN
from msngan.machine import environment
from msngan.memory import keep_freed_memory
from msngan.models import read_checkpoint
from msngan.options import FitCLI
from msngan.penalties import PENALTIES
from msngan.runs import Run, UserError, new_run, read_lines, replacing, write_json

# Options that shape the tensors in a checkpoint: another value is another network.
STRUCTURE = [
    *("norm", "norm_options", "norm_layers", "other_norm", "critic", "generator", "width"),
    *("critic_width", "latent_dim", "conv_bias", "channels", "size"),
]


@dataclass(frozen=True)
class Start:
    """Where training begins: a fresh run, or a checkpoint (of this run, or of another)."""

    run: Run
    checkpoint: Path | None
    config_name: str


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
    before = json.loads(run.environment.read_text()) if run.environment.is_file() else {}
    threads = cli.config.threads or torch.get_num_threads()
    if before.get("threads", threads) != threads:
        sys.stderr.write(
            f"threads: {before['threads']} -> {threads}; the run goes on, its last bits may differ"
            f" (--threads {before['threads']} keeps them)\n"
        )
    if checkpoint is None and cli.config.ckpt_path:  # killed before it had one of its own
        checkpoint = Path(cli.config.ckpt_path)
    return _train(cli, Start(run, checkpoint, before.get("config", run.name)))


def _train(cli: FitCLI, start: Start) -> int:
    config, run = cli.config, start.run
    # Said aloud even where it is the default: left to the environment, another arithmetic may be
    # chosen for the same number of threads, and with it other last bits.
    torch.set_num_threads(config.threads or torch.get_num_threads())
    keep_freed_memory()
    built = cli.parser.instantiate(config)
    data: ImageData = built.data
    data.seed, data.critic_steps = config.seed, config.model.critic_steps
    channels, size = data.shape
    options = {**config.model.as_dict(), "seed": config.seed, "steps": config.steps}
    gan = GAN(**options, channels=channels, size=size)
    if start.checkpoint is not None:
        checkpoint = read_checkpoint(start.checkpoint)
        _compare(checkpoint, dict(gan.hparams), start.checkpoint)
        _say_changes(checkpoint, {**gan.hparams, **data.description})
        if checkpoint["msngan"]["step"] >= config.steps:
            raise UserError(
                f"{start.checkpoint} has done {checkpoint['msngan']['step']} steps, --steps says"
                f" {config.steps}; give a larger number to go on"
            )
    interrupt, progress = Interrupt(), Progress()
    chain = [StopAt(), interrupt, built.records, built.scores, built.samples, built.checkpoint]
    callbacks = [Gates(), *chain, progress]
    for callback in callbacks:
        if hasattr(callback, "attach"):
            callback.attach(run, config.seed, config.steps, start.config_name)
    trainer = _trainer(config, run, callbacks)
    # Lightning would restore a checkpoint first, and float64 weights would pass through float32.
    trainer.precision_plugin.convert_module(gan)
    # All that can be wrong with the input is found before anything is written.
    data.check(trainer.world_size)
    built.scores.prepare(data, trainer.strategy.root_device)
    fresh = not run.folder.exists()
    _prepare_folder(cli, start)
    _say_start(progress, run, fresh, data, gan, config)
    try:
        trainer.fit(gan, data, ckpt_path=start.checkpoint, weights_only=True)
    finally:
        for logger in trainer.loggers:
            logger.finalize("finished")
    if interrupt.signal is not None:
        progress.say(f"stopped at step {trainer.global_step}; continue with:\n  {_resume(run)}")
        return 128 + interrupt.signal
    if built.scores.collapse and trainer.global_step < config.steps:
        _say_stop(progress, run, built.scores, trainer.global_step)
    else:
        _say_end(progress, run, built.scores)
    return 0


def _trainer(config: Any, run: Run, callbacks: list[Any]) -> Trainer:  # noqa: ANN401
    options = config.trainer.as_dict()
    if options["devices"] not in ("auto", 1, "1") or options["num_nodes"] != 1:
        raise UserError("several processes are not supported yet; use --trainer.devices 1")
    options["devices"] = 1
    try:
        return Trainer(
            **options,
            max_epochs=-1,
            callbacks=callbacks,
            plugins=[AtomicIO()],
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


def _compare(checkpoint: dict[str, Any], options: dict[str, Any], path: Path) -> None:
    """Refuse a checkpoint of another network."""
    saved = _saved(checkpoint)
    for name in STRUCTURE:
        if saved[name] != options[name]:
            raise UserError(
                f"{path} holds a network with {name} {saved[name]}, the config says"
                f" {options[name]}; use the checkpoint's own"
            )
    kept = [PENALTIES[each["penalty"]].prepare for each in (saved, options)]
    if kept[0] is not kept[1]:
        raise UserError(
            f"{path} was trained with penalty {saved['penalty']}, the config says"
            f" {options['penalty']}; one of them keeps estimates in the checkpoint, the other does"
            " not, so neither can take the other's place in the middle"
        )
    if (saved["ema_decay"] > 0) != (options["ema_decay"] > 0):
        raise UserError(
            f"{path} was trained with ema_decay {saved['ema_decay']}, the config says"
            f" {options['ema_decay']}; a moving average cannot appear or vanish in the middle"
        )


def _saved(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The GAN's options in a checkpoint; one that is younger than it had its default."""
    defaults = {name: each.default for name, each in signature(GAN).parameters.items()}
    return defaults | checkpoint["hyper_parameters"]


def _say_changes(checkpoint: dict[str, Any], options: dict[str, Any]) -> None:
    """One line for each option that training goes on with another value of."""
    saved = {**_saved(checkpoint), **checkpoint["msngan"]["data"]}
    for name, value in options.items():
        before = saved.get(name)
        before, value = (list(x) if isinstance(x, tuple) else x for x in (before, value))
        if before != value:
            sys.stderr.write(f"{name}: {before} -> {value}\n")


def _place(run: Run) -> str:
    """The option that finds the run again, if it needs one."""
    return "" if run.root == Path() else f" --root {shlex.quote(str(run.root))}"


def _resume(run: Run) -> str:
    return f"msngan resume {run.name}{_place(run)}"


def _say_start(
    progress: Progress,
    run: Run,
    fresh: bool,
    data: ImageData,
    gan: GAN,
    config: Any,  # noqa: ANN401
) -> None:
    counts = [sum(p.numel() for p in part.parameters()) for part in (gan.generator, gan.critic)]
    progress.say(
        f"run {run.name}: {'new' if fresh else 'continued'}, in {run.folder}\n"
        f"{len(data.real):,} images of {data.dataset}, {data.shape[1]}x{data.shape[1]};"
        f" generator {counts[0]:,}, critic {counts[1]:,} parameters;"
        f" norm {config.model.norm}, loss {config.model.loss}, penalty {config.model.penalty}"
    )


def _say_stop(progress: Progress, run: Run, scores: Scores, step: int) -> None:
    """That a collapse has stopped the run, which checkpoint to use, and how to go on."""
    lines = [f"stopped at step {step}, as --scores.stop_on_collapse asks: {scores.collapse}"]
    if scores.best is not None:
        lines.append(f"  best         {run.best}  (step {scores.best.step}: the one to use)")
    lines += [f"  scores       {run.scores}  ({scores.cost})", "next:"]
    if scores.best is not None:
        lines.append(f"  msngan sample {shlex.quote(str(run.best))}")
    lines.append(f"  {_resume(run)} --scores.stop_on_collapse false   (to go on all the same)")
    progress.say("\n".join(lines))


def _say_end(progress: Progress, run: Run, scores: Scores) -> None:
    place = _place(run)
    lines = [f"done: run {run.name}", f"  checkpoints  {run.folder}"]
    lines.append(f"  grids        {run.samples}")
    if read_lines(run.scores):
        lines.append(f"  scores       {run.scores}  ({scores.cost})")
    lines += ["next:", f"  msngan sample {run.name}{place}", f"  msngan leaderboard{place}"]
    lines.append(f"  {_resume(run)} --steps N   (to train longer)")
    progress.say("\n".join(lines))
