"""Folders of files: which of them hold a part of a data set or a class, the files in them, and descriptions of these.

Training, ``shards``, ``predict`` and ``explain`` list files here, so that all of them see the same. By its description
a resumed run recognises the files that it began with: times do not count, nor where the files lie, so that a copy on
another machine is the same. Imports nothing heavy.
"""

import contextlib
import logging
import os
import random
import re
import stat
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.errors import DataError, cause_of, did_you_mean, in_one_line, listed
from dltrain.system.files import kind_of

log = logging.getLogger(__name__)

# The formats of images that are read, by Pillow's names, and how their files end. Pillow knows more, but some of those
# start programs (EPS).
IMAGE_FORMATS = {
    "JPEG": (".jpeg", ".jpg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}
IMAGES = tuple(sorted(suffix for suffixes in IMAGE_FORMATS.values() for suffix in suffixes))
_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PARTS = {word: part for part, words in _SPELLINGS.items() for word in words}
_LOOP = "link to a folder above"
_SET = re.compile(r"[ _-]?(set|data|images)$")  # training_set, test-data
_BLOCK = 1 << 20
_MEASURED = 1000  # sizes of so many files: asking for each of a million takes minutes on a network's disk
_SAMPLED = 1000  # files whose contents are looked at, all together no more than _BYTES
_BYTES = 64 << 20
_PIECE = 1 << 16
_CONTENTS = re.compile(r", contents [0-9a-f]{8}")


@dataclass(frozen=True)
class Labelled:
    """The files of a part, and the class of each by its place among the class names."""

    folder: Path
    paths: Sequence[Path]
    labels: Sequence[int]


def part_of(word: str) -> str | None:
    """The part, ``train``, ``val`` or ``test``, that a word means in any usual spelling; ``None`` for other words."""
    return _PARTS.get(_SET.sub("", word.lower()))


def part_in(name: str) -> str | None:
    """The part that a word of a name means; where several do, the first of them."""
    return next(filter(None, map(part_of, re.split(r"[\W_]+", name))), None)


def part_folders(top: Path) -> dict[str, Path]:
    """The folders in ``top`` by the part of a data set that they hold, ``train``, ``val`` or ``test``.

    Raises:
        DataError: two folders are the same part, or ``top`` cannot be read.
    """
    parts: dict[str, Path] = {}
    for name, folder in subfolders(top).items():
        part = part_of(name)
        if part and part in parts:
            raise DataError(f"'{parts[part]}' and '{folder}' are both the {part} part; keep one of them")
        if part:
            parts[part] = folder
    return parts


def subfolders(folder: Path) -> dict[str, Path]:
    """The folders in ``folder`` that are not hidden, by their names as text, in alphabetical order.

    Raises:
        DataError: it cannot be read.
    """
    return {text_of(entry.name): folder / entry.name for entry in _entries(folder) if _is_folder(entry)}


def labelled_images(root: Path, known: Sequence[str] = ()) -> tuple[list[str], dict[str, Labelled]]:
    """The classes of ``root``, and the images of each of its parts: ``train``, and ``val`` and ``test`` if they exist.

    The classes are the folders in the training part's, or in ``root`` itself if there is none; or they are ``known``,
    and some may have no images here.

    Raises:
        DataError: there are fewer than two classes, a class of the training part has no images, or another part has a
            class that the training part lacks.
    """
    parts, inner = part_folders(root), subfolders(root)
    if "train" in parts:
        train = subfolders(parts["train"])
        _warn_of_others(root, [name for name, folder in inner.items() if folder not in parts.values()])
    else:
        parts = _without_classes(parts, inner)
        train = {name: folder for name, folder in inner.items() if folder not in parts.values()}
        if parts and not train:
            names = " and ".join(f"'{folder.name}'" for folder in parts.values())
            raise DataError(f"'{root}' has {names} but no folder 'train' beside it")
        _warn_of_likely_parts(root, list(train))
    folders_of = {"train": train} | {part: subfolders(folder) for part, folder in parts.items() if part != "train"}
    for part, folders in folders_of.items():
        _require_classes(parts.get(part, root), folders, 2 if part == "train" and not known else 1)
    classes = list(known) or list(train)
    labelled = {}
    for part, folders in folders_of.items():
        _require_known(folders, classes)
        labelled[part] = _labelled(parts.get(part, root), folders, classes)
        if not known:
            _require_images(part, labelled[part], classes)
    return classes, labelled


def _warn_of_others(root: Path, names: Sequence[str]) -> None:
    if names:
        quoted = ", ".join(f"'{name}'" for name in names)
        log.warning("%s: left out beside the training part: %s (parts are called train, val and test)", root, quoted)


def _warn_of_likely_parts(root: Path, classes: Sequence[str]) -> None:
    """Warn of classes with names such as seg_train and seg_test: each has a word for another part."""
    like = {name: part_in(name) for name in classes}
    if "train" in like.values() and set(like.values()) & {"val", "test"}:
        quoted = ", ".join(f"'{name}'" for name, part in like.items() if part)
        log.warning("%s: %s are taken for classes; if they are parts, call them train, val and test", root, quoted)


def _without_classes(parts: Mapping[str, Path], inner: Mapping[str, Path]) -> dict[str, Path]:
    """``parts`` without folders that are classes: a class may be called valid, but then holds no folders of classes."""
    classes = inner.keys() - {folder.name for folder in parts.values()}
    return {
        part: folder
        for part, folder in parts.items()
        if folder.name.lower() == part or classes & subfolders(folder).keys()
    }


def _require_classes(folder: Path, classes: Collection[str], least: int) -> None:
    if len(classes) < least:
        names = f"only '{next(iter(classes))}'" if classes else "none"
        number = "at least two" if least == 2 else "at least one"
        raise DataError(f"'{folder}' must hold a folder for each class, {number}; found {names}")


def _require_known(folders: Mapping[str, Path], classes: Sequence[str]) -> None:
    for name, folder in folders.items():
        if name not in classes:
            hint = did_you_mean(name, classes)
            raise DataError(f"'{folder}' is not a class of the training folder ({listed(classes, 30)}){hint}")


def _require_images(part: str, images: Labelled, classes: Sequence[str]) -> None:
    present = set(images.labels)
    absent = [name for label, name in enumerate(classes) if label not in present]
    folder = images.folder
    if absent and part == "train":
        raise DataError(f"class '{absent[0]}' is empty: no {', '.join(IMAGES)} file in '{folder / absent[0]}'")
    if not present:
        raise DataError(f"'{folder}' holds no image of any class; take it away to have a {part} part held out")
    if absent:
        log.warning("%s: no image of %s; the metrics say nothing of what is not there", folder, listed(absent))


def _labelled(folder: Path, folders: Mapping[str, Path], classes: Sequence[str]) -> Labelled:
    paths: list[Path] = []
    labels: list[int] = []
    left_out: Counter[str] = Counter()
    for label, name in enumerate(classes):
        images = files_in(folders[name], IMAGES, left_out) if name in folders else []
        paths += images
        labels += [label] * len(images)
    warn_left_out(folder, left_out)
    loose = sum(entry.name.lower().endswith(IMAGES) and not _is_folder(entry) for entry in _entries(folder))
    if loose:
        log.warning("%s: left out, as they lie in no folder of a class: %s images", folder, f"{loose:,}")
    return Labelled(folder, paths, labels)


def files_in(folder: Path, suffixes: Sequence[str], left_out: Counter[str]) -> list[Path]:
    """Files with one of ``suffixes`` in the folder and those below it, in the order of their names.

    Links are followed, except to a folder above, which would have no end; hidden files and folders do not count.
    ``left_out`` counts everything else.

    Raises:
        DataError: a folder cannot be read.
    """
    if folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve()):
        left_out[_LOOP] += 1
        return []
    return _files_in(folder, suffixes, left_out, [_identity(above) for above in folder.resolve().parents])


def _files_in(
    folder: Path, suffixes: Sequence[str], left_out: Counter[str], above: Sequence[tuple[int, int]]
) -> list[Path]:
    above = [*above, _identity(folder)]
    files: list[Path] = []
    for entry in _entries(folder):
        path = folder / entry.name
        suffix = path.suffix.lower()
        if _is_folder(entry) and _identity(path) in above:
            left_out[_LOOP] += 1
        elif _is_folder(entry):
            files += _files_in(path, suffixes, left_out, above)
        elif suffix in suffixes and _is_file(entry):
            files.append(path)
        elif suffix in suffixes:
            kind = kind_of(path)
            left_out[f"{suffix} that is {kind}" if kind else f"{suffix} without content"] += 1  # a link to nothing
        else:
            left_out[suffix or "without a suffix"] += 1
    return files


def _identity(folder: Path) -> tuple[int, int]:
    """What identifies a folder, whatever path leads to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def warn_left_out(folder: Path, left_out: Counter[str], wanted: str = "images") -> None:
    """Warn of the files of a folder that are not ``wanted``."""
    if left_out:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in left_out.most_common(5))
        log.warning("%s: files that are no %s are left out: %s", in_one_line(str(folder)), wanted, counts)


def text_of(path: Path | str) -> str:
    r"""A path as text that can be written anywhere: bytes that are not UTF-8 become ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder that are not hidden, in alphabetical order."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {cause_of(error)}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a regular file: a pipe would keep a reader waiting for ever."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link to nothing
        return False


def describe_file(path: Path) -> str:
    """The size of a file and a checksum of its content."""
    with open(path, "rb") as file:
        return f"{path.stat().st_size:,} bytes, checksum {_checksum(iter(lambda: file.read(_BLOCK), b''))}"


def describe_folder(folder: Path, paths: Sequence[Path]) -> str:
    """The number of ``paths`` in ``folder``, a checksum of their names and of some sizes, and one of some contents."""
    names = (bytes(path.relative_to(folder)) + b"\0" for path in paths)
    measured = paths[:: max(len(paths) // _MEASURED, 1)]
    sizes = (str(path.stat().st_size).encode() + b"\0" for path in measured)
    named = _checksum([*names, *sizes])
    return f"{len(paths):,} files, checksum {named}, contents {_checksum(_contents(paths))}"


def same_files(before: str, now: str) -> bool:
    """Whether two descriptions are of the same files; earlier versions looked at no contents of folders."""
    if not _CONTENTS.search(before):
        now = _CONTENTS.sub("", now)
    return before == now


def _contents(paths: Sequence[Path]) -> Iterator[bytes]:
    """What lies at places, always the same ones, in files, always the same ones; small files as a whole."""
    draw = random.Random(0)
    chosen = draw.sample(range(len(paths)), min(_SAMPLED, len(paths)))
    most = max(_BYTES // _PIECE // max(len(chosen), 1), 1)  # pieces of a file
    for number in sorted(chosen):
        pieces = -(-paths[number].stat().st_size // _PIECE)
        places = sorted(draw.sample(range(pieces), min(most, pieces)))
        with contextlib.suppress(OSError), open(paths[number], "rb", buffering=0) as file:
            for piece in places:  # the reader of the samples reports a file that cannot be read
                file.seek(piece * _PIECE)
                yield file.read(_PIECE)


def _checksum(blocks: Iterable[bytes]) -> str:
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"
