"""The generators that come with the package, and the cards of exported ones.

`python tests/test_zoo.py` writes the zoo's cards and the table of its README from the facts.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from msngan import load_generator
from msngan.report.generator_card import UNSCORED, card
from msngan.report.tables.table import plus_minus
from msngan.runs.folder import zoo
from msngan.runs.safe_read import read_object
from msngan.runs.score_records import family

ZOO = zoo()
README = Path(__file__).parent.parent / "checkpoints/zoo/README.md"
LARGEST = 4_000_000  # bytes of a file


@pytest.mark.quick
@pytest.mark.parametrize("name", ZOO)
def test_a_generator_of_the_zoo_is_small_and_its_card_is_of_its_facts(name):
    path = ZOO[name]
    facts = read_object(path.with_suffix(".json"), 10**6)
    assert path.stat().st_size == facts["bytes"] < LARGEST
    assert hashlib.sha256(path.read_bytes()).hexdigest() == facts["sha256"]
    assert path.with_suffix(".md").read_text() == card(facts)
    assert facts["commands"]
    assert all(f"`{command}`" in card(facts) for command in facts["commands"])  # whole
    generator = load_generator(f"zoo/{name}")
    assert sum(each.numel() for each in generator.parameters()) == facts["parameters"]
    extractors = {each["protocol"]["extractor"] for each in facts["scores"]}
    assert len(extractors) > 1  # no score hangs on one network


def with_table(page: str) -> str:
    """The page, with its table written from the facts of all generators."""
    rows = [
        "| | trained on | critic | width, steps | bytes | Fréchet distance |",
        "|---|---|---|--:|--:|---|",
    ]
    for name, path in ZOO.items():
        facts = read_object(path.with_suffix(".json"), 10**6)
        options = facts["options"]
        data = facts["data"]["dataset"] + (", with labels" if options["conditional"] else "")
        distances = [
            f"{plus_minus(score['mean'], score['sd'])} (`{key.partition('/')[2]}`)"
            for each in facts["scores"]
            for key, score in each["scores"].items()
            if key.startswith("fd/")
        ]
        cells = [f"[`zoo/{name}`]({name}.md)", data, options["norm"]]
        cells += [f"{options['width']}, {facts['step']:,}", f"{facts['bytes']:,}"]
        rows.append(f"| {' | '.join([*cells, '; '.join(distances)])} |")
    before, start, rest = page.partition("<!-- table -->\n")
    _, end, after = rest.partition("<!-- end -->")
    return "".join([before, start, *(f"{row}\n" for row in rows), end, after])


@pytest.mark.quick
def test_the_readme_has_the_table_of_all_of_them():
    assert with_table(README.read_text()) == README.read_text()


@pytest.mark.quick
def test_the_zoo_has_a_generator_of_each_kind_and_its_first_grid_is_quick(run):
    assert {"digits_msn", "digits_cond", "mnist_msn"} <= {*ZOO}
    assert {"cifar_msn", "cifar_sn", "cifar_cond"} <= {*ZOO}
    assert run("sample", "zoo/digits_msn", "--out", "x.png") == 0
    with Image.open("x.png") as image:
        assert min(image.size) > 200


@pytest.mark.parametrize("name", ["mnist_msn", "cifar_msn"])
def test_the_pictures_of_the_first_page_are_what_their_commands_draw(run, name):
    assert run("sample", f"zoo/{name}", "--out", "x.png") == 0
    shown = README.parents[2] / f"samples/gallery/zoo_{name}.png"
    assert shown.name in (README.parents[2] / "README.md").read_text()
    with Image.open("x.png") as drawn, Image.open(shown) as there:
        assert drawn.size == there.size
        apart = [abs(a - b) for a, b in zip(drawn.tobytes(), there.tobytes(), strict=True)]
    assert sum(apart) / len(apart) < 1


def test_a_name_that_the_zoo_does_not_have_is_one_line(run, capsys):
    assert run("sample", "zoo/digit_msn") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "no generator 'zoo/digit_msn' (did you mean 'digits_msn'?); the zoo has" in said[0]


class TestCard:
    def test_it_is_written_beside_the_file_with_the_scores_of_that_step(self, trained, run, capsys):
        root = ["--root", str(trained)]
        assert run("export", "mine", *root, "--out", "x.safetensors", "--card") == 0
        facts = json.loads(Path("x.json").read_text())
        text = Path("x.md").read_text()
        assert text == card(facts)
        assert facts["sha256"] in text
        lines = (trained / "checkpoints/mine/scores.jsonl").read_text().splitlines()
        last = [json.loads(line) for line in lines][-1]
        at = facts["step"] == last["step"]
        assert bool(facts["scores"]) == at
        assert (UNSCORED.split(":")[0] in text) != at
        assert run("sample", "x.safetensors", "--out", "x.png") == 0

    def test_it_says_that_weights_are_rounded_and_by_how_much_that_moves_images(self, mine, run):
        assert run("export", "mine", "--out", "x.safetensors", "--card", "--half") == 0
        (line,) = re.findall(r"\| file \| .*", Path("x.md").read_text())
        moved = json.loads(Path("x.json").read_text())["half"]
        assert 0 < moved < 0.1
        assert f"rounded to 16 bits: pixels in [-1, 1] move by at most {moved:.4g}" in line

    def test_nothing_is_overwritten_and_a_lone_file_has_no_records(self, trained, run, capsys):
        root = ["--root", str(trained)]
        Path("x.md").touch()
        assert run("export", "mine", *root, "--out", "x.safetensors", "--card") == 2
        assert "x.md exists" in capsys.readouterr().err
        Path("last.ckpt").write_bytes((trained / "checkpoints/mine/last.ckpt").read_bytes())
        assert run("export", "last.ckpt", "--out", "y.safetensors", "--card") == 2
        assert "belongs to no run here; name a run" in capsys.readouterr().err
        assert not Path("y.safetensors").exists()

    def test_its_limits_name_once_the_scores_of_all_extractors_that_speak_against_it(self):
        facts = read_object(ZOO["digits_msn"].with_suffix(".json"), 10**6)
        (limits,) = (part for part in card(facts).split("## ") if part.startswith("Known limits"))
        assert "differ from real" not in limits
        assert "misses" not in limits
        for each in facts["scores"]:
            for name, score in each["scores"].items():
                score["mean"] = {"recall": 0.2, "fd": 30.0}.get(family(name), score["mean"])
        text = " ".join(card(facts).partition("## Known limits")[2].split())
        a, b = (each["protocol"]["extractor"] for each in facts["scores"])
        assert re.search(
            f"differ from real ones: `fd/{a}` is 30.00, [^:]*; `fd/{b}` is 30.00", text
        )
        assert f"misses a part of the data: `recall/{a}` is 0.2000; `recall/{b}` is 0.2" in text
        assert (text.count("differ from real"), text.count("misses")) == (1, 1)

    @pytest.mark.parametrize(
        ("damage", "commands"),
        [
            ({"versions": [1, 2], "commands": [1, {"a": 2}, None], "gpu": ["x"]}, 0),
            ({"versions": None, "commands": [{"command": 7}], "processor": {"a": 1}}, 0),
            ({"versions": "x", "commands": {"a": 1}, "msngan": None}, 1),
        ],
    )
    def test_of_damaged_records_it_says_what_they_still_say(self, mine, run, damage, commands):
        environment = json.loads((mine / "environment.json").read_text())
        (mine / "environment.json").write_text(json.dumps(environment | damage))
        assert run("export", "mine", "--out", "x.safetensors", "--card") == 0
        facts = json.loads(Path("x.json").read_text())
        assert facts["commands"] == [environment["command"]][:commands]
        assert [*facts["versions"]] == ["msngan"]

    @pytest.mark.parametrize("text", ["data: 3\n", ": : :\n- x"])
    def test_a_config_that_cannot_be_read_is_one_line_before_anything_is_written(
        self, mine, refused, text
    ):
        (mine / "config.yaml").write_text(text)
        line = refused("export", "mine", "--out", "x.safetensors", "--card")
        assert "config.yaml: " in line
        assert "leave out --card" in line


@pytest.mark.parametrize("name", ZOO)
def test_a_generator_of_the_zoo_makes_the_images_of_its_seed(name, run):
    for out in ("a.npz", "b.npz"):
        assert run("sample", f"zoo/{name}", "--n", "4", "--format", "npz", "--out", out) == 0
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()
    generator = load_generator(f"zoo/{name}")
    z = torch.randn(2, generator.latent_dim, generator=torch.Generator().manual_seed(0))
    labels = [torch.tensor([0, 1])] if getattr(generator, "classes", 0) else []
    with torch.no_grad():
        images = generator(z, *labels)
    assert images.abs().max() <= 1
    assert images.std() > 0.1


if __name__ == "__main__":
    for path in ZOO.values():
        path.with_suffix(".md").write_text(card(read_object(path.with_suffix(".json"), 10**6)))
    README.write_text(with_table(README.read_text()))
