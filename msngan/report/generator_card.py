"""The card beside an exported generator: what it was trained on and how, its scores, its limits."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from msngan.leaderboard.ranking import column, hollow_note
from msngan.report.html.records import commands_of
from msngan.report.tables.table import plus_minus
from msngan.runs.folder import Run, UserError, counted
from msngan.runs.options import flat
from msngan.runs.safe_read import LONGEST_SCALAR, clean, object_or_empty, read_config
from msngan.runs.score_records import Entry, better, family, how_drawn, read_scores

Json = dict[str, Any]
FORMAT = "msngan-generator-card-1"
TRAINED_WITH = ("data.batch_size", "data.mirror", "augment.policy")
USE = """\
```
msngan sample {name}                    # a grid of new images{chosen}
msngan sample {name} --interpolate 8    # from one image to another
```

```python
from msngan import load_generator

# From z ({latent}) ~ N(0, 1){labels} to images in [-1, 1].
generator = load_generator("{name}")
```"""
LIMITS = (
    "It makes images of {size}x{size} pixels like those of {dataset}, and no others.",
    "It is one run with one seed. Another seed gives another generator, better or worse.",
    "It may repeat training images: `msngan sample {name} --neighbours 5` shows those that its"
    " images come closest to.",
)
FAR = "Its images differ from real ones: {}."
FAR_BY = "`{metric}` is {score}, where real images have {real}"
TIMES = 10  # as far as real images are from each other, and images differ from them
NARROW = "It misses a part of the data: {}."
NARROW_BY = "`{metric}` is {score}"
HALF = 0.5  # a recall below it
ROUNDED = (
    ", weights rounded to 16 bits: pixels in [-1, 1] move by at most {}; scored before rounding"
)
NOT_FID = (
    "Scores of an extractor compare only with scores of the same extractor and sizes. None of these"
    " is an FID or an Inception Score."
)
MARKS = {
    "~": "~: the estimated bias of so few samples alone; real images would score a little worse.",
    "–": "–: there were no other real images to compare with.",
}
UNSCORED = "It has no score: `msngan evaluate` the run at this step, and export again."
MEANING = {
    "fid": "Fréchet distance of the features to those of real images",
    "fd": "Fréchet distance of the features to those of real images",
    "is": "Inception Score",
    "cs": "classifier score: confident and varied classes",
    "kid": "kernel distance to real images, without bias",
    "kd": "kernel distance to real images, without bias",
    "precision": "share of images that are near a real one",
    "recall": "share of real images that are near a generated one",
    "density": "how many real images are near a generated one",
    "coverage": "share of real images whose neighbourhood has a generated one",
    "agreement": "share of images in which the extractor finds the class that was asked for",
}


def facts_of(run: Run, saved: Json, parameters: int) -> Json:
    """What the card says, as JSON, but for the file itself. saved: see `read_generator`.

    UserError for a config that cannot be read. What a damaged environment.json lacks is left out.
    """
    about, environment = saved["msngan"], clean(object_or_empty(run.environment))
    try:
        config = flat(read_config(run.config))
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise UserError(f"{run.config}: {reason}; mend it, or leave out --card") from problem
    entries, _ = read_scores([run] if run.scores.is_file() else [])
    kind = about["step"], saved["weights"]
    last = {e.protocol_id: e for e in entries if (e.step, e.weights) == kind}
    versions = environment.get("versions")
    return {
        "format": FORMAT,
        "parameters": parameters,
        "run": about["run"],
        "step": about["step"],
        "weights": saved["weights"],
        "data": about["data"] | {"root": None},
        "options": saved["hyper_parameters"],
        "trained_with": {name: config.get(name) for name in TRAINED_WITH},
        "commands": commands_of(object_or_empty(run.environment)),
        "versions": {"msngan": environment.get("msngan")}
        | (versions if isinstance(versions, dict) else {}),
        "processor": environment.get("processor"),
        "gpu": environment.get("gpu"),
        "scores": [_scores(each) for each in last.values()],
    }


def _scores(entry: Entry) -> Json:
    ordered = sorted(entry.scores.items(), key=lambda each: column(each[0]))
    return {
        "protocol_id": entry.protocol_id,
        "protocol": entry.protocol,
        "scores": {name: {"mean": score.mean, "sd": score.sd} for name, score in ordered},
        "real_data": {
            name: {"mean": floor.mean, "kind": floor.kind} for name, floor in entry.floors.items()
        },
    }


def card(facts: Json) -> str:
    """The card as Markdown."""
    options, data = facts["options"], facts["data"]
    classes = options.get("classes") or 0 if options.get("conditional") else 0
    colour = {1: "grey", 3: "colour"}.get(options["channels"], f"{options['channels']}-channel")
    dataset, size = clean(str(data.get("dataset"))), options["size"]
    words = {
        "name": facts["file"],
        "size": size,
        "dataset": dataset,
        "latent": f"N, {options['latent_dim']}",
        "chosen": "; --classes 0,3 chooses" if classes else "",
        "labels": " and labels (N,)" if classes else "",
    }
    makes = f"{colour} images of {size}x{size} pixels"
    makes += f", of {counted(classes, 'class', 'classes')} to choose from" if classes else ""
    parts = [
        f"# {Path(facts['file']).stem}",
        f"The generator of a GAN that msngan trained on {dataset}. It makes {makes}.",
        USE.format(**words),
        _about(facts, dataset),
        *map(_score_table, facts["scores"]),
    ]
    limits = [each.format(**words) for each in LIMITS] + _of_scores(facts["scores"])
    listed = (
        textwrap.fill(f"- {each}", 100, subsequent_indent="  ", break_on_hyphens=False)
        for each in limits
    )
    return "\n\n".join([*parts, "## Known limits\n\n" + "\n".join(listed) + "\n"])


def _about(facts: Json, dataset: str) -> str:
    options, trained = facts["options"], facts["trained_with"]
    images = [dataset, f"split {facts['data'].get('split')}"]
    images += [f"batches of {trained['data.batch_size']}"]
    images += ["mirrored at random"] if trained["data.mirror"] else []
    policy = trained["augment.policy"]
    images += [f"augmented ({policy}) for the critic"] if policy else []
    average = "moving average of the weights" if facts["weights"] == "ema" else "raw weights"
    half = ROUNDED.format(plus_minus(facts["half"])) if "half" in facts else ""
    rows = {
        "file": f"{facts['file']}, {facts['bytes']:,} bytes{half}",
        "sha256": facts["sha256"],
        "generator": f"{options['generator']}, {facts['parameters']:,} parameters, {average}",
        "trained on": ", ".join(images),
        "critic": f"{options['critic']}, norm {options['norm']}, loss {options['loss']}, penalty"
        f" {options['penalty']}",
        "steps": f"{facts['step']:,}, seed {options['seed']}",
        "commands": "; ".join(
            f"`{clean(each, most=LONGEST_SCALAR)}`".replace("|", r"\|")
            for each in facts["commands"]
        ),
        "with": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "on": str(facts["gpu"] or facts["processor"]),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    return f"## How it was made\n\n| | |\n|---|---|\n{table}"


def _score_table(scored: Json) -> str:
    protocol = scored["protocol"]
    drawn = f"{counted(protocol['runs'], 'set')} of {protocol['samples']:,} samples"
    how = "; ".join([f"mean ± sd over {drawn}", *how_drawn(protocol)])
    rows = [
        f"| {family(name)} | {better(name) or ''} | {_cell(score)} | {_real(scored, name)} |"
        f" {MEANING.get(family(name), '')} |"
        for name, score in scored["scores"].items()
    ]
    head = ["| score | better | its images | real images | what it is |", "|---|---|--:|--:|---|"]
    real = [_real(scored, name) for name in scored["scores"]]
    notes = [note for mark, note in MARKS.items() if any(mark in each for each in real)]
    title = f"## Scores by {protocol['extractor']}\n\n{how[0].upper()}{how[1:]}.\n"
    return "\n".join([title, *head, *rows, *(["", " ".join(notes)] if notes else [])])


def _of_scores(scores: list[Json]) -> list[str]:
    """What the scores say against the generator, and how they may be read."""
    if not scores:
        return [UNSCORED]
    far, narrow, hollow = [], [], []
    for each in scores:
        means = {name: score["mean"] for name, score in each["scores"].items()}
        for name, mean in means.items():
            real = each["real_data"].get(name, {}).get("mean")
            if family(name) in ("fid", "fd") and mean and real and mean > TIMES * real:
                words = {"score": plus_minus(mean), "real": _real(each, name)}
                far.append(FAR_BY.format(metric=name, **words))
            if family(name) == "recall" and mean is not None and mean < HALF:
                narrow.append(NARROW_BY.format(metric=name, score=plus_minus(mean)))
        note = hollow_note(means)
        hollow += [note] if note else []
    found = [FAR.format("; ".join(far))] if far else []
    found += [NARROW.format("; ".join(narrow))] if narrow else []
    found += dict.fromkeys(hollow)
    official = all(each["protocol"]["official_inception"] for each in scores)
    return found if official else [*found, NOT_FID]


def _real(scored: Json, name: str) -> str:
    real = scored["real_data"].get(name)
    if real is None:
        return "–"
    return ("~" if real["kind"] == "estimated" else "") + plus_minus(real["mean"])


def _cell(score: Json) -> str:
    return plus_minus(score["mean"], score["sd"]).replace("±", " ± ")
