"""Which runs a person means, and what each has on record. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msngan.runs.folder import NAME, Run, UserError, all_runs, did_you_mean
from msngan.runs.safe_read import read_config


@dataclass(frozen=True)
class Source:
    """A run and its resolved config."""

    run: Run
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.run.name

    @property
    def norm(self) -> str:
        return str(self._model.get("norm", "none"))

    @property
    def rate(self) -> float | None:
        """The learning rate; of a GAN the critic's."""
        value = self._model.get("lr", self._model.get("critic_lr"))
        return float(value) if isinstance(value, int | float) else None

    @property
    def seed(self) -> int:
        value = self.config.get("seed", 0)
        return value if isinstance(value, int) else 0

    @property
    def task(self) -> str:
        return str(self.config.get("task", "gan"))

    @property
    def _model(self) -> dict[str, Any]:
        model = self.config.get("model")
        return model if isinstance(model, dict) else {}


def find_sources(
    targets: Sequence[str],
    root: Path = Path(),
    *,
    seeds: Sequence[int] = (),
    norms: Sequence[str] = (),
    rates: Sequence[float] = (),
) -> list[Source]:
    """The runs that `targets` mean, each once, in their order.

    A target is a run's name or folder, or a study's name or folder, which means all its runs. An
    empty selection of seeds, norms or learning rates means all. UserError for a target that is
    neither, a config that cannot be read, and a selection that leaves nothing.
    """
    runs: dict[Path, Run] = {}
    for target in targets:
        for run in runs_of(target, root):
            runs.setdefault(run.folder.resolve(), run)
    every = [_source(run) for run in runs.values()]
    found = every
    for option, wanted, of in (
        ("--seeds", seeds, lambda each: each.seed),
        ("--norms", norms, lambda each: each.norm),
        ("--lr", rates, lambda each: each.rate),
    ):
        here = sorted({of(each) for each in every}, key=str)
        if missing := [value for value in wanted if value not in here]:
            known = ", ".join(map(str, here))
            near = did_you_mean(str(missing[0]), [str(value) for value in here])
            raise UserError(
                f"{option} {missing[0]}: in none of these runs{near}; they have {known}"
            )
        found = [each for each in found if not wanted or of(each) in wanted]
    if not found:
        raise UserError("no run has all of the chosen --seeds, --norms and --lr")
    return found


def runs_of(target: str, root: Path = Path()) -> list[Run]:
    """The run, or the study's runs in order of name, that `target` means."""
    named = Run(target, root) if NAME.fullmatch(target) else None
    folder = named.folder if named and named.folder.is_dir() else Path(target)
    if (folder / "study.yaml").is_file():
        return _children(folder)
    if (folder / "config.yaml").is_file():
        whole = folder.resolve()
        return [named if named and folder == named.folder else Run(whole.name, whole.parents[1])]
    here = [each.name for each in all_runs(root)]
    here += [path.parent.name for path in sorted(root.glob("checkpoints/*/study.yaml"))]
    known = f"; here are {', '.join(here[:12])}{' ...' if len(here) > 12 else ''}" if here else ""
    raise UserError(f"no run or study {target!r}{did_you_mean(target, here)}{known}")


def _children(folder: Path) -> list[Run]:
    """A study's runs are called <study>-<cell>; another study's name may begin like this one's."""
    whole = folder.resolve()
    root = folder.parents[1] if len(folder.parents) > 1 else whole.parents[1]
    others = [path.parent.name for path in whole.parent.glob(f"{whole.name}-*/study.yaml")]
    runs = [
        run
        for run in all_runs(root)
        if run.name.startswith(f"{whole.name}-")
        and not any(run.name.startswith(f"{other}-") for other in others)
    ]
    if not runs:
        raise UserError(f"study {whole.name!r} has no run yet; start it: msngan study {whole.name}")
    return runs


def _source(run: Run) -> Source:
    try:
        return Source(run, read_config(run.config))
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UserError(f"{run.config}: {reason}") from problem
