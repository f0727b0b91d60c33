"""A folder or zip file of images, as one uint8 tensor. Pillow decodes the files.

The zip file may be one that StyleGAN2-ADA's dataset_tool.py wrote (Karras et al. 2020,
arXiv:2006.06676): images, and a dataset.json whose "labels" pairs their names with classes.
Nothing is extracted to disk. What is decoded may go to a file of msngan.data.cache.
"""

from __future__ import annotations

import io
import json
import os
import stat
import threading
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache as cached
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from msngan.data import cache
from msngan.data.images import Images
from msngan.data.parallel import in_chunks, one_at_a_time
from msngan.runs import rng
from msngan.runs.folder import UserError
from msngan.runs.safe_read import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow identifies a file by its content; some of its other readers start programs (EPS).
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
ENDINGS = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".avif"),
)
# What can say which side of a PNG or JPEG image is up; most have none of it.
ORIENTED = {"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"}
MOST_PIXELS = 2**26  # of one file: 8192 x 8192
MANY_PIXELS = 2**22  # larger images are decoded one at a time
MOST_FILE_BYTES = 2**28
MOST_BYTES = 2**36  # of all images in memory
MOST_NAMED = 10  # unreadable files that a message names
TEST_SHARE = 0.2  # of each class, where a folder does not say which images are test images
PARTS = {"train", "test", "val", "valid", "validation"}  # names of splits, and not of classes
ZIP_KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile inflates others without a bound
MOST_RATIO = 100  # of a member's size to its compressed size; images are compressed already
SMALL = 2**20  # bytes; no ratio is checked for smaller members


class DataError(UserError):
    """Images that are missing, damaged or unsuitable: one line with the remedy."""


class LabelsError(DataError):
    """Images from whose labels nothing can be learned."""


class UnreadableError(DataError):
    """A file that cannot be read; `reason` says why."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} cannot be read: {reason}; repair or remove it")
        self.reason = reason


@dataclass(frozen=True)
class Source:
    """Encoded images by name. names: in their order; read: the bytes of one.

    centre: side of the square at the centre that is all that counts of each; None: the whole.
    Of a folder or zip file: all files but hidden ones, sorted, '/' between the parts of a name.
    begin: to be called in a forked process before it reads.
    """

    root: Path
    names: list[str]
    read: Callable[[str], bytes]
    begin: Callable[[], None] = lambda: None
    centre: int | None = None

    @contextmanager
    def picture(self, name: str) -> Iterator[Image]:
        """As `picture`; UnreadableError if it cannot be read."""
        with reading(os.path.join(self.root, name)), picture(self.read(name)) as image:
            yield image if self.centre is None else centred(image, self.centre)


@dataclass(frozen=True)
class Look:
    """What must agree between images, without their pixels. A palette counts as colour."""

    name: str
    width: int
    height: int
    kind: str  # grey or colour

    @classmethod
    def of(cls, name: str, image: Image) -> Look:
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        return cls(name, image.width, image.height, "grey" if grey else "colour")

    @property
    def size(self) -> str:
        return f"{self.width}x{self.height}"


class Notes(NamedTuple):
    """What decoding finds, by name: why images cannot be read, and how others look."""

    bad: dict[str, str]
    small: dict[str, Look]
    mixed: dict[str, Look]


def load_folder(
    root: Path,
    size: int | None,
    channels: int | None,
    skip_bad: bool | None = None,
    split: str = "all",
    test_share: float = TEST_SHARE,
    labelled: bool = False,
) -> Images:
    """The images of a folder or zip file, in the order of their names, with labels if any.

    size: the shorter side is resized to it (Lanczos) and the centre cut out; None if all images
    are squares of one size. channels: 1 or 3; None: 1 if all are grey, otherwise 3. skip_bad: leave
    out files that cannot be read, with a warning; otherwise they are a DataError, which names the
    option to skip them if this is False. labelled: refuse images without labels to learn from.
    Labels come from dataset.json if it has "labels" (null: none), otherwise from the subfolders of
    the first level, in order of name, if every image lies in one; from those of the second, if the
    first is train and test. split: these two folders, or, where they are not, `test_share` of each
    class at random, always the same, is test and the others train. Any other input is a DataError.
    """
    root = Path(root)
    with _opened(root) as source:
        names = [name for name in source.names if name.lower().endswith(ENDINGS)]
        if not names:
            raise DataError(f"no images in {root}; it needs files ending in {' '.join(ENDINGS)}")
        others = sorted({*source.names} - {*names, "dataset.json"})
        if split != "all" and _divided(names, 1):
            whole, names = names, [name for name in names if name.startswith(("train/", "test/"))]
            if outside := len(whole) - len(names):
                _say(f"{outside:,} images in {root} are in neither train nor test and are left out")
        known = _labels(source, names)
        if labelled:
            _check_labels(source, names, known)
        labels, places = known.labels, _places(root, names, known, split, test_share)
        if places is not None:
            names = [names[place] for place in places]
            labels = None if labels is None else labels[places]
        images, kept = decoded(replace(source, names=names), size, channels, skip_bad)
    _report_others(root, others)
    labels = labels if labels is None or kept is None else labels[kept]
    if labelled and labels is not None and (missing := known.missing(labels)):
        what = f"the class {missing[0]} in {root} has no {'' if split == 'all' else split} images"
        if split != "test":
            raise LabelsError(f"{what}; add some, or remove the class everywhere")
        _say(what)
    return Images(images, labels, known.classes)


def decoded(
    source: Source, size: int | None, channels: int | None, skip_bad: bool | None = None
) -> tuple[Tensor, Tensor | None]:
    """All images of a source, uint8 (N, C, H, W), and the places of those kept; None for all.

    Options and errors are those of `load_folder`.
    """
    root, names = source.root, source.names
    bad: dict[str, str] = {}
    small: dict[str, Look] = {}  # smaller than `size`
    mixed: dict[str, Look] = {}  # of another kind than the first

    def fill(chunk: range) -> Notes:
        own = bad, small, mixed = Notes({}, {}, {})
        for index in chunk:
            name = names[index]
            try:
                with source.picture(name) as image:
                    look = Look.of(name, image)
                    _check_size(root, size, first, look)
                    if channels is None and look.kind != first.kind:
                        mixed[name] = look
                        if images.shape[1] == 1:
                            return own  # all are decoded again, in colour
                    if size is not None and min(look.width, look.height) < size:
                        small[name] = look
                    images[index] = pixels(image, *images.shape[1:3])
            except UnreadableError as problem:
                bad[name] = problem.reason
        return own

    with _strict_pillow():
        for name in names:
            try:
                with source.picture(name) as image:
                    first = Look.of(name, image)
                break
            except UnreadableError as problem:
                bad[name] = problem.reason
        else:
            _report_bad(root, names, bad, skip_bad)
        for kind in dict.fromkeys((first.kind, "colour")):
            own = channels or (1 if kind == "grey" else 3)
            images = cache.empty(*_shape(root, len(names), first, size, own))
            for found in in_chunks(fill, len(names), source.begin):
                bad |= found.bad
                small |= found.small
                mixed |= found.mixed
            if not (mixed and own == 1):
                break
    if bad:
        _report_bad(root, names, bad, skip_bad)
    if mixed:
        other = mixed[min(mixed)]
        option = "" if skip_bad is None else " (--data.channels 1 makes all grey)"
        _say(
            f"images in {root} mix grey and colour ({first.name} is {first.kind}, {other.name} is"
            f" {other.kind}): all become colour{option}"
        )
    if small:
        least = small[min(small)]
        _say(
            f"{len(small):,} of {len(names):,} images in {root} are smaller than {size}x{size} and"
            f" are enlarged ({least.name} is {least.size})"
        )
    if not bad:
        return images, None
    kept = torch.tensor([index for index, name in enumerate(names) if name not in bad])
    return cache.kept(images, kept), kept


def _say(text: str) -> None:
    warnings.warn(text, stacklevel=5)


def _report_others(root: Path, others: list[str]) -> None:
    if not others:
        return
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in others)
    listed = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(MOST_NAMED))
    _say(
        f"{len(others):,} other file(s) in {root} are left out: {listed}; convert images of a kind"
        " that is not read to PNG"
    )


def _report_bad(root: Path, names: list[str], bad: dict[str, str], skip: bool | None) -> None:
    """A DataError, or a warning where the bad images are to be skipped and others are left."""
    named = ", ".join(f"{name} ({bad[name]})" for name in sorted(bad)[:MOST_NAMED])
    if len(bad) > MOST_NAMED:
        named += f" and {len(bad) - MOST_NAMED} more"
    what = f"{len(bad)} of {len(names)} images in {root} cannot be read"
    if skip and len(bad) < len(names):
        _say(f"{what} and are skipped: {named}")
        return
    refusal = f"{what}: {named}; repair or remove them"
    if len(bad) == 1 and not skip:
        ((name, reason),) = bad.items()
        refusal = str(UnreadableError(str(root / name), reason))
    raise DataError(refusal + (", or set --data.on_bad_image skip" if skip is False else ""))


def _shape(
    root: Path, count: int, look: Look, size: int | None, channels: int
) -> tuple[int, int, int, int]:
    if size is None and look.width != look.height:
        raise DataError(
            f"images in {root} are not square ({look.size} {look.name}); set --data.size"
        )
    side = size or look.width
    need = count * channels * side * side
    if need > MOST_BYTES and not cache.has_room(need):
        raise DataError(
            f"{count} images from {root} at {side}x{side} need {need / 2**30:.0f} GiB"
            f" of memory, over {MOST_BYTES / 2**30:.0f}; set a smaller --data.size or give fewer"
        )
    return count, channels, side, side


def _check_size(root: Path, size: int | None, first: Look, other: Look) -> None:
    if size is None and first.size != other.size:
        both = f"{first.size} {first.name}, {other.size} {other.name}"
        raise DataError(f"images in {root} differ in size ({both}); set --data.size")


@contextmanager
def reading(what: Path | str) -> Iterator[None]:
    """Turn any failure inside into an UnreadableError about `what`; DataErrors pass."""
    try:
        yield
    except DataError:
        raise
    except MemoryError as problem:
        raise DataError(f"{what} does not fit into memory; give fewer images") from problem
    except Exception as problem:  # damaged files make zlib, json and Pillow raise nearly anything
        system = problem.strerror if isinstance(problem, OSError) else None
        reason = system or " ".join(str(problem).split())[:200] or type(problem).__name__
        raise UnreadableError(str(what), reason) from problem


# One file


@contextmanager
def _strict_pillow() -> Iterator[None]:
    """Inside, a decompression bomb is an error, and oddities in metadata are not reported."""
    from PIL import Image

    Image.init()  # Pillow loads its readers on first use, which threads should not race to do
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


@contextmanager
def picture(data: bytes) -> Iterator[Image]:
    """The first frame, upright, in the file's own mode, while the block lasts.

    Only one large image is in memory at a time, however many threads there are. ValueError if the
    data are not an image, or too large; for damaged ones Pillow raises nearly anything.
    """
    from PIL import Image, ImageOps

    if not data:
        raise ValueError("it is empty")
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
    except Image.UnidentifiedImageError as problem:
        raise ValueError("it is damaged, or not an image") from problem
    with image:
        count = image.width * image.height
        if count > MOST_PIXELS:
            raise ValueError(
                f"it has {image.width}x{image.height} pixels, over {MOST_PIXELS:,}; resize it"
            )
        with one_at_a_time() if count > MANY_PIXELS else nullcontext():
            image.load()
            if image.format not in ("PNG", "JPEG") or not ORIENTED.isdisjoint(image.info):
                with suppress(Exception):  # unreadable EXIF data, common: it is not the pixels
                    ImageOps.exif_transpose(image, in_place=True)
            yield image


def centred(image: Image, side: int) -> Image:
    """The square of this side, or the largest that there is, at the centre."""
    side = min(side, *image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


@cached
def _formats() -> list[str]:
    """FORMATS without those that an old Pillow does not have (AVIF)."""
    from PIL import Image

    return [name for name in FORMATS if name in Image.OPEN]


def pixels(image: Image, channels: int, size: int) -> Tensor:
    """uint8 (channels, size, size): the shorter side resized, the centre cut out.

    Transparent pixels are blended with white; 16-bit levels are rounded to 8. ValueError for levels
    without a fixed range.
    """
    from PIL.Image import Resampling

    image, mode = _flat(image), "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    if image.size != (size, size):
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        # Resized through a box: the whole of a long thin image may not fit into memory.
        image = image.resize((size, size), Resampling.LANCZOS, (left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).view(size, size, channels).permute(2, 0, 1)


def _flat(image: Image) -> Image:
    """The image in a mode that Pillow converts to L and RGB: 8 bits, opaque."""
    from PIL import Image as pil

    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("it has 32-bit levels; save it with 8 or 16 bits")
        # 65535 / 255 = 257, which is odd: no level lies half way
        return pil.fromarray(((levels.astype(np.int32) + 128) // 257).astype(np.uint8))
    if image.mode in ("F", "LAB"):
        raise ValueError(f"it has mode {image.mode}; save it as grey or RGB")
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", image.size, "white"), image)
    return image


# Folders and zip files


@contextmanager
def _opened(root: Path) -> Iterator[Source]:
    if os.path.isdir(root):
        try:
            names = sorted(name for name, _ in cache.files(str(root)))
        except OSError as problem:
            raise DataError(f"cannot list {problem.filename}: {problem.strerror}") from problem
        yield Source(root, names, lambda name: read_file(os.path.join(root, name)))
    elif not os.path.exists(root):
        raise DataError(f"{root} does not exist; --data.root takes a folder or zip file of images")
    elif not (os.path.isfile(root) and (root.suffix == ".zip" or zipfile.is_zipfile(root))):
        raise DataError(f"{root} is neither a folder nor a zip file of images")
    else:
        with reading(root):
            archive = zipfile.ZipFile(root)
        with archive:
            yield _zipped(root, archive)


def read_file(path: str | Path) -> bytes:
    if not os.path.isfile(path):  # reading a pipe would wait for ever
        raise OSError("it is not a regular file, or a link to nothing")
    with open(path, "rb", buffering=0) as file:
        _check_bytes(os.fstat(file.fileno()).st_size)
        return file.readall()


def _check_bytes(count: int) -> None:
    if count > MOST_FILE_BYTES:
        raise OSError(f"{count} bytes are more than the {MOST_FILE_BYTES} allowed")


def _zipped(root: Path, archive: zipfile.ZipFile) -> Source:
    members = {}
    for member in archive.infolist():
        name = member.filename.replace("\\", "/")
        if name.endswith("/"):
            continue
        if why := _unfit(name, member):
            raise DataError(
                f"{root} holds {name[:80]!r}, {why}; make the file anew, of images only"
            )
        if not any(part.startswith(".") for part in PurePosixPath(name).parts):
            members[name] = member
    turn = threading.Lock()  # ZipFile counts its open members without one

    def read(name: str) -> bytes:
        size = members[name].file_size
        _check_bytes(size)
        with turn, archive.open(members[name]) as file:
            data = file.read(size)  # zipfile inflates no more than it is asked for
            if file.read(1):
                raise OSError("it is larger than the file's index says")
            return data

    def begin() -> None:  # a file's place is shared with the process that opened it
        archive.fp = open(root, "rb")  # noqa: SIM115  closed with the archive

    return Source(root, sorted(members), read, begin)


def _unfit(name: str, member: zipfile.ZipInfo) -> str | None:
    """Why a member cannot belong to a data set; None if it can."""
    if name.startswith("/") or name[1:2] == ":" or ".." in PurePosixPath(name).parts:
        return "a name that leads out of it"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "a link"
    if member.compress_type not in ZIP_KINDS:
        return "compressed in a way that is not read (deflate is)"
    if member.file_size > SMALL and member.file_size > MOST_RATIO * member.compress_size:
        return f"which inflates to {member.file_size:,} bytes from {member.compress_size:,}"
    return None


# Labels, and which images are test images


@dataclass(frozen=True)
class Labels:
    """labels: int64 (N,) or None; classes: their names, () for those of dataset.json.

    level: of the subfolders that are the classes.
    """

    labels: Tensor | None
    classes: tuple[str, ...] = ()
    level: int = 0

    def missing(self, labels: Tensor) -> list[str]:
        """The classes that none of these labels has; of dataset.json the first alone."""
        there = {*labels.unique().tolist()}
        if self.classes:
            return [name for number, name in enumerate(self.classes) if number not in there]
        gap = next(number for number in range(len(there) + 1) if number not in there)
        return [str(gap)] if gap < max(there) else []


def _labels(source: Source, names: list[str]) -> Labels:
    if "dataset.json" in source.names:
        where = source.root / "dataset.json"
        with reading(where):
            record = read_json(source.read("dataset.json"))
        if isinstance(record, dict) and "labels" in record:
            pairs = record["labels"]
            return Labels(None if pairs is None else _listed(where, pairs, names))
    level = int(_divided(names, 2))
    if not all(name.count("/") > level for name in names):
        return Labels(None, level=level)
    folders = [name.split("/")[level] for name in names]
    classes = tuple(sorted(set(folders)))
    number = {folder: label for label, folder in enumerate(classes)}
    return Labels(torch.tensor([number[folder] for folder in folders]), classes, level)


def _divided(names: list[str], depth: int) -> bool:
    """Whether images are in both train and test, all of them at least `depth` folders deep."""
    inside = [name for name in names if name.startswith(("train/", "test/"))]
    both = {name.split("/", 1)[0] for name in inside} == {"train", "test"}
    return both and all(name.count("/") >= depth for name in inside)


def _check_labels(source: Source, names: list[str], known: Labels) -> None:
    root, labels = source.root, known.labels
    tops = sorted({name.split("/", 1)[0] for name in names if "/" in name})
    if known.classes and known.level == 0 and {*tops} <= PARTS:
        raise LabelsError(
            f"{root} holds {', '.join(tops)}, which are no classes; it needs both train and test,"
            " each with a subfolder for every class"
        )
    if labels is None:
        loose = [name for name in names if name.count("/") <= known.level]
        where = f"{len(loose):,} of its {len(names):,} images lie in no subfolder"
        raise LabelsError(
            f"{root} has no labels: {where if loose else 'dataset.json says so'}; put the images of"
            f" each class into a subfolder of its name, {root}/cat/1.png for instance"
        )
    if len(labels.unique()) < 2:
        only = known.classes[0] if known.classes else int(labels[0])
        raise LabelsError(f"{root} has one class only, {only}; nothing tells it from another")
    if not (known.classes and root.is_dir()):
        return
    filled = {"/".join(name.split("/")[: known.level + 1]) for name in names}
    for above in ("train/", "test/") if known.level else ("",):
        for entry in sorted(os.scandir(root / above), key=lambda each: each.name):
            path = above + entry.name
            if entry.is_dir() and not entry.name.startswith(".") and path not in filled:
                raise LabelsError(f"the class {root / path} has no images; add some, or remove it")


def _places(
    root: Path, names: list[str], known: Labels, split: str, test_share: float
) -> Tensor | None:
    """The places of a split's images, ascending; None for all."""
    if split == "all":
        return None
    if _divided(names, 1):
        return torch.tensor([place for place, n in enumerate(names) if n.startswith(f"{split}/")])
    labels = torch.zeros(len(names)) if known.labels is None else known.labels
    return places_of_share(root, labels, split, test_share)


def places_of_share(root: Path, labels: Tensor, split: str, test_share: float) -> Tensor:
    """Ascending places of the test images, a share of each class at random, or of the others."""
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for number, label in enumerate(labels.unique()):
        own = (labels == label).nonzero().flatten()
        order = torch.randperm(len(own), generator=rng.generator(0, number, 0, "test"))
        count = min(max(1, round(test_share * len(own))), len(own) - 1)
        held_out[own[order[:count]]] = True
    places = (held_out == (split == "test")).nonzero().flatten()
    if not len(places):
        raise DataError(
            f"{root} has {len(labels)} images, too few to test with; give at least two of a class"
        )
    return places


def _listed(where: Path, pairs: Any, names: list[str]) -> Tensor:  # noqa: ANN401  any JSON value
    form = '"labels" must be null or [[name, whole number from 0 up], ...]'
    try:
        labels = {str(name).replace("\\", "/"): label for name, label in pairs}
    except (TypeError, ValueError) as problem:
        raise DataError(f"{where}: {form}") from problem
    for name in names:
        if name not in labels:
            raise DataError(f'{where} has no label for {name}; add it, or set "labels" to null')
        if type(labels[name]) is not int or not 0 <= labels[name] < 2**63:
            raise DataError(f"{where}: {form}; {name} has {json.dumps(labels[name])[:60]}")
    return torch.tensor([labels[name] for name in names])
