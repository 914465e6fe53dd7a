"""Which files of a folder are shards, and of which part of a data set."""

from collections.abc import Sequence
from pathlib import Path

from dltrain.errors import DataError

_PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
_SUFFIXES = (".tar", ".parquet")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".tar.bz2", ".tar.zst")


def shard_files(root: str) -> dict[str, list[Path]]:
    """The shards of each part, in the order of their names.

    A part has a folder ``train/``, ``val/`` or ``test/``, or shards whose names begin with it: ``train-000000.tar``,
    ``validation-00000-of-00001.parquet``. Where none is for training all of them are.

    Raises:
        DataError: there is no such folder, it holds no shards, or shards of both formats.
    """
    top = Path(root).expanduser().resolve()
    if not top.is_dir():
        raise DataError(f"there is no folder '{root}'; dataset.root must hold shards, *.tar or *.parquet")
    loose = _shards_in(top)
    parts: dict[str, list[Path]] = {}
    for part, names in _PARTS.items():
        inside = [path for name in names for path in _shards_in(top / name)]
        found = inside or [path for path in loose if _begins_with(path.name, names)]
        if found:
            parts[part] = found
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
    found = (path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES and not path.name.startswith("."))
    return sorted(path for path in found if path.is_file())


def _begins_with(name: str, words: Sequence[str]) -> bool:
    return any(name.startswith(word) and not name[len(word)].isalnum() for word in words)


def _hint(top: Path) -> str:
    packed = [path.name for path in sorted(top.rglob("*")) if path.name.endswith(_COMPRESSED)]
    return f"; '{packed[0]}' is compressed, which shards must not be" if packed else ""
