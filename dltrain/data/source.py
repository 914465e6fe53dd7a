"""What tells raw files from others, in a few words: a run that goes on must find the ones that it began with.

Times do not count, nor where the files lie, so that a copy on another machine is the same.
"""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

_BLOCK = 1 << 20
_MEASURED = 1000  # sizes of so many files: asking for each of a million takes minutes on a network's disk


def describe_file(path: Path) -> str:
    """The size of a file and a checksum of its content."""
    with open(path, "rb") as file:
        return f"{path.stat().st_size:,} bytes, checksum {_checksum(iter(lambda: file.read(_BLOCK), b''))}"


def describe_folder(folder: Path, paths: Sequence[Path]) -> str:
    """The number of ``paths`` in ``folder`` and a checksum of their names and of the sizes of some of them."""
    names = (bytes(path.relative_to(folder)) + b"\0" for path in paths)
    measured = paths[:: max(len(paths) // _MEASURED, 1)]
    sizes = (str(path.stat().st_size).encode() + b"\0" for path in measured)
    return f"{len(paths):,} files, checksum {_checksum([*names, *sizes])}"


def _checksum(blocks: Iterable[bytes]) -> str:
    checksum = 0
    for block in blocks:
        checksum = zlib.crc32(block, checksum)
    return f"{checksum:08x}"
