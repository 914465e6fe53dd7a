"""Decoded images and indices of shards on disk: made once, then mapped into memory by every run that needs them."""

import contextlib
import hashlib
import json
import logging
import math
import mmap
import os
import re
import shutil
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dltrain.errors import UserError
from dltrain.system.files import flush, write_text, written_whole
from dltrain.system.machine import Lock

log = logging.getLogger(__name__)

_FORMAT = 1  # raised when the same files would be decoded to other pixels
_GIB = 1024**3
_DEFAULT_LIMIT = 50 * _GIB
_SHARE_OF_DISK = 0.5  # of what is free or already taken by the cache
# Other files in the folder are left alone.
_OURS = re.compile(r"[0-9a-f]{32}((\.npy|\.json)?\.[0-9a-f]+)?\.(npy|json|lock|tmp)")
_BLOCK = 1 << 22  # bytes of a file that are read at once
_STALE_SECONDS = 24 * 3600  # after which an unfinished file must be of a process that was killed


@dataclass(frozen=True)
class Entry:
    """A cached array: ``source`` is the folder that it was decoded from, ``used`` the time of its last use."""

    path: Path
    source: str
    shape: tuple[int, ...]
    nbytes: int
    used: float


def cache_folder() -> Path:
    """The folder of the cache: ``$DLTRAIN_CACHE``, or ``dltrain`` in the user's cache folder."""
    if named := os.environ.get("DLTRAIN_CACHE"):
        return Path(os.path.expanduser(named))
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dltrain"


def cache_limit() -> int:
    """Bytes that the cache may take: ``$DLTRAIN_CACHE_GB``, or 50 GiB, and at most half of the disk's free space."""
    named = os.environ.get("DLTRAIN_CACHE_GB")
    try:
        limit = float(named) * _GIB if named else _DEFAULT_LIMIT
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UserError(f"DLTRAIN_CACHE_GB='{named}' must be a number of GiB, such as 20, or inf for no bound")
    taken = sum(entry.nbytes for entry in entries())
    with contextlib.suppress(OSError):
        limit = min(limit, (shutil.disk_usage(_existing(cache_folder())).free + taken) * _SHARE_OF_DISK)
    return int(min(limit, sys.maxsize))


def key_of(files: Sequence[Path], decoding: Sequence[object]) -> str:
    """A key for decoded ``files``: it changes with their names, sizes and times, and with the ``decoding``."""
    digest = hashlib.sha256(f"{_FORMAT} {tuple(decoding)}".encode())
    for file in files:
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def cached(key: str, shape: tuple[int, ...], source: str, fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """The uint8 array ``key`` of ``shape``, mapped from the cache; if it is not there, ``fill`` writes it first.

    Another process that needs the same array waits meanwhile. An array that was not finished, or no longer matches its
    checksum, is never returned.

    Raises:
        OSError: the cache cannot be written, or the disk is full; the errors of ``fill`` pass through.
    """

    def write(temporary: Path) -> dict[str, Any]:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        with open(temporary, "r+b") as file:
            if hasattr(os, "posix_fallocate"):  # a full disk is an error here, and would be a crash in mapped memory
                os.posix_fallocate(file.fileno(), 0, os.path.getsize(temporary))
            fill(array)
            array.flush()
        return {"source": source, "shape": shape}

    # Private copies of pages that are written to: a mapped tensor can never change the cache.
    return _mapped(key, "c", write, int(np.prod(shape)))[0]


def cached_rows(
    key: str, columns: int, source: str, rows: Callable[[dict[str, Any]], Iterable[np.ndarray]]
) -> tuple[np.ndarray, dict[str, Any]]:
    """The int64 array ``key`` (n, columns), mapped from the cache, and facts about it.

    If it is not there, ``rows`` yields it block by block, so that it is never in memory as a whole, and adds facts, of
    plain types, to the mapping that it is called with.

    Raises:
        OSError: the cache cannot be written, or the disk is full; the errors of ``rows`` pass through.
    """

    def write(temporary: Path) -> dict[str, Any]:
        about: dict[str, Any] = {"source": source}
        count = 0
        with open(temporary, "wb") as file:
            _write_header(file, (0, columns))
            for block in rows(about):
                file.write(np.ascontiguousarray(block, "<i8").tobytes())
                count += len(block)
            file.seek(0)  # NumPy's headers have room for a length that grows
            _write_header(file, (count, columns))
        return {**about, "shape": (count, columns)}

    # Read-only, so that the system may drop its pages at any time, and they do not count as memory of this process.
    return _mapped(key, "r", write)


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})


def _mapped(
    key: str, mode: Literal["c", "r"], write: Callable[[Path], Mapping[str, Any]], nbytes: int = 0
) -> tuple[np.ndarray, dict[str, Any]]:
    """The array ``key`` and facts about it; if it is not there, ``write`` writes it to a file first."""
    path = cache_folder() / f"{key}.npy"
    if entry := _open(path, mode):
        return entry
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(path.with_suffix(".lock")):
        if entry := _open(path, mode):  # made by the process that held the lock before
            return entry
        if path.exists():
            log.warning("%s is made again: it does not match its checksum, or has none", path)
        _make_room(nbytes)
        with written_whole(path) as temporary:
            about = write(temporary)
            flush(temporary)
            write_text(path.with_suffix(".json"), json.dumps({**about, "checksum": _checksum(temporary, about)}))
    if entry := _open(path, mode):
        return entry
    raise OSError(f"{path} was removed as soon as it was written")


def entries() -> list[Entry]:
    """The arrays in the cache, the longest unused first."""
    cached_arrays = []
    for path in cache_folder().glob("*.npy"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # removed by another process, or damaged
            about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            status = path.stat()
            cached_arrays.append(Entry(path, about["source"], tuple(about["shape"]), status.st_size, status.st_mtime))
    return sorted(cached_arrays, key=lambda entry: entry.used)


def clear() -> int:
    """Empty the cache; returns the bytes freed. Runs that use it now keep the arrays that they have mapped."""
    freed = 0
    for path in cache_folder().glob("*"):
        if _OURS.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
                path.unlink()
    return freed


def shared_array(shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 array of zeros in memory that forked processes share."""
    return np.frombuffer(mmap.mmap(-1, max(int(np.prod(shape)), 1)), np.uint8, int(np.prod(shape))).reshape(shape)


def read_ahead(array: np.ndarray) -> None:
    """Have the system read a mapped array into memory now, at full speed, instead of page by page."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_WILLNEED"):
        mapped.madvise(mmap.MADV_WILLNEED)


def _open(path: Path, mode: Literal["c", "r"]) -> tuple[np.ndarray, dict[str, Any]] | None:
    """The array in ``path``, mapped, and the facts about it; ``None`` unless both match their checksum."""
    try:
        about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if not isinstance(about, dict) or about.pop("checksum", None) != _checksum(path, about):
            return None
        array: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (OSError, ValueError):  # not there, or damaged
        return None
    with contextlib.suppress(OSError):  # the folder may be another user's
        os.utime(path)
    return array, about


def _checksum(path: Path, about: Mapping[str, Any]) -> int:
    """CRC-32 of a file and of the facts about it, at 3 GB a second: far faster than any network trains on it."""
    checksum = zlib.crc32(json.dumps(about).encode())
    block = bytearray(_BLOCK)
    with open(path, "rb", buffering=0) as file:
        while size := file.readinto(block):
            checksum = zlib.crc32(memoryview(block)[:size], checksum)
    return checksum


def _make_room(nbytes: int) -> None:
    """Remove the arrays that were not used for the longest time until ``nbytes`` more are within the limit."""
    now = time.time()
    for unfinished in cache_folder().glob("*.tmp"):
        with contextlib.suppress(OSError):
            if _OURS.fullmatch(unfinished.name) and now - unfinished.stat().st_mtime > _STALE_SECONDS:
                unfinished.unlink()
    limit = cache_limit()
    if nbytes > limit:
        raise OSError(f"{nbytes / _GIB:.1f} GiB are more than the cache may take ({limit / _GIB:.1f} GiB)")
    present = entries()
    excess = sum(entry.nbytes for entry in present) + nbytes - limit
    for entry in present:
        if excess <= 0:
            return
        entry.path.unlink(missing_ok=True)
        entry.path.with_suffix(".json").unlink(missing_ok=True)
        excess -= entry.nbytes


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file ``path``; on systems without locks two processes may both decode."""
    lock = Lock(path, is_file=True)
    lock.wait(instead="DLTRAIN_CACHE=FOLDER in front of the command takes another cache and does not wait")
    try:
        if lock.is_held:  # so a process that has left an unfinished file was killed
            for unfinished in path.parent.glob(f"{path.stem}.*.tmp"):
                unfinished.unlink(missing_ok=True)
        yield
    finally:
        lock.release()


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder
