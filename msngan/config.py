"""Configs by name. No torch here: a missing config is answered at once."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from msngan.runs import UserError, did_you_mean


def packaged_folder() -> Path:
    """Where the packaged configs lie: inside an installed wheel, or beside the source."""
    installed = Path(str(resources.files("msngan"))) / "configs"
    return installed if installed.is_dir() else installed.parent.parent / "configs"


def known_configs() -> dict[str, Path]:
    """Every config by bare name; those in ./configs hide packaged ones of the same name."""
    found = {path.stem: path for path in sorted(packaged_folder().glob("*.yaml"))}
    found |= {path.stem: path for path in sorted(Path("configs").glob("*.yaml"))}
    return found


def find_config(name: str) -> Path:
    """`name` as a path, then in ./configs, then among the packaged ones; '.yaml' may be missing."""
    if Path(name).is_file():
        return Path(name)
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    known = known_configs()
    if stem in known:
        return known[stem]
    raise UserError(
        f"no config {name!r}{did_you_mean(stem, list(known))}; `msngan configs` lists them"
    )


def summary(path: Path) -> str:
    """The first comment line of a config."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            return line.lstrip("# ").rstrip()
        if line.strip():
            break
    return ""
