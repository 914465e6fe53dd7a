"""Folders of files: which hold a part of a data set, which a class of it, and what lies in them.

Training, ``shards``, ``predict`` and ``explain`` all look here, so that none of them sees other files than the rest.
Imports nothing heavy.
"""

import logging
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dltrain.errors import DataError, did_you_mean
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
    """The part that the first of the words of a name means that means any."""
    return next(filter(None, map(part_of, re.split(r"[\W_]+", name))), None)


def part_folders(top: Path) -> dict[str, Path]:
    """The folders in ``top`` that hold a part of a data set: ``train``, ``val``, ``test``, in any usual spelling.

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
    """The folders in ``folder`` by their names as text, in alphabetical order; hidden ones do not count.

    Raises:
        DataError: it cannot be read.
    """
    found = (entry.name for entry in _entries(folder) if _is_folder(entry))
    return {text_of(name): folder / name for name in found}


def labelled_images(root: Path, known: Sequence[str] = ()) -> tuple[list[str], dict[str, Labelled]]:
    """The classes of ``root``, and the images of each of its parts: ``train``, and ``val`` and ``test`` where they are.

    The classes are the folders in that of the training part, or in ``root`` itself where it has none; or those that
    are ``known``, of which some may have no images here.

    Raises:
        DataError: there are fewer than two classes, one of the training part has no images, or another part has one
            that the training part has not.
    """
    parts, inner = part_folders(root), subfolders(root)
    if "train" in parts:
        classes_in_root = None
        _say_beside(root, [name for name, folder in inner.items() if folder not in parts.values()])
    else:
        parts = _without_classes(parts, inner)
        classes_in_root = [folder for folder in inner.values() if folder not in parts.values()]
        _require_training_part(root, parts, classes_in_root)
        _say_like_parts(root, [folder.name for folder in classes_in_root])
    found = {"train": _class_folders(parts.get("train", root), classes_in_root, 1 if known else 2)}
    found |= {part: _class_folders(folder, None, 1) for part, folder in parts.items() if part != "train"}
    classes = list(known) or list(found["train"])
    labelled = {}
    for part, folders in found.items():
        _require_known(folders, classes)
        labelled[part] = _labelled(parts.get(part, root), folders, classes)
        if not known:
            _require_images(part, labelled[part], classes)
    return classes, labelled


def _say_beside(root: Path, names: Sequence[str]) -> None:
    if names:
        listed = ", ".join(f"'{name}'" for name in names)
        log.warning("%s: left out beside the training part: %s (parts are called train, val and test)", root, listed)


def _require_training_part(root: Path, parts: Mapping[str, Path], classes: Collection[Path]) -> None:
    if parts and not classes:
        listed = " and ".join(f"'{folder.name}'" for folder in parts.values())
        raise DataError(f"'{root}' has {listed} but no folder 'train' beside it")


def _say_like_parts(root: Path, classes: Sequence[str]) -> None:
    """Warn of classes with names such as seg_train and seg_test: each has a word for another part."""
    like = {name: part_in(name) for name in classes}
    if "train" in like.values() and set(like.values()) & {"val", "test"}:
        listed = ", ".join(f"'{text_of(name)}'" for name, part in like.items() if part)
        log.warning("%s: %s are taken for classes; if they are parts, call them train, val and test", root, listed)


def _without_classes(parts: Mapping[str, Path], inner: Mapping[str, Path]) -> dict[str, Path]:
    """``parts`` beside the folders of classes: one of these may be called valid, but then it has no classes in it."""
    classes = inner.keys() - {folder.name for folder in parts.values()}
    return {
        part: folder
        for part, folder in parts.items()
        if folder.name.lower() == part or classes & subfolders(folder).keys()
    }


def _class_folders(folder: Path, among: Collection[Path] | None, least: int) -> dict[str, Path]:
    classes = {name: path for name, path in subfolders(folder).items() if among is None or path in among}
    if len(classes) < least:
        names = f"only '{next(iter(classes))}'" if classes else "none"
        number = "at least two" if least == 2 else "at least one"
        raise DataError(f"'{folder}' must hold a folder for each class, {number}; found {names}")
    return classes


def _require_known(folders: Mapping[str, Path], classes: Sequence[str]) -> None:
    for name, folder in folders.items():
        if name not in classes:
            listed = ", ".join(classes[:30]) + (", ..." if len(classes) > 30 else "")
            hint = did_you_mean(name, classes)
            raise DataError(f"'{folder}' is not a class of the training folder ({listed}){hint}")


def _require_images(part: str, found: Labelled, classes: Sequence[str]) -> None:
    there = set(found.labels)
    absent = [name for label, name in enumerate(classes) if label not in there]
    if absent and part == "train":
        raise DataError(f"class '{absent[0]}' is empty: no {', '.join(IMAGES)} file in '{found.folder / absent[0]}'")
    if not there:
        raise DataError(f"'{found.folder}' holds no image of any class; take it away to have a {part} part held out")
    if absent:
        listed = ", ".join(absent[:10]) + (", ..." if len(absent) > 10 else "")
        log.warning("%s: no image of %s; the metrics say nothing of what is not there", found.folder, listed)


def _labelled(folder: Path, folders: Mapping[str, Path], classes: Sequence[str]) -> Labelled:
    paths: list[Path] = []
    labels: list[int] = []
    left_out: Counter[str] = Counter()
    for label, name in enumerate(classes):
        images = files_in(folders[name], IMAGES, left_out) if name in folders else []
        paths += images
        labels += [label] * len(images)
    say_left_out(folder, left_out)
    loose = sum(entry.name.lower().endswith(IMAGES) and not _is_folder(entry) for entry in _entries(folder))
    if loose:
        log.warning("%s: left out, as they lie in no folder of a class: %s images", folder, f"{loose:,}")
    return Labelled(folder, paths, labels)


def files_in(folder: Path, suffixes: Sequence[str], left_out: Counter[str]) -> list[Path]:
    """Files with one of ``suffixes`` in the folder and those below it, in the order of their names.

    Links to files and folders count as these; what is hidden does not count. ``left_out`` counts everything else, also
    links to a folder above, which would have no end.

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
    found: list[Path] = []
    for entry in _entries(folder):
        path = folder / entry.name
        suffix = path.suffix.lower()
        if _is_folder(entry) and _identity(path) in above:
            left_out[_LOOP] += 1
        elif _is_folder(entry):
            found += _files_in(path, suffixes, left_out, above)
        elif suffix in suffixes and _is_file(entry):
            found.append(path)
        elif suffix in suffixes:
            kind = kind_of(path)
            left_out[f"{suffix} that is {kind}" if kind else f"{suffix} without content"] += 1  # a link to nothing
        else:
            left_out[suffix or "without a suffix"] += 1
    return found


def _identity(folder: Path) -> tuple[int, int]:
    """What a folder is known by, whatever path leads to it."""
    status = folder.stat()
    return status.st_dev, status.st_ino


def say_left_out(folder: Path, left_out: Mapping[str, int], wanted: str = "images") -> None:
    """Warn of the files of a folder that are no ``wanted`` ones."""
    if left_out:
        named = ", ".join(f"{count:,} {what}" for what, count in Counter(left_out).most_common(5))
        log.warning("%s: files that are no %s are left out: %s", folder, wanted, named)


def text_of(path: Path | str) -> str:
    r"""A path as text that can be written anywhere: bytes of a name that are no UTF-8 become ``\xff``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder and not hidden, in alphabetical order."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"'{folder}' cannot be read: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether there is a file to be read, and no pipe that would keep a reader waiting for ever."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:  # a link to nothing
        return False
