"""Which files of a folder are shards, and of which part of a data set."""

import logging
import os
from pathlib import Path

from dltrain.data.folders import part_folders, part_in, subfolders, text_of
from dltrain.errors import DataError
from dltrain.system.files import kind_of

log = logging.getLogger(__name__)

_SUFFIXES = (".tar", ".parquet")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")


def shard_files(root: str) -> dict[str, list[Path]]:
    """The shards of each part, in the order of their names.

    A part has a folder ``train/``, ``val/`` or ``test/``, or shards with it as a word of their names, in any usual
    spelling: ``train-000000.tar``, ``imagenet1k-validation-00.tar``. Where none is for training all of them are.

    Raises:
        DataError: there is no such folder, it holds no shards, or shards of both formats.
    """
    top = Path(os.path.expanduser(root)).resolve()
    if not top.is_dir():
        raise DataError(f"there is no folder '{root}'; dataset.root must hold shards, *.tar or *.parquet")
    loose = _shards_in(top)
    folders = part_folders(top)
    parts: dict[str, list[Path]] = {}
    for part in ("train", "val", "test"):
        inside = _shards_in(folders[part]) if part in folders else []
        found = inside or [path for path in loose if part_in(path.stem) == part]
        if found:
            parts[part] = found
    _say_unknown(top, [folder for folder in subfolders(top).values() if folder not in folders.values()])
    if "train" not in parts and loose:
        parts = {"train": loose}
    if "train" not in parts:
        raise DataError(f"'{root}' holds no shards{_hint(top)}: put them into '{top / 'train'}' as *.tar or *.parquet")
    kinds = {path.suffix.lower() for files in parts.values() for path in files}
    if len(kinds) > 1:
        raise DataError(f"'{root}' holds shards of two formats, {' and '.join(sorted(kinds))}; keep one of them")
    return parts


def _shards_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith(".")]
    for path in found:
        if kind := kind_of(path):
            log.warning("%s is left out: it is %s, no file", path, kind)
    return sorted(path for path in found if path.is_file())


def _say_unknown(top: Path, folders: list[Path]) -> None:
    if unknown := [f"'{text_of(folder.name)}'" for folder in folders if _shards_in(folder)]:
        log.warning("%s: shards in %s are left out: parts are called train, val and test", top, ", ".join(unknown))


def _hint(top: Path) -> str:
    packed = [path.name for path in sorted(top.rglob("*")) if path.name.endswith(_COMPRESSED)]
    return f"; '{packed[0]}' is compressed, which shards must not be" if packed else ""
