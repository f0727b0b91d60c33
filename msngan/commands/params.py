"""`msngan params`: what each norm adds to the critic, counted from built networks.

Beside the critic's rows of Table III of Subramanian & Chong 2019, arXiv:1907.04003.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from msngan import checks
from msngan.commands.parser import Parser
from msngan.commands.tables import FORMATS, Table, print_as
from msngan.runs import UserError

if TYPE_CHECKING:
    from torch import nn

DESCRIPTION = """\
Count the critic's parameters under every norm, and its buffers: values that are kept but not
trained. Each network is built and run once on two images. Beside them the critic's rows of Table
III of the paper (arXiv:1907.04003), which are of width 64 and images of 3 x 32 x 32."""

PAPER_SIZE = {"width": 64, "size": 32, "channels": 3}
RELEASED = {
    "norm_layers": [3, 5, 6],
    "other_norm": "spectral",
    "norm_options": {"gain": True},
    "conv_bias": True,
}


@dataclass(frozen=True)
class Form:
    """A way to build the critic.

    options: Critic's. everywhere: the head's outputs are normed too. note: true at any size.
    """

    name: str = "default"
    options: dict[str, Any] = field(default_factory=dict)
    published: int | None = None
    note: str = ""
    everywhere: bool = False


KEPT = {"conv_bias": True}
# Norms of which Table III has a row, or that it does not count as we do.
FORMS = {
    "batch": [Form(), Form("conv_bias", KEPT, 2_938_689)],
    "spectral": [Form(published=2_935_873)],
    "mean_spectral": [
        Form(),
        Form(
            "conv_bias",
            KEPT,
            2_937_282,
            "the paper's has one more, which is m on the head, or one counted scalar",
        ),
        Form(
            "everywhere",
            KEPT,
            2_937_282,
            "conv_bias, and m on the head: it fixes the mean score of a batch, so that a"
            " Wasserstein critic learns nothing",
            everywhere=True,
        ),
        Form(
            "released",
            RELEASED,
            note="the authors' code: conv_bias, MSN with gain on convolutions 3, 5 and 6 counted"
            " from 0, spectral norm on the rest; it counts 8 scalars more that are never trained"
            " (2,937,673 at the paper's size)",
        ),
    ],
}


@dataclass(frozen=True)
class Count:
    """A row; against_none: parameters more than without a norm.

    None where the norm refuses a critic of this size; the note then says why.
    """

    norm: str
    form: str
    parameters: int | None = None
    against_none: int | None = None
    buffers: int | None = None
    table_iii: int | None = None
    note: str = ""


LEGEND = [
    "default: without the biases that the norm cancels; conv_bias: with them, as in Table III.",
    "buffers: values that are kept but not trained, as running means and singular vectors.",
]
HEADINGS = ["norm", "form", "parameters", "vs none", "buffers", "Table III"]


def parser() -> Parser:
    made = Parser(prog="msngan params", description=DESCRIPTION)
    made.add_argument("--format", choices=FORMATS, default="table", help="default: table")
    for name, value in PAPER_SIZE.items():
        made.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
    return made


def main(argv: list[str]) -> int:
    args = parser().parse_args(argv)
    shape = {name: getattr(args, name) for name in PAPER_SIZE}
    for name, value in shape.items():
        checks.at_least(f"--{name}", value, 1)
    try:
        rows = counts(**shape)
    except ValueError as problem:
        raise UserError(str(problem)) from problem
    records = [asdict(row) for row in rows]
    print_as(
        args.format,
        tables=lambda: [table(rows, shape)],
        rows=lambda: ([each.name for each in fields(Count)], records),
        whole=lambda: {"format": 1, **shape, "rows": records},
    )
    return 0


def counts(width: int, size: int, channels: int) -> list[Count]:
    """A row for each form of each entry of NORMS. Raises ValueError for no size of a critic."""
    from msngan.norms import NORMS

    shape = {"width": width, "size": size, "channels": channels}
    papers = shape == PAPER_SIZE
    plain = parameters_of(build("none", Form(), shape))
    rows = []
    for norm in NORMS:
        for form in FORMS.get(norm, [Form()]):
            table_iii = form.published if papers else None
            try:
                critic = build(norm, form, shape)
                run_once(critic, size, channels)
            except ValueError as problem:
                rows.append(Count(norm, form.name, table_iii=table_iii, note=str(problem)))
                continue
            total, buffers = parameters_of(critic), sum(each.numel() for each in critic.buffers())
            rows.append(Count(norm, form.name, total, total - plain, buffers, table_iii, form.note))
    return rows


def build(norm: str, form: Form, shape: dict[str, Any]) -> nn.Module:
    from msngan.models import Critic
    from msngan.norms import convert

    if form.everywhere:
        return convert(Critic("none", **shape), norm, **form.options)
    return Critic(norm, **shape, **form.options)


def run_once(critic: nn.Module, size: int, channels: int) -> None:
    """Show it two images, as some norms make their buffers then."""
    import torch

    with torch.no_grad():
        critic(torch.zeros(2, channels, size, size))


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def table(rows: list[Count], shape: dict[str, int]) -> Table:
    return Table(
        title="The critic: width {width}, images of {channels} x {size} x {size}".format(**shape),
        columns=HEADINGS,
        rows=[cells(row) for row in rows],
        right=frozenset(HEADINGS[2:]),
        notes=[*LEGEND, *(f"{row.norm}, {row.form}: {row.note}." for row in rows if row.note)],
    )


def cells(row: Count) -> list[str]:
    numbers = (row.parameters, row.against_none, row.buffers, row.table_iii)
    shown = ["" if each is None else f"{each:,}" for each in numbers]
    if row.against_none:
        shown[1] = f"{row.against_none:+,}"
    return [row.norm, row.form, *shown]
