"""Checkpoint files: plain types and tensors, read with ``weights_only=True``, never half-written or trusted blindly.

A file is what ``torch.save`` writes, a ZIP archive, with the SHA-256 of everything before it as the archive's comment,
so that content and checksum stay together. It is written under another name, flushed to the disk and verified before
it replaces the previous checkpoint.
"""

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from dltrain.errors import CheckpointError, cause_of
from dltrain.system.files import Structure, digest, flush, kind_of, mismatch, written_whole

FORMAT = 2
_COMMENT = b"sha256:"
_COMMENT_SIZE = len(_COMMENT) + 64
_END = struct.Struct("<4s16xH")  # of a ZIP archive: its signature and, last, the length of the comment
_LENGTH = struct.Struct("<H")
_FACTS = {
    **dict.fromkeys(("name!", "task!", "kind!"), str),
    "input_shape!": [int],
    "num_outputs!": int,
    "class_names": [str],
    "feature_names": [str],
    "target_name": str,
    **dict.fromkeys(("target_mean", "target_std"), int | float),
}
_HEADER: dict[str, Structure] = {"config!": str, "run_id": str}
NETWORK: Structure = {**_HEADER, "facts!": _FACTS, "preprocessing!": dict, "model!": dict, "epoch!": int}
_TRAINER: Structure = {
    **dict.fromkeys(("epoch!", "step!", "batch!", "accumulate!"), int),
    **dict.fromkeys(("lr!", "seconds!"), int | float),
    "history!": [{str: int | float}],
    "events!": [{"event!": str}],
    **dict.fromkeys(("total!", "model!", "optimizer!", "best!", "random!"), dict),
}
STATE: Structure = {**_HEADER, "trainer!": _TRAINER, "best!": dict | None, "composed!": str}
_SHARDED: Structure = {"shards": {"folder!": str, "files!": {str: str}}}


def save(path: Path, content: dict[str, Any], make_way: Callable[[], None] | None = None) -> None:
    """Write ``content`` to ``path``, which is a whole checkpoint at any time.

    ``make_way`` is called once the new file is verified, right before it replaces the previous one.

    Raises:
        OSError: it could not be written whole; what was at ``path`` is still there.
    """
    with written_whole(path) as temporary:
        try:
            with open(temporary, "w+b") as file:
                torch.save({"format": FORMAT, **content}, file)
                _seal(file)
        except RuntimeError as error:  # of torch's archive writer, which names the position alone
            raise OSError(f"'{path}' could not be written whole, is the disk full? {cause_of(error)}") from error
        flush(temporary)
        if fault := find_fault(temporary):
            raise OSError(f"'{path}' {fault} although it was just written; is the disk failing?")
        if make_way:
            make_way()
    flush(path.parent)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The content of a checkpoint, its tensors on ``device``; runs no code of the file.

    Raises:
        CheckpointError: there is none, it is damaged, no checkpoint of dltrain's, or of another format.
    """
    if fault := find_fault(path):
        raise CheckpointError(f"'{path}' {fault}")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message says how to run the code that may be in there
        raise CheckpointError(
            f"'{path}' is no checkpoint of dltrain: it holds something else than plain types and tensors"
        ) from error
    except Exception as error:  # a hostile file can make the reader raise anything
        raise CheckpointError(f"'{path}' is no checkpoint of dltrain: {cause_of(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"'{path}' is no checkpoint of dltrain")
    if content["format"] != FORMAT:
        age = "a newer" if content["format"] > FORMAT else "an older"
        raise CheckpointError(
            f"'{path}' has format {content['format']}, of {age} dltrain; this one reads format {FORMAT}"
        )
    require(path, content, _SHARDED, "a checkpoint of dltrain's")
    names = [content["shards"]["folder"], *content["shards"]["files"]] if "shards" in content else []
    if elsewhere := [name for name in names if "/" in name or "\\" in name or name == ".."]:
        raise CheckpointError(f"'{path}' names shards that do not lie beside it: {elsewhere[0]}")
    return content


def require(path: Path, content: dict[str, Any], structure: Structure, what: str) -> None:
    """Raise :class:`CheckpointError` unless the ``content`` of ``path`` is ``what``, of this structure."""
    if fault := mismatch(content, structure):
        raise CheckpointError(f"'{path}' holds something else than {what}: {fault}")


def find_fault(path: Path) -> str:
    """What is wrong with a checkpoint file, seen without reading its content; an empty string where nothing is."""
    if kind := kind_of(path):
        return f"is {kind}, no file"
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            end = size - _COMMENT_SIZE
            file.seek(max(end - 2, 0))
            length, comment = file.read(2), file.read()
            if size == 0:
                return "is empty"
            if end <= _END.size or length != _LENGTH.pack(_COMMENT_SIZE) or not comment.startswith(_COMMENT):
                return "is cut short, or no checkpoint of dltrain"
            whole = digest(file, end - 2).encode() == comment.removeprefix(_COMMENT)
            return "" if whole else "is damaged: it does not match its checksum"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error}"


def previous(folder: Path) -> list[Path]:
    """The checkpoints before ``last.pt`` that are still there, the newest first."""
    numbers = {path: path.stem.removeprefix("last-") for path in folder.glob("last-*.pt")}
    return sorted((path for path in numbers if numbers[path].isdecimal()), key=lambda path: int(numbers[path]))


def _seal(file: BinaryIO) -> None:
    """Append the checksum of a ZIP archive to it as its comment."""
    size = file.seek(-_END.size, os.SEEK_END) + _END.size
    signature, length = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or length:
        raise OSError("torch wrote something else than a ZIP archive without a comment")
    comment = _COMMENT + digest(file, size - 2).encode()
    file.seek(size - 2)
    file.write(_LENGTH.pack(len(comment)) + comment)
