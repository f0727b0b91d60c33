from __future__ import annotations

import base64
import io
import os
import re
import struct
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image
from score_lines import CS, FD, official, score_line, write_run

from msngan.commands.leaderboard import main
from msngan.leaderboard.published import NEVER_RANKED
from msngan.report.html import leaderboard as leaderboard_page
from msngan.report.html.pictures import LARGEST_IMAGE, WIDEST, last_grid, small
from msngan.runs.folder import UserError

Captured = pytest.CaptureFixture[str]
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """A parsed page: its text, its table cells, its attributes. Unbalanced tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.rows: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def values(self, tag: str, name: str) -> list[str]:
        return [value for t, n, value in self.attributes if (t, n) == (tag, name)]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def page(root: Path, *argv: str) -> Page:
    path = root / "page.html"
    assert main(["--root", str(root), "--html", str(path), *argv]) == 0
    return Page(path.read_text(encoding="utf-8"))


def grid(root: Path, run: str, step: int, size: tuple[int, int] = (548, 274)) -> Path:
    path = root / "samples" / run / f"step-{step:08d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_mandelbrot(size, (-2, -1, 1, 1), 50).convert("RGB").save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, shift in (("msn", 0.0), ("sn", 2.0)):
        for seed in (0, 1):
            lines = [
                score_line(
                    scores={
                        FD: {"mean": 50 / k + shift + seed / 10, "sd": 0.2},
                        CS: {"mean": 5 + k / 10, "sd": 0.1},
                    },
                    floors={FD: {"mean": 0.11, "kind": "real-vs-real"}},
                    step=100 * k,
                )
                for k in (1, 2, 3)
            ]
            run = f"{name}-s{seed}"
            write_run(tmp_path, run, *lines, official(30 + shift), of=name, seed=seed)
            grid(tmp_path, run, 100)
            grid(tmp_path, run, 300)
    (write_run(tmp_path, "bare") / "last.ckpt").touch()
    return tmp_path


def test_the_page_shows_what_the_table_shows(root: Path, capsys: Captured) -> None:
    made = page(root)
    assert capsys.readouterr().out == f"{root / 'page.html'}\n"
    assert main(["--root", str(root), "--format", "md"]) == 0
    printed = capsys.readouterr().out
    tables = [
        [cell.replace("\\", "").strip() for cell in line.strip("|").split(" | ")]
        for line in printed.splitlines()
        if line.startswith("| ")
    ]
    shown = [[cell.strip() for cell in row] for row in made.rows]
    cells = [[cell.strip() for cell in row] for row in tables]
    assert len(cells) > 20
    assert shown == cells
    for line in printed.splitlines():
        if line.startswith("### ") and "http" not in line:
            assert line[4:].replace("\\", "") in made.text
        if line.startswith("- "):
            assert line[2:].replace("\\", "") in made.text
    for part in ("5 x 2000 samples", "embedded extractor", NEVER_RANKED, "msngan evaluate bare"):
        assert part in made.text
    assert ["", "floor (real-vs-real)", "", "0.1100"] in [row[:4] for row in made.rows]


def test_a_comparison_stands_on_the_page_where_one_was_asked(root: Path) -> None:
    assert "one pair" not in page(root).text
    made = page(root, "--compare", "msn", "sn")
    header = ["metric", "pairs", "step", "mean A", "mean B", "A - B", "shown", "sd", "95 % CI"]
    assert header in made.rows
    assert "A better" in made.text
    assert "seeds pooled" in made.text


def test_nothing_on_the_page_comes_from_elsewhere(root: Path) -> None:
    made = page(root)
    assert not made.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    text = (root / "page.html").read_text()
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text
    for tag, name, value in made.attributes:
        assert not name.startswith("on")
        if "://" in value:
            assert (tag, name) == ("a", "href")
            assert value.startswith("https://")
        if name == "src":
            assert value.startswith("data:image/")
    (policy,) = [value for value in made.values("meta", "content") if "default-src" in value]
    assert policy.startswith("default-src 'none'")
    assert "prefers-color-scheme: dark" in text
    assert "https://arxiv.org/abs/1907.04003" in made.values("a", "href")
    targets = {value[1:] for value in made.values("a", "href") if value.startswith("#")}
    assert targets <= {*made.values("img", "id")}


def test_every_run_has_a_curve_and_its_last_grid_once(root: Path) -> None:
    made = page(root)
    pictures = made.values("img", "src")
    assert made.values("img", "alt") == [
        f"samples of {run} at step 300" for run in ("msn-s0", "msn-s1", "sn-s0", "sn-s1")
    ]
    for picture in pictures:
        kind, _, data = picture.partition(";base64,")
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert kind == f"data:image/{image.format.lower()}"
            assert image.size == (WIDEST, WIDEST // 2)
    assert len(made.values("svg", "role")) == 8  # four runs in each of two blocks
    assert len(made.values("a", "href")) - len(made.values("a", "rel")) == 4
    titles = [text for text in made.texts if text.startswith(f"{FD} of ")]
    assert f"{FD} of msn-s0 (ema): 3 scores, steps 100 to 300" in titles[0]
    assert "best 16.67 at step 300" in titles[0]


HOSTILE = "<script>alert(1)</script><img src=https://x.example/a.png onerror=x>\"'&"


def test_text_from_files_stays_text(tmp_path: Path) -> None:
    name = "<b onclick=x>&amp;"
    line = score_line(None, dataset=HOSTILE, extractor="</style></title>" + HOSTILE, name=HOSTILE)
    line["scores"][FD]["reason"] = HOSTILE
    for seed in (0, 1):
        other = score_line(7.0 + seed, dataset="https://x.example/", protocol_id=HOSTILE)
        write_run(tmp_path, f"{name}{seed}", line, other, "{", of=HOSTILE, seed=seed)
    grid(tmp_path, f"{name}0", 1000)
    made = page(tmp_path, "--no-published")
    assert HOSTILE in made.text
    assert name in made.text
    assert not made.tags & {"script", "b"}
    assert not [name for _, name, _ in made.attributes if name.startswith("on")]
    assert all("x.example" not in value or name == "alt" for _, name, value in made.attributes)
    assert any(f"samples of {name}0" in alt for alt in made.values("img", "alt"))


def _png(width: int, height: int, body: bytes = b"") -> bytes:
    """A header that claims a size, and a body that need not hold it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


SIDE = int(LARGEST_IMAGE**0.5)
DAMAGED = {
    "empty": b"",
    "text": b"no picture",
    "a JPEG's start": b"\xff\xd8\xff\xe0" + b"\x00" * 100,
    "the signature alone": b"\x89PNG\r\n\x1a\n",
    "no pixels": _png(8, 8),
    "not zlib": _png(8, 8, b"not zlib"),
    "too few pixels": _png(8, 8, zlib.compress(b"\x00" * 10)),
    "a bomb": _png(SIDE + 1, SIDE + 1, zlib.compress(b"\x00" * 1000)),
    "a larger bomb": _png(2**31 - 1, 2**31 - 1, zlib.compress(b"\x00" * 1000)),
    "no width": _png(0, 8),
    "a false sum": _png(8, 8)[:-20] + b"\x00" * 20,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_or_huge_picture_leaves_a_note(
    tmp_path: Path, capsys: Captured, name: str
) -> None:
    write_run(tmp_path, "run", score_line())
    grid(tmp_path, "run", 1000).write_bytes(DAMAGED[name])
    made = page(tmp_path)
    assert made.values("img", "src") == []
    assert "step-00001000.png left out: " in made.text
    assert capsys.readouterr().err == ""


def test_a_cut_picture_or_a_folder_in_its_place_leaves_a_note_and_none_another(
    tmp_path: Path,
) -> None:
    for name in ("bare", "cut", "folder"):
        write_run(tmp_path, name, score_line())
    path = grid(tmp_path, "cut", 1000)
    path.write_bytes(path.read_bytes()[:2000])
    (tmp_path / "samples/folder/step-00001000.png").mkdir(parents=True)
    made = page(tmp_path)
    assert made.text.count("no sample grid") == 1
    assert made.text.count("step-00001000.png left out: ") == 2
    assert made.values("img", "src") == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_that_nobody_writes_to_is_not_waited_for(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run", score_line())
    grid(tmp_path, "run", 1000).unlink()
    (folder / "config.yaml").unlink()
    os.mkfifo(tmp_path / "samples/run/step-00001000.png")
    os.mkfifo(folder / "config.yaml")
    made = page(tmp_path)
    assert "step-00001000.png left out: not a regular file" in made.text
    assert "config.yaml: not a regular file" in made.text


def test_the_last_grid_is_the_one_of_the_largest_step(tmp_path: Path) -> None:
    for step in (900, 20_000, 100_000_000):
        grid(tmp_path, "run", step, (4, 4))
    folder = tmp_path / "samples" / "run"
    for other in ("real.png", "step-00999999.png.tmp", "step-x.png", "step-1.png"):
        (folder / other).write_bytes(b"")
    assert last_grid(folder) == (100_000_000, folder / "step-100000000.png")
    assert last_grid(tmp_path / "nowhere") is None


def test_a_small_picture_is_not_enlarged_and_a_high_one_is_made_low(tmp_path: Path) -> None:
    assert small(grid(tmp_path, "run", 1, (40, 20))).width == 40
    high = small(grid(tmp_path, "run", 2, (100, 4 * WIDEST)))
    assert (high.width, high.height) == (25, WIDEST)


def test_the_pictures_of_a_page_are_bounded_together(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = page(root).values("img", "src")
    monkeypatch.setattr(leaderboard_page, "MOST_PICTURES", len(whole[0]) + len(whole[1]))
    made = page(root)
    assert made.values("img", "src") == whole[:2]
    assert made.text.count("step-00000300.png left out: the page's pictures already take") == 4


def test_a_page_is_replaced_whole_or_not_at_all(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "page.html"
    page(root)
    before = path.read_bytes()

    def full(path: Path, *_: object, **__: object) -> int:
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(UserError, match="--html '.*page.html': No space left on device"):
            main(["--root", str(root), "--html", str(path)])
    assert path.read_bytes() == before
    assert [each.name for each in root.iterdir() if each.is_file()] == ["page.html"]


@pytest.mark.parametrize("place", ["file/page.html", "folder"])
def test_a_path_that_cannot_be_written_is_one_line(root: Path, place: str) -> None:
    (root / "file").write_text("")
    (root / "folder").mkdir()
    before = sorted(root.rglob("*"))
    with pytest.raises(UserError) as failure:
        main(["--root", str(root), "--html", str(root / place)])
    assert str(failure.value).startswith(f"--html {str(root / place)!r}: ")
    assert "\n" not in str(failure.value)
    assert sorted(root.rglob("*")) == before


def test_a_format_and_a_page_do_not_go_together(root: Path, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["--root", str(root), "--html", str(root / "x.html"), "--format", "csv"])
    assert leaving.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_without_runs_the_page_says_what_to_do_next(tmp_path: Path) -> None:
    assert "msngan fit --config digits_msn.yaml" in page(tmp_path).text


def test_warnings_stand_on_the_page(root: Path) -> None:
    write_run(root, "broken", "{", score_line())
    assert "scores.jsonl: line 1 is not valid JSON and was skipped" in page(root).text


def test_pillow_is_imported_for_a_page_only_and_torch_never(root: Path) -> None:
    code = (
        "import sys; from msngan.commands.leaderboard import main; main(sys.argv[1:]);"
        " loaded = {name.partition('.')[0] for name in sys.modules};"
        " assert not {'torch', 'numpy', 'scipy', 'rich'} & loaded, loaded;"
        " assert ('PIL' in loaded) == ('--html' in sys.argv)"
    )
    for option, value in (("--html", str(root / "x.html")), ("--format", "csv")):
        command = [sys.executable, "-c", code, "--root", str(root), option, value]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr.replace("msngan leaderboard: ", "")[:9]) in (
            (0, ""),
            (0, "No scores"),
        )


def test_the_page_uses_no_class_without_a_style(root: Path) -> None:
    made = page(root)
    style = re.findall(r"\.([a-z]+)", (root / "page.html").read_text().partition("</style>")[0])
    used = {value for _, name, value in made.attributes if name == "class"}
    assert used <= {*style}
