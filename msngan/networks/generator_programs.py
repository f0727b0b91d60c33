"""Generators as programs, which run without msngan: ONNX and TorchScript files.

An ONNX file is a graph of operators with its weights, which onnxruntime computes. A TorchScript
file is a program, and loading it runs it; who reads one has been given its name by a person.
"""

from __future__ import annotations

import copy
import io
import json
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from msngan.networks.sampling import applied, evaluating, labels_in_turn, latents
from msngan.norms import fold
from msngan.runs.extras import imported
from msngan.runs.folder import Failure, UserError
from msngan.runs.safe_read import is_regular, read_json, read_up_to

# Of images in [-1, 1]: a program's against the generator's. Rounding makes 1e-8 to 1e-6, and 1e-5
# in a network of width 128 whose images are saturated; a grey level is 8e-3.
TOLERANCE = 1e-4
LARGEST_ONNX = 2**31 - 1  # bytes; protobuf can hold no more
ONNX = "onnx onnxruntime onnxscript"  # the extra `onnx`
PROVIDERS = ["CPUExecutionProvider"]
ABOUT = "msngan.json"  # the file of the metadata in a TorchScript archive
LARGEST_ABOUT = 2**20  # bytes


@dataclass(frozen=True)
class Program:
    """A kind of file: its name, what writes (generator, metadata, path), and what reads a path.

    The latter gives the metadata, and what loads the generator: nothing is run before.
    """

    name: str
    write: Callable[[nn.Module, Mapping[str, str], Path], None]
    read: Callable[[Path], tuple[dict[str, str], Callable[[], nn.Module]]]


def write_program(
    program: Program, generator: nn.Module, metadata: Mapping[str, str], path: Path
) -> float:
    """Write the generator, then read the file and compare its images with the generator's.

    Returns by how much they differ at most. UserError for a generator that the format cannot hold,
    Failure if the images differ by more than rounding.
    """
    try:
        plain = fold(generator)
    except TypeError:  # an output norm that no plain layer computes
        plain = copy.deepcopy(generator)
    try:
        with _quiet(), torch.no_grad():
            program.write(plain, metadata, path)
    except (OSError, UserError):
        raise
    except Exception as problem:  # what an exporter raises is its own affair
        raise UserError(
            f"this generator cannot be written as {program.name}; try another --format"
            f" ({_reason(problem.__cause__ or problem)})"
        ) from problem
    try:
        difference = images_apart(generator, program.read(path)[1]())
    except Exception as problem:
        raise Failure(f"the {program.name} file is not kept: {_reason(problem)}") from problem
    if not difference <= TOLERANCE:
        raise Failure(
            f"the {program.name} file is not kept: its images differ from the generator's by up to"
            f" {difference:.2g} in [-1, 1]; a generator that draws random numbers, or whose code"
            " branches, cannot be written so"
        )
    return difference


def images_apart(generator: nn.Module, other: nn.Module) -> float:
    """By how much the images of another form of a generator differ from its own, at most."""
    latent_dim: int = generator.latent_dim  # type: ignore[assignment]
    z = latents(3, latent_dim, 0)  # other images than an exporter saw, and another number
    labels = labels_in_turn(generator, 3)
    with evaluating(generator):
        z = z.to(next(generator.parameters()).dtype)
        images = applied(generator, z, labels).float()
    return float((applied(other, z, labels).float() - images).abs().max().item())


def check_images(generator: nn.Module, latent_dim: int, classes: int = 0) -> None:
    """ValueError unless it maps z (N, latent_dim), and labels if there are classes, to images.

    Then it has its `latent_dim` and `classes`.
    """
    z, labels = torch.zeros(2, latent_dim), torch.zeros(2, dtype=torch.int64) if classes else None
    try:
        with evaluating(generator):
            z = z.to(next(generator.parameters()).dtype)
            found = tuple(applied(generator, z, labels).shape)
    except Exception as problem:
        raise ValueError(f"it cannot be computed: {_reason(problem)}") from problem
    if len(found) != 4 or found[0] != 2 or found[1] not in (1, 3):
        raise ValueError(f"of z {(2, latent_dim)} it makes {found}, which are not images")
    generator.latent_dim, generator.classes = latent_dim, classes  # type: ignore[assignment]


def _inputs(generator: nn.Module) -> tuple[Tensor, ...]:
    """What a generator is traced with: z (2, latent_dim), and labels (2,) of a conditional one."""
    latent_dim: int = generator.latent_dim  # type: ignore[assignment]
    z = torch.zeros(2, latent_dim, dtype=next(generator.parameters()).dtype)
    labels = labels_in_turn(generator, 2)
    return (z,) if labels is None else (z, labels)


# ONNX


class OnnxGenerator(nn.Module):
    """The generator of an ONNX file, computed by onnxruntime on the CPU. float32."""

    def __init__(self, session: Any) -> None:  # noqa: ANN401  an onnxruntime.InferenceSession
        super().__init__()
        self.session = session
        # By which others know on which device and in which type z is given.
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        given = {"z": z.float().cpu().numpy()}
        if labels is not None:
            given["labels"] = labels.cpu().numpy()
        (images,) = self.session.run(["images"], given)
        return torch.from_numpy(images).to(z.device)


def _write_onnx(generator: nn.Module, metadata: Mapping[str, str], path: Path) -> None:
    for name in ONNX.split():
        imported(name, "export as ONNX", ONNX)
    generator = generator.float()  # onnxruntime has no convolution of doubles
    given = _inputs(generator)
    program = torch.onnx.export(
        generator,
        given,
        input_names=["z", "labels"][: len(given)],
        output_names=["images"],
        dynamic_shapes=({0: "batch"},) * len(given),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer, model.graph):
        part.ClearField("metadata_props")  # where in our source, on this machine, it comes from
        part.ClearField("doc_string")
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())


def _read_onnx(path: Path) -> tuple[dict[str, str], Callable[[], nn.Module]]:
    """Only a graph whose weights are in the file is computed."""
    onnx, runtime = (imported(name, "an ONNX file", ONNX) for name in ("onnx", "onnxruntime"))
    data = read_up_to(path, LARGEST_ONNX)
    try:
        model = onnx.load_from_string(data)
    except Exception as problem:
        raise ValueError("it is cut, or not an ONNX file") from problem
    external = onnx.TensorProto.EXTERNAL
    if any(each.data_location == external for each in _tensors(model.graph, *model.functions)):
        raise ValueError("it names other files, which are not read")
    metadata = {each.key: each.value for each in model.metadata_props}

    def load() -> nn.Module:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 4  # what is wrong is said by the exception
        try:
            with redirect_stdout(io.StringIO()):  # it prints what it also raises
                session = runtime.InferenceSession(data, options, providers=PROVIDERS)
            return OnnxGenerator(session)
        except Exception as problem:
            raise ValueError(f"onnxruntime refuses it: {_reason(problem)}") from problem

    return metadata, load


def _tensors(*graphs: Any) -> Iterator[Any]:
    """Those of a graph, or of a function, and of the graphs in it: branches and loops."""
    for graph in graphs:
        yield from getattr(graph, "initializer", ())
        for attribute in (each for node in graph.node for each in node.attribute):
            yield from (attribute.t, *attribute.tensors)
            yield from _tensors(*[attribute.g] * attribute.HasField("g"), *attribute.graphs)


# TorchScript


def _write_torchscript(generator: nn.Module, metadata: Mapping[str, str], path: Path) -> None:
    given = _inputs(generator)
    traced = torch.jit.trace(generator, given, check_trace=False)
    try:
        traced(*(each[:1] for each in given))
    except RuntimeError:  # len(z) is traced as the number that it was
        traced = torch.jit.script(generator)
    whole = io.BytesIO()
    torch.jit.save(traced, whole, _extra_files={ABOUT: json.dumps(metadata, sort_keys=True)})
    with zipfile.ZipFile(whole) as made, zipfile.ZipFile(path, "w") as archive:
        for member in made.infolist():
            if not member.filename.endswith(".debug_pkl"):  # paths on this machine
                archive.writestr(member, made.read(member))


def _read_torchscript(path: Path) -> tuple[dict[str, str], Callable[[], nn.Module]]:
    """Anyone can write our metadata: a file that has them can still be any program."""

    def load() -> nn.Module:
        try:
            with _quiet():
                return torch.jit.load(str(path), map_location="cpu")
        except Exception as problem:
            raise ValueError("it is cut, or not a TorchScript file") from problem

    return _about(path), load


def _about(path: Path) -> dict[str, str]:
    if not is_regular(path):
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            members = {each.filename.partition("/")[2]: each for each in archive.infolist()}
            member = members.get(f"extra/{ABOUT}")
            if member is None or member.file_size > LARGEST_ABOUT:
                raise ValueError(f"it holds no {ABOUT}")
            data = archive.read(member)
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, OSError) as problem:
            raise ValueError("it is cut, or not a TorchScript file") from problem
    metadata = read_json(data)
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise ValueError("its metadata are not strings")
    return metadata


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.jit and the exporter say of themselves what the person cannot change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(problem: BaseException) -> str:
    """Why a library failed; of TorchScript, without the source that it prints before."""
    lines = str(problem).strip().splitlines() or [type(problem).__name__]
    return " ".join((lines[-1] if "TorchScript" in lines[0] else " ".join(lines)).split())[:200]


PROGRAMS = {
    ".onnx": Program("ONNX", _write_onnx, _read_onnx),
    ".pt": Program("TorchScript", _write_torchscript, _read_torchscript),
}
