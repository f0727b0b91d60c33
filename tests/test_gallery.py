"""Every number on the pages of results follows from a record, a built network or a constant.

tests/data/numbers.txt has, for each page, the table rows and the parts of sentences that have
numbers, with an expression in braces for each number. The expressions use the names in FACTS.
The test asserts that each line, evaluated, stands on its page, and that the page has no other
number. Lines without braces are numbers that no record has.

Tables between `<!-- NAME.json -->` and `<!-- end -->` are those that `msngan study` prints of GANs,
or `msngan extractor compare`; `python tests/test_gallery.py` writes them anew from their records.
"""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from statistics import mean, median

import numbers_of_benches
import numbers_of_classifiers
import numbers_of_gans
import page_numbers
import pytest
from page_numbers import ROOT, load, rows

from msngan.bench import sigma
from msngan.data import ImageData, LabelledData, pictures
from msngan.gan import GAN
from msngan.networks import Critic, Generator, standing
from msngan.norms import optional_spectral as gates
from msngan.norms.spectral import ReleasedSpectralNorm
from msngan.report.tables import extractor_tables
from msngan.report.tables.study_layers import layer_tables
from msngan.report.tables.study_scores import course_tables
from msngan.report.tables.study_tables import accuracy_tables
from msngan.report.tables.table import print_markdown
from msngan.runs import safe_read
from msngan.scores import evaluation, model_card
from msngan.training.callbacks import dynamics, scores

PARTS = re.split(r"^== (.*)\n", (ROOT / "tests/data/numbers.txt").read_text(), flags=re.MULTILINE)
PAGES = dict(zip(PARTS[1::2], PARTS[2::2], strict=True))
FACTS = {
    name: value
    for module in (page_numbers, numbers_of_gans, numbers_of_classifiers, numbers_of_benches)
    for name, value in vars(module).items()
} | {
    "ALLOWED": sigma.ALLOWED,
    "GAN": GAN,
    "CRITERIA": gates.CRITERIA,
    "Critic": Critic,
    "Generator": Generator,
    "ImageData": ImageData,
    "LARGEST_YAML": safe_read.LARGEST_YAML,
    "LabelledData": LabelledData,
    "MOST_PIXELS": pictures.MOST_PIXELS,
    "PRESENT": scores.PRESENT,
    "ReleasedSpectralNorm": ReleasedSpectralNorm,
    "SHARE": scores.SHARE,
    "SIZES": model_card.SIZES,
    "STANDING": standing.BATCH,
    "Scores": scores.Scores,
    "THRESHOLD": dynamics.THRESHOLD,
    "TOLERANCE": evaluation.TOLERANCE,
    "mean": mean,
}
# What has digits but states no number: code, targets of links, ids, years of papers, names.
NAMES = (
    r"<!-- \w+\.json -->.*?<!-- end -->|```.*?```|`[^`]*`"
    r"|\]\([^)]*\)|arXiv:[\d.]+|(?:al\.|[A-Z][\w-]+) (?:19|20)\d\d\b"
    r"|[^\W\d_]+[-_]?\d[\w.-]*|Figures 1 to 6|95 %"
)


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES)
def test_every_number_follows_from_a_record(page):
    text = re.sub(r"^\d+\. ", "", (ROOT / page).read_text(), flags=re.MULTILINE)
    text, wrong = " ".join(text.split()), []
    for line in PAGES[page].splitlines():
        if line and not line.startswith("# "):
            fact = " ".join(eval(f"f'''{line}'''", FACTS).split())
            if "{" in line and fact not in text:
                wrong.append(f"should have: {fact}")
            text = text.replace(fact, " ", 1)
    text = re.sub(NAMES, " ", text)
    for found in re.finditer(r"\d[\d.,]*", text):
        wrong.append(f"not checked: {text[max(0, found.start() - 40) : found.end() + 30]}")
    assert not wrong, "\n".join([page, *wrong])


def with_tables(page: str) -> str:
    """The page, with the tables that a command prints written from their records."""

    def written(found: re.Match[str]) -> str:
        record = load(found[1])
        with redirect_stdout(io.StringIO()) as text:
            if "extractors" in record:
                print_markdown(extractor_tables.summary(record))
            elif record["task"] == "gan":
                print_markdown(course_tables(record["study"], record["by_step"]))
            else:
                chosen = (t for t in accuracy_tables(record) if "validation" in t.title)
                print_markdown([*chosen, *layer_tables(record["study"], record["layers"])])
        tables = re.findall(r"^\|.*?\n(?=\n)", text.getvalue(), flags=re.MULTILINE | re.DOTALL)
        return "\n".join([f"<!-- {found[1]}.json -->", *tables, "<!-- end -->"])

    return re.sub(r"<!-- (\w+)\.json -->.*?<!-- end -->", written, page, flags=re.DOTALL)


@pytest.mark.quick
@pytest.mark.parametrize("page", PAGES)
def test_every_table_of_a_command_is_that_of_its_record(page):
    text = (ROOT / page).read_text()
    assert with_tables(text) == text


@pytest.mark.quick
@pytest.mark.parametrize("folder", ["samples", "checkpoints"])
def test_no_record_has_a_path_of_one_machine(folder):
    records = [*(ROOT / folder).rglob("*.json")]
    found = {each.name: re.findall(r"[\s\"'=](/\w[^\s\"']*)", each.read_text()) for each in records}
    assert records
    assert not {name: paths for name, paths in found.items() if paths}


def test_the_page_of_data_has_the_figures_of_its_benchmark():
    found = rows("bench_data")
    memory = found["private memory at the first batch"]
    each = [found[f"decoding {kind}, one core"]["seconds_per_image"] for kind in ("jpg", "png")]
    figures = [
        f"{found['decoding jpg, one core']['ratio']['median']:.2f}",
        f"{found['decoding png, one core']['ratio']['median']:.2f}",
        f"{found['first start']['value']:.1f} s",
        f"{found['later start']['value']:.2f} s",
        f"{memory['value']:.3f} GB",
        f"{memory['with_few_images']:.3f} GB",
        f"{found['private memory after 1 steps']['value']:.2f} GB",
        f"{1000 * median(found['fetching a batch']['seconds']):.2f} ms",
    ]
    page = (ROOT / "msngan/DATA.md").read_text()
    table = page.partition("| measurement | value |")[2].partition("\n\n")[0]
    assert [line.split("|")[2].strip() for line in table.splitlines()[2:]] == figures
    assert f"takes {1e6 * sum(each) / 2:.0f} seconds of processor time" in page
    assert f"{1e6 * sum(each) / 2 / 16:.0f} s on 16 cores" in page


if __name__ == "__main__":
    for each in PAGES:
        (ROOT / each).write_text(with_tables((ROOT / each).read_text()))
