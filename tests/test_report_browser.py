"""The pages of `msngan report`, as a real browser shows them."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops
from report_runs import HOSTILE, classifier, gan, lines, study

from msngan.commands.report import main
from msngan.report.html.document import POLICY

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in NAMES if (path := shutil.which(name))), None)
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
OPTIONS += ["--hide-scrollbars", "--enable-logging=stderr", "--v=0"]
DARK = "--blink-settings=preferredColorScheme=0"
PHONE, DESK = 390, 1280  # pixels
META = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
# What each frame's document says of itself, written where --dump-dom shows it.
MEASURE = """
document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
  const page = frame.contentDocument;
  page.querySelectorAll("details").forEach(each => { each.open = true; });
  const charts = [...page.querySelectorAll(".chart > svg")];
  const outside = (inner, outer) => inner.left < outer.left - 1 || inner.right > outer.right + 1;
  return {
    width: page.documentElement.scrollWidth,
    broken: [...page.images].filter(each => !each.naturalWidth).length,
    images: page.images.length,
    charts: charts.length,
    narrow: charts.filter(each => each.getBoundingClientRect().width < 250).length,
    cut: charts.filter(svg => [...svg.querySelectorAll("text")].some(
      text => outside(text.getBoundingClientRect(), svg.getBoundingClientRect()))).length,
    overlong: [...page.querySelectorAll("table")].filter(
      each => getComputedStyle(each.parentElement).overflowX !== "auto").length,
    scripts: page.scripts.length,
  };
}));
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
]


def browse(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [BROWSER, *OPTIONS, profile, *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


def complaints(shown: subprocess.CompletedProcess[str]) -> list[str]:
    """What the page's console said: errors, warnings, and what the policy has refused."""
    return [line for line in shown.stderr.splitlines() if "CONSOLE" in line or "Refused" in line]


def facts(tmp_path: Path, pages: list[tuple[str, int]]) -> list[dict[str, int]]:
    """Of pages in frames of these widths, in copies whose policy lets a script measure them."""
    frames = "".join(
        f'<iframe width="{width}" height="900" style="border:0"'
        f' srcdoc="{html.escape(text.replace(META, ""))}"></iframe>'
        for text, width in pages
    )
    script = f"<script>addEventListener('load', () => {{{MEASURE}}});</script>"
    frame = tmp_path / "frame.html"
    frame.write_text(f"<!DOCTYPE html><html><body>{frames}{script}</body></html>")
    shown = browse(tmp_path, frame, "--dump-dom")
    (title,) = re.findall(r"<title>(\[\{.*?\}\])</title>", shown.stdout)
    return json.loads(html.unescape(title))


def written(root: Path, *names: str) -> Path:
    path = root / f"page{'-'.join(names)}.html"
    assert main(["--root", str(root), "--out", str(path), *names]) == 0
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GAN, a classifier and a study."""
    root = tmp_path_factory.mktemp("runs")
    for make in (gan, classifier, study):
        make(root)
    return root


def test_pages_fit_a_phone_and_a_desk_and_their_pictures_and_charts_are_whole(tmp_path, root):
    images = {("g",): 5, ("c",): 0, ("grid",): 0, (): 1}
    texts = [written(root, *names).read_text(encoding="utf-8") for names in images]
    assert all(META in text for text in texts)
    bad = '<div style="width:1500px">x</div><img src="data:image/png;base64,AA"><table></table>'
    wrong = texts[1].replace("</body>", f"{bad}</body>")
    shown = [(text, width) for text in [*texts, wrong] for width in (PHONE, DESK)]
    found = facts(tmp_path, shown)
    for (_, width), each, count in zip(
        shown, found, [n for n in images.values() for _ in range(2)], strict=False
    ):
        assert each["width"] <= width
        bad_things = ("broken", "narrow", "cut", "overlong", "scripts")
        assert {each[name] for name in bad_things} == {0}
        assert each["images"] == count
        assert each["charts"] >= 2
    for each in found[-2:]:  # the measure sees what is wrong
        assert each["width"] >= 1500
        assert each["broken"] == each["overlong"] == 1


def test_a_page_shows_in_light_and_in_dark_without_a_complaint(tmp_path, root):
    line = {(): (0x00, 0x72, 0xB2), (DARK,): (0x56, 0xB4, 0xE9)}
    for options, colour in line.items():
        path = tmp_path / "shot.png"
        size = [f"--screenshot={path}", "--window-size=1200,2000"]
        shown = browse(tmp_path, written(root, "g"), *size, *options)
        assert complaints(shown) == []
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        ground = image.getpixel((2, 2))
        assert max(ground) < 40 if options else ground == (255, 255, 255)
        plain = Image.new("RGB", image.size, ground)
        marked = ImageChops.difference(image, plain).convert("L").point(lambda v: 255 * (v > 60))
        assert marked.histogram()[255] > 20_000  # text, lines and pictures
        assert colour in {each for _, each in image.getcolors(2**24)}


def test_hostile_text_runs_nothing_and_the_policy_would_stop_it(tmp_path):
    folder = classifier(tmp_path)
    lines(folder / "metrics.jsonl", [{"step": s, HOSTILE: s / 10} for s in (1, 2, 3)])
    page = written(tmp_path, "c")
    # An injected script and a picture from elsewhere are refused, and said to be; text is text.
    text = page.read_text(encoding="utf-8")
    evil = '<script>document.title = "changed"</script><img src="https://x.example/a.png">'
    page.write_text(text.replace("</body>", f"{evil}</body>"), encoding="utf-8")
    shown = browse(tmp_path, page, "--dump-dom")
    assert len(complaints(shown)) == 2
    assert shown.stdout.count("<script") == 1
    assert "<title>changed" not in shown.stdout
