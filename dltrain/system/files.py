"""Writing files so that they are whole at any time, and telling files from folders, pipes and devices.

What a file that was read must hold, as another program may have written it, is plain types at named places.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from secrets import token_hex
from types import NoneType
from typing import Any, BinaryIO

_BLOCK = 1 << 20  # bytes read at a time
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: str | Path) -> str:
    """``a folder``, ``a pipe``, ...: what is at ``path`` if it is no file; empty for a file, and where there is none.

    Opening a pipe waits until something writes to it, perhaps for ever; a device may have no end.
    """
    try:
        return _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "")
    except (OSError, ValueError):  # ValueError: a name that no file can have
        return ""


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which is renamed to ``path`` at the end, or removed after an error.

    Its name is unique, so that of two processes that write the same file each writes a whole file, and the later stays.

    Raises:
        OSError: there is something else than a file at ``path``, or the file cannot be put there.
    """
    if kind := kind_of(path):  # must not be replaced: out=/dev/null
        raise OSError(errno.EEXIST, f"there is {kind} of this name", str(path))
    temporary = path.with_name(f"{path.name}.{token_hex(4)}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written to holds none
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a small file, whole at any time."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; a number that is not finite becomes null, as JSON has none."""
    write_text(path, json.dumps(finite(content), indent=2) + "\n")


def finite(content: Any) -> Any:
    """``content`` with NaN and infinities, at any depth, as ``None``."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def remove_unfinished(folder: Path) -> None:
    """Remove temporary files that killed processes have left in ``folder``, to which no process writes now."""
    for path in folder.glob(f"*.{'[0-9a-f]' * 8}.tmp"):
        path.unlink(missing_ok=True)


def digest_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with open(path, "rb") as file:
        return digest(file, path.stat().st_size)


def digest(file: BinaryIO, size: int) -> str:
    """SHA-256 in hexadecimal of the first ``size`` bytes of ``file``."""
    file.seek(0)
    computed = hashlib.sha256()
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        computed.update(block)
        size -= len(block)
    return computed.hexdigest()


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a power failure."""
    is_folder = path.is_dir()
    if is_folder and os.name != "posix":  # Windows flushes no folders
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A type; a list with the structure of each item; or a dict: of names, which are needed where they end in "!", or of
# ``str``, which stands for any name.
Structure = Any

_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "a mapping",
    list: "a list",
    bool: "true or false",
    NoneType: "null",
}


def mismatch(value: Any, structure: Structure, name: str = "it") -> str:
    """Say where ``value`` is not of the structure; empty where it is."""
    if isinstance(structure, list):
        if not isinstance(value, list | tuple):
            return f"{name} must be a list"
        return _first_of(mismatch(item, structure[0], f"{name}[{place}]") for place, item in enumerate(value))
    if isinstance(structure, dict):
        if not isinstance(value, Mapping):
            return f"{name} must be a mapping"
        return _first_of(_of_mapping(value, structure, "" if name == "it" else f"{name}."))
    kinds = getattr(structure, "__args__", (structure,))
    if isinstance(value, structure) and (not isinstance(value, bool) or bool in kinds or object in kinds):
        return ""
    return f"{name} must be {' or '.join(_WORDS.get(kind, kind.__name__) for kind in kinds)}"


def _of_mapping(value: Mapping[Any, Any], structure: dict[Any, Structure], outer: str) -> Iterator[str]:
    for key, inner in structure.items():
        if key is str:
            yield from (mismatch(name, str, f"the name {outer}{name}") for name in value)
            yield from (mismatch(item, inner, f"{outer}{name}") for name, item in value.items())
            continue
        name = key.removesuffix("!")
        if name in value:
            yield mismatch(value[name], inner, f"{outer}{name}")
        elif key != name:
            yield f"{outer}{name} is missing"


def _first_of(texts: Iterable[str]) -> str:
    return next(filter(None, texts), "")


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as ``optim.lr``."""
    by_name: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        by_name |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return by_name
