"""The page of `msngan report`, as a real browser shows it."""

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
PHONE = 390  # pixels; the browser's own window is never below 500, a frame in it can be
META = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
# What a frame's document has to say of itself, written where --dump-dom shows it.
MEASURE = """
const page = document.querySelector("iframe").contentDocument;
const facts = {
  width: page.documentElement.scrollWidth,
  broken: [...page.images].filter(each => !each.naturalWidth).length,
  images: page.images.length,
  narrow: [...page.querySelectorAll(".chart > svg")].filter(
    each => each.getBoundingClientRect().width < 250).length,
  charts: page.querySelectorAll(".chart > svg").length,
  small: Math.min(...[...page.querySelectorAll(".chart text")].map(
    each => each.getBoundingClientRect().height)),
  cut: [...page.querySelectorAll(".chart > svg")].filter(svg => {
    const box = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].some(text => {
      const own = text.getBoundingClientRect();
      return own.left < box.left - 1 || own.right > box.right + 1;
    });
  }).length,
  scripts: page.scripts.length,
};
document.title = JSON.stringify(facts);
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


def facts(tmp_path: Path, page: Path, width: int) -> dict[str, float]:
    """Of the page in a frame of this width, in a copy whose policy lets a script measure it."""
    text = page.read_text(encoding="utf-8")
    assert META in text
    inner = html.escape(text.replace(META, ""))
    frame = tmp_path / "frame.html"
    frame.write_text(
        f'<!DOCTYPE html><html><body style="margin:0"><iframe width="{width}" height="900"'
        f' style="border:0" srcdoc="{inner}"></iframe>'
        f"<script>addEventListener('load', () => {{{MEASURE}}});</script></body></html>",
        encoding="utf-8",
    )
    shown = browse(tmp_path, frame, "--dump-dom", f"--window-size={max(width, 500)},900")
    (title,) = re.findall(r"<title>(\{.*?\})</title>", shown.stdout)
    return json.loads(html.unescape(title))


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of a GAN, a classifier and a study."""
    root = tmp_path_factory.mktemp("runs")
    gan(root)
    classifier(root)
    study(root)
    made = {}
    for name in ("g", "c", "grid"):
        made[name] = root / f"{name}.html"
        assert main(["--root", str(root), "--out", str(made[name]), name]) == 0
    return made


def screenshot(tmp_path: Path, page: Path, name: str, *options: str) -> Image.Image:
    path = tmp_path / f"{name}.png"
    shown = browse(tmp_path, page, f"--screenshot={path}", "--window-size=1200,2000", *options)
    assert complaints(shown) == []
    with Image.open(path) as image:
        return image.convert("RGB")


@pytest.mark.parametrize("name", ["g", "c", "grid"])
def test_a_page_shows_in_light_and_in_dark_without_a_complaint(
    tmp_path: Path, pages: dict[str, Path], name: str
) -> None:
    light = screenshot(tmp_path, pages[name], "light")
    dark = screenshot(tmp_path, pages[name], "dark", DARK)
    assert light.getpixel((2, 2)) == (255, 255, 255)
    assert max(dark.getpixel((2, 2))) < 40
    for image in (light, dark):
        ground = Image.new("RGB", image.size, image.getpixel((2, 2)))
        marked = ImageChops.difference(image, ground).convert("L").point(lambda v: 255 * (v > 60))
        assert marked.histogram()[255] > 20_000  # text, lines and pictures
    if name != "grid":  # its charts come later on the page
        for image, colour in ((light, (0x00, 0x72, 0xB2)), (dark, (0x56, 0xB4, 0xE9))):
            assert colour in {each for _, each in image.getcolors(2**24)}


@pytest.mark.parametrize("name", ["g", "c", "grid"])
def test_a_page_fits_a_phone_and_its_pictures_and_charts_are_whole(
    tmp_path: Path, pages: dict[str, Path], name: str
) -> None:
    found = facts(tmp_path, pages[name], PHONE)
    assert found["width"] <= PHONE
    assert found["broken"] == found["narrow"] == found["cut"] == found["scripts"] == 0
    assert found["images"] == (5 if name == "g" else 0)
    assert found["charts"] >= 2


def test_the_measure_sees_a_page_that_is_too_wide_and_a_picture_that_is_broken(
    tmp_path: Path, pages: dict[str, Path]
) -> None:
    text = pages["c"].read_text(encoding="utf-8")
    wide = tmp_path / "wide.html"
    bad = '<div style="width:700px">x</div><img src="data:image/png;base64,AAAA" alt="x">'
    wide.write_text(text.replace("</body>", f"{bad}</body>"), encoding="utf-8")
    found = facts(tmp_path, wide, PHONE)
    assert found["width"] >= 700
    assert found["broken"] == 1


def test_hostile_text_runs_nothing_and_the_policy_would_stop_it(tmp_path: Path) -> None:
    folder = classifier(tmp_path)
    lines(folder / "metrics.jsonl", [{"step": s, HOSTILE: s / 10} for s in (1, 2, 3)])
    page = tmp_path / "page.html"
    assert main(["--root", str(tmp_path), "--out", str(page), "c"]) == 0
    shown = browse(tmp_path, page, "--dump-dom")
    assert complaints(shown) == []
    assert "<script" not in shown.stdout
    # An injected script and a picture from elsewhere are refused, and said to be.
    text = page.read_text(encoding="utf-8")
    evil = '<script>document.title = "changed"</script><img src="https://x.example/a.png">'
    page.write_text(text.replace("</body>", f"{evil}</body>"), encoding="utf-8")
    shown = browse(tmp_path, page, "--dump-dom")
    assert len(complaints(shown)) >= 2
    assert "<title>changed" not in shown.stdout
