"""Descriptions of raw files by which they are recognised: a resumed run must find the files that it began with.

Times do not count, nor where the files lie, so that a copy on another machine is the same.
"""

import contextlib
import random
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_BLOCK = 1 << 20
_MEASURED = 1000  # sizes of so many files: asking for each of a million takes minutes on a network's disk
_SAMPLED = 1000  # files whose contents are looked at, all together no more than _BYTES
_BYTES = 64 << 20
_PIECE = 1 << 16
_CONTENTS = re.compile(r", contents [0-9a-f]{8}")


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
