"""Protocols from YAML files: what is read, and one line for all that is not."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from msngan.runs.folder import UserError
from msngan.scores.protocol import PRESETS, Preset, Protocol, preset

PAPER = "runs: 5\nsamples: 2000\n"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """mine.yaml, with the paper's sizes."""
    path = tmp_path / "mine.yaml"
    path.write_text(PAPER)
    return path


def refusal(path: Path, content: str | bytes | None = None) -> str:
    """The message of the UserError, one line of a readable length that names option and file."""
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError) as caught:
        preset(str(path))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400 + len(str(path))
    assert message.startswith(f"protocol {path}")
    return message


@pytest.mark.parametrize("name", PRESETS)
def test_a_known_name_means_its_preset(name: str) -> None:
    assert preset(name) == (name, PRESETS[name])


@pytest.mark.parametrize(
    ("content", "want"),
    [
        (PAPER, Preset(5, 2000)),
        ("{runs: 1, samples: 2}", Preset(1, 2)),
        ("runs: 1\nsamples: 50_000\nsplits: 10\n", PRESETS["50k"]),
        (
            "# as in their code\nruns: 10\nsamples: 5000\nreference: test\n"
            "quantisation: truncate-clamp\n",
            PRESETS["sngan"],
        ),
        ("\ufeffruns: 1\nsamples: 2\n", Preset(1, 2)),
        ("---\r\nruns: 1\r\nsamples: 2\r\n...\r\n", Preset(1, 2)),
    ],
    ids=[
        "paper",
        "one line",
        "underscore",
        "sngan",
        "byte order mark",
        "carriage returns",
    ],
)
@pytest.mark.parametrize("ending", ["yaml", "yml"])
def test_a_file_means_what_it_says_under_its_own_name(
    tmp_path: Path, content: str, want: Preset, ending: str
) -> None:
    path = tmp_path / f"my protocol.v2.{ending}"
    path.write_bytes(content.encode())
    assert preset(str(path)) == ("my protocol.v2", want)


def test_a_relative_path_and_a_home_folder_are_found(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written.parent)
    monkeypatch.setenv("HOME", str(written.parent))
    for path in ("mine.yaml", "./mine.yaml", "~/mine.yaml"):
        assert preset(path) == ("mine", PRESETS["paper"])


def test_the_same_sizes_under_another_name_are_the_same_protocol(written: Path) -> None:
    facts = {"dataset": "cifar10", "split": "train", "reference_images": 50_000}
    facts |= {"reference_sha256": "ab" * 32, "size": 32, "channels": 3, "extractor": "embed-x"}
    facts |= {"official_inception": False, "resize": "bicubic-antialias-32"}

    def protocol(request: str) -> Protocol:
        name, sizes = preset(request)
        return Protocol(
            name=name, runs=sizes.runs, samples=sizes.samples, splits=sizes.splits, **facts
        )

    own, paper = protocol(str(written)), protocol("paper")
    assert (own.name, paper.name) == ("mine", "paper")
    assert own.id == paper.id
    written.write_text(PAPER + "splits: 2\n")
    assert protocol(str(written)).id != paper.id
    assert replace(protocol(str(written)), splits=1).id == paper.id


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (PAPER + "split: 3\n", "unknown field 'split' (did you mean 'splits'?); choose from runs"),
        (PAPER + "refrence: test\n", "did you mean 'reference'"),
        (PAPER + "seed: 3\n", "unknown field 'seed'"),
        (PAPER + "7: 3\n", "unknown field 'int'"),
        (PAPER + "null: 3\n", "unknown field 'NoneType'"),
        (PAPER + f"? 0x{'f' * 9000}\n: 3\n", "a value has 9,002 characters"),
        (PAPER + f"? {'long' * 900}\n: 3\n", "unknown field 'longlong"),
        ("samples: 2000\n", "does not say runs"),
        ("runs: 5\n", "does not say samples"),
        ("{}", "does not say runs"),
        ("runs: 5.0\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: true\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: yes\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: '5'\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: five\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: [5]\nsamples: 2000\n", "runs must be a whole number"),
        ("runs:\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: .nan\nsamples: 2000\n", "runs must be a whole number"),
        ("runs: 5\nsamples: 1e3\n", "samples must be a whole number"),
        ("runs: 0\nsamples: 2000\n", "runs must be at least 1, not 0"),
        ("runs: -5\nsamples: 2000\n", "runs must be at least 1, not -5"),
        ("runs: 5\nsamples: 1\n", "1 samples a run are too few"),
        (PAPER + "splits: 2001\n", "too few for 2001 split(s)"),
        (PAPER + "reference: validation\n", "reference must be one of train, test"),
        (PAPER + "reference: [train]\n", "reference must be one of train, test"),
        (PAPER + "quantisation: round\n", "quantisation must be one of round-clamp, truncate"),
        ("", "must hold lines such as"),
        ("# nothing but a comment\n", "must hold lines such as"),
        ("just words", "must hold lines such as"),
        ("- runs: 5\n- samples: 2000\n", "must hold lines such as"),
        ("5", "must hold lines such as"),
        ("runs: 5\n\tsamples: 2000\n", "not valid YAML"),
        ("runs: [5\nsamples: 2000\n", "not valid YAML"),
        ("runs: *missing\nsamples: 2000\n", "alias *missing is not supported"),
        ("runs: 5\n---\nsamples: 2000\n", "not valid YAML"),
        ("runs: !!python/object/apply:os.mkdir [executed]\nsamples: 2\n", "is not supported"),
        ("runs: 2020-13-45\nsamples: 2000\n", "not valid YAML"),
        (f"runs: {'9' * 9000}\nsamples: 2000\n", "protocol"),
        (f"runs: 0x{'f' * 60}\nsamples: 2000\n", "runs must be a whole number up to 1,000,"),
        (f"runs: -0x{'f' * 9000}\nsamples: 2000\n", "a value has 9,003 characters"),
        ("runs: 1\nsamples: 1000000001\n", "samples must be a whole number up to 1,000,"),
        ("? [runs]\n: 5\n", "not valid YAML"),
        ("[" * 3000, "not valid YAML"),
        ("{a: " * 3000, "not valid YAML"),
        (b"\x00\x01\x02\xff\xfe" * 100, "not UTF-8"),
        (b"\xff\xfe\x00", "not UTF-8"),
        (b"runs: 5\nsamples: \xe4\n", "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "not UTF-8"),
        (
            "a: &a [x, x, x, x]\n" + "".join(f"{c}: &{c} [*a, *a]\n" for c in "bcd"),
            "the alias *a is not",
        ),
        ("runs: 5\n" + "# x\n" * 20_000 + "samples: 2000\n", "larger than 64 KiB"),
    ],
    ids=lambda value: repr(value[:40]) if not isinstance(value, int) else "",
)
def test_a_file_that_is_no_protocol_is_named_with_its_remedy(
    written: Path, content: str | bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(written.parent)
    assert words in refusal(written, content)
    assert not Path("executed").exists()


def test_a_file_of_endless_aliases_is_refused_at_once(written: Path) -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    for one, other in zip("abcdefgh", "bcdefghi", strict=True):
        bomb += f"{other}: &{other} [{', '.join([f'*{one}'] * 9)}]\n"
    assert "the alias *a is not" in refusal(written, bomb)


def test_a_large_file_is_not_read_whole(written: Path) -> None:
    with open(written, "wb") as file:
        file.truncate(2**40)  # no disk space, but far too much memory
    assert "larger than" in refusal(written)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to(tmp_path / "loop.yaml")
    assert "not a regular file" in refusal(tmp_path / "folder.yaml")
    assert "no such file" in refusal(tmp_path / "missing.yaml")
    assert "no such file" in refusal(tmp_path / "nowhere" / "x.yaml")
    assert refusal(tmp_path / "loop.yaml")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    code = "import sys; from msngan.scores.protocol import preset; preset(sys.argv[1])"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "pipe.yaml")],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert "UserError: protocol" in ended.stderr


def test_a_home_of_nobody_is_refused() -> None:
    with pytest.raises(UserError, match="protocol ~nobody-of-this-name/x.yaml"):
        preset("~nobody-of-this-name/x.yaml")


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            "papr",
            "unknown protocol 'papr' (did you mean 'paper'?); choose one of paper, sngan, 50k",
        ),
        ("50K", "did you mean '50k'"),
        ("mine.json", "or give a .yaml file"),
        ("", "unknown protocol ''"),
    ],
)
def test_an_unknown_name_lists_the_known_ones(request_: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        preset(request_)
    assert words in str(caught.value)


def test_a_file_may_not_take_the_name_of_a_protocol_of_other_sizes(tmp_path: Path) -> None:
    path = tmp_path / "paper.yaml"
    path.write_text(PAPER)
    assert preset(str(path)) == ("paper", PRESETS["paper"])
    assert "rename the file" in refusal(path, "runs: 1\nsamples: 100\n")


def test_protocols_are_read_without_torch(written: Path) -> None:
    code = (
        "import sys; from msngan.scores.protocol import preset; preset(sys.argv[1]);"
        "sys.exit('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(written)], check=False)
    assert ended.returncode == 0
