"""Checkpoint files: plain types and tensors, read with ``weights_only=True``, never half-written or trusted blindly.

A file is what ``torch.save`` writes, a ZIP archive, with the SHA-256 of all before it as the archive's comment: one
file, so that content and checksum cannot part. It is written under another name, flushed to the disk and verified
before it takes its place, and the checkpoint before it stays until then.
"""

import copy
import os
import pickle
import re
import shutil
import struct
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.errors import CheckpointError, TrainingError
from dltrain.system.files import digest, flush, kind_of, written_whole
from dltrain.system.structure import Structure, mismatch

FORMAT = 2
_COMMENT = b"sha256:"
_COMMENT_SIZE = len(_COMMENT) + 64
_END = struct.Struct("<4s16xH")  # of a ZIP archive: its signature and, last, the length of the comment
_LENGTH = struct.Struct("<H")
_PAUSE = 0.25  # seconds from one writing to the next: what SIGKILL can cost at most, where epochs are shorter still
_SHARDS = re.compile(r"(best|last)-\d+")  # folders with the shards of a checkpoint
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
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


def save(path: Path, content: dict[str, Any], make_way: Callable[[], None] | None = None) -> None:
    """Write ``content`` to ``path``, which is a whole checkpoint at any time.

    ``make_way`` is called once the new file is verified, right before it takes the place of the one before it.

    Raises:
        OSError: it could not be written whole; what was at ``path`` is still there.
    """
    with written_whole(path) as temporary:
        try:
            with open(temporary, "w+b") as file:
                torch.save({"format": FORMAT, **content}, file)
                _seal(file)
        except RuntimeError as error:  # torch's archive writer says no more than at which position it did not get on
            raise OSError(f"'{path}' could not be written whole, is the disk full? {_first_line(error)}") from error
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
    except pickle.UnpicklingError as error:  # torch's own message says how to run the code that may be in there
        raise CheckpointError(
            f"'{path}' is no checkpoint of dltrain: it holds something else than plain types and tensors"
        ) from error
    except Exception as error:  # a hostile file can make the reader raise anything
        raise CheckpointError(f"'{path}' is no checkpoint of dltrain: {_first_line(error)}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise CheckpointError(f"'{path}' is no checkpoint of dltrain")
    if content["format"] != FORMAT:
        age = "a newer" if content["format"] > FORMAT else "an older"
        raise CheckpointError(
            f"'{path}' has format {content['format']}, of {age} dltrain; this one reads format {FORMAT}"
        )
    require(path, content, _SHARDED, "a checkpoint of dltrain's")
    names = [content["shards"]["folder"], *content["shards"]["files"]] if "shards" in content else []
    if led_away := [name for name in names if "/" in name or "\\" in name or name == ".."]:
        raise CheckpointError(f"'{path}' names shards that do not lie beside it: {led_away[0]}")
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
    found = [path for path in folder.glob("last-*.pt") if path.stem.removeprefix("last-").isdecimal()]
    return sorted(found, key=lambda path: int(path.stem.removeprefix("last-")))


@dataclass
class Due:
    """When a checkpoint is to be written: every so many epochs, optimizer steps or minutes, any of which may be off."""

    every_n_epochs: int | None = 1
    every_n_steps: int | None = None
    every_n_minutes: float | None = None
    _saved: tuple[int, int] = (0, 0)
    _time: float = field(default_factory=time.monotonic)

    def after_step(self, step: int) -> bool:
        """Whether one is due behind optimizer step ``step``, from 1, whatever the time."""
        return self.every_n_steps is not None and step % self.every_n_steps == 0

    def after_epoch(self, epoch: int) -> bool:
        """Whether one is due behind epoch ``epoch``, from 1."""
        return self.every_n_epochs is not None and epoch % self.every_n_epochs == 0

    def saved(self, epoch: int, step: int) -> None:
        """Note that one was written."""
        self._saved, self._time = (epoch, step), time.monotonic()

    def is_behind(self, epoch: int, step: int) -> bool:
        """Whether there is something that the last one does not hold."""
        return self._saved != (epoch, step)

    @property
    def time_is_up(self) -> bool:
        """Whether one is due because the last one is so many minutes old."""
        return self.every_n_minutes is not None and time.monotonic() - self._time >= 60 * self.every_n_minutes


class Checkpoints:
    """Keeps ``last.pt``, from which a run can go on, and ``best.pt``, the weights of the best epoch.

    ``header`` (what rebuilds the network: configuration as text, facts of the data, preprocessing) is part of both.
    ``last.pt`` holds what is in ``best.pt`` as well, so that a run needs no second file to go on, least of all one
    that is newer or older than its state. ``keep`` checkpoints before the last one stay, ``last-1.pt`` the newest of
    them. What is to be saved is copied at once and written by a thread, about four times a second at most; where it
    comes faster, all but the newest are left out; the first of each file is written without delay. Without ``writes``,
    in all but one of several processes, what is to be saved is copied alone.
    """

    def __init__(self, folder: Path, header: dict[str, Any], keep: int = 1, writes: bool = True):
        self.folder = folder
        self.header = _copy(header, {})
        self.keep = keep
        self.writes = writes
        self._pending: dict[str, dict[str, Any]] = {}  # by file name
        self._submitted: set[str] = set()  # file names
        self._writing = False
        self._lock = threading.Lock()  # around these three
        self._hurry = threading.Event()  # somebody waits for what is pending
        self._next = 0.0  # the earliest moment of the next writing, on the monotonic clock
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        self._last_is_whole = False  # known of one that this process has written
        self.newest_best: dict[str, Any] | None = None  # what is in best.pt once all is written

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def save_best(self, content: dict[str, Any]) -> None:
        """Copy ``content`` and have it written to ``best.pt``."""
        self._raise_error()
        self.newest_best = _copy(content, {})
        self._submit("best.pt", self.newest_best)

    def save_last(self, content: dict[str, Any]) -> dict[str, Any]:
        """Copy ``content`` and have it written to ``last.pt``; returns the copy."""
        self._raise_error()
        copied: dict[str, Any] = _copy(content, {})
        self._submit("last.pt", {**copied, "best": self.newest_best})
        return copied

    def restore_best(self, saved: dict[str, Any] | None) -> None:
        """Write ``best.pt`` as it was when the ``last.pt`` with the content ``saved`` was written."""
        self.newest_best = saved
        if saved is not None:
            self._submit("best.pt", saved)

    def take_over_best(self, saved: dict[str, Any], folder: Path, model: nn.Module) -> None:
        """:meth:`restore_best` from a ``last.pt`` in ``folder``, which may be that of a run which keeps shards."""
        self.restore_best(self.tensors_of(saved, folder, model))

    def tensors_of(self, content: dict[str, Any], folder: Path, model: nn.Module) -> dict[str, Any]:
        """The ``content`` of a checkpoint in ``folder`` with the tensors that a network such as ``model`` can take."""
        if "shards" not in content:
            return content
        from dltrain.runs.shards import joined  # its torch modules take long to import

        return joined(content, folder)

    def wait(self) -> None:
        """Come back once all is on the disk.

        Raises:
            TrainingError: something could not be written.
        """
        self.settle()
        self._raise_error()

    def settle(self) -> None:
        """Come back once nothing is being written any more."""
        if self._writer is not None:
            self._hurry.set()
            self._writer.join()
            self._hurry.clear()

    def _submit(self, name: str, content: dict[str, Any]) -> None:
        if not self.writes:
            return
        with self._lock:
            self._pending[name] = content
            if name not in self._submitted:  # without a first last.pt there is nothing to go on from
                self._submitted.add(name)
                self._hurry.set()
            if self._writing:
                return
            self._writing = True
        # No daemon: a process that ends early still finishes what it has begun to write.
        self._writer = threading.Thread(target=self._write_pending, name="checkpoints", daemon=False)
        self._writer.start()

    def _write_pending(self) -> None:
        # Pickling holds the interpreter's lock, so each writing costs the training its own length in time.
        self._hurry.wait(max(0.0, self._next - time.monotonic()))
        self._hurry.clear()
        while True:
            with self._lock:
                name = next(iter(self._pending), None)
                if name is None or self._error is not None:
                    self._writing = False
                    self._next = time.monotonic() + _PAUSE
                    return
                content = self._pending.pop(name)
            try:
                make_way = self._keep_previous if name == "last.pt" else None
                save(self.folder / name, {**self.header, **content}, make_way)
                self._remove_shards()
            except Exception as error:  # raised where the trainer next looks, for this thread has nobody to tell
                self._error = error

    def _remove_shards(self) -> None:
        """Remove the folders with shards that no checkpoint names any more."""
        # Folders of other names are not ours.
        if folders := [path for path in self.folder.iterdir() if path.is_dir() and _SHARDS.fullmatch(path.name)]:
            contents = [load(path) for path in self.folder.glob("*.pt")]
            parts = [part for content in contents for part in (content, content.get("best") or {})]
            named = {part["shards"]["folder"] for part in parts if "shards" in part}
            for folder in folders:
                if folder.name not in named:
                    shutil.rmtree(folder)

    def _keep_previous(self) -> None:
        """Give ``last.pt``, which is about to be replaced, a second name behind those before it."""
        is_known, self._last_is_whole = self._last_is_whole, True
        # A run that went on from an older checkpoint, because this one is damaged, keeps the one that is not.
        if not self.keep or (not is_known and find_fault(self.last)):
            return
        for path in reversed(previous(self.folder)):
            number = int(path.stem.removeprefix("last-"))
            if number < self.keep:
                os.replace(path, self.folder / f"last-{number + 1}.pt")
        newest = self.folder / "last-1.pt"
        newest.unlink(missing_ok=True)
        try:
            os.link(self.last, newest)
        except OSError:  # a file system without hard links; find_resumable looks for it under this name as well
            os.replace(self.last, newest)

    def _raise_error(self) -> None:
        if self._error is not None and not isinstance(self._error, OSError):
            raise self._error
        if self._error is not None:
            raise TrainingError(
                f"the checkpoint cannot be written to '{self.folder}': {self._error}; those that are there stay as"
                " they are. Make room or mend the folder, then go on with dltrain resume"
            ) from self._error


def _seal(file: BinaryIO) -> None:
    """Append the checksum of a ZIP archive to it as its comment."""
    size = file.seek(-_END.size, os.SEEK_END) + _END.size
    signature, length = _END.unpack(file.read(_END.size))
    if signature != b"PK\5\6" or length:
        raise OSError("torch wrote something else than a ZIP archive without a comment")
    comment = _COMMENT + digest(file, size - 2).encode()
    file.seek(size - 2)
    file.write(_LENGTH.pack(len(comment)) + comment)


def _copy(content: Any, known: dict[tuple[Any, ...], Tensor]) -> Any:
    """``content`` as plain types, with tensors copied to the CPU; what shared memory (``known``) still does.

    Raises:
        TrainingError: something that could be written, but not be read again without running code.
    """
    if isinstance(content, Tensor):
        key = (content.data_ptr(), content.dtype, content.shape, content.stride())
        if not content.numel() or key not in known:
            known[key] = content.detach().to("cpu", copy=True)
        return known[key]
    if isinstance(content, dict):
        # A state_dict carries the versions of its modules along as an attribute.
        copied = copy.copy(content) if type(content) in (OrderedDict, Counter) else dict(content)
        for name, value in content.items():
            copied[name] = _copy(value, known)
        return copied
    if isinstance(content, list | tuple):
        parts = [_copy(value, known) for value in content]
        return parts if isinstance(content, list) else tuple(parts)
    if isinstance(content, np.generic | np.ndarray):
        return content.item() if isinstance(content, np.generic) else torch.from_numpy(content.copy())
    if type(content) not in _PLAIN:
        kind = f"{type(content).__module__}.{type(content).__qualname__}"
        raise TrainingError(
            f"the state of a part of this run holds a {kind}; a checkpoint takes plain types and tensors"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
