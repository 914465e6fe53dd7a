"""The checkpoints of a run as it trains: when they are due, and a thread that writes them.

Where processes hold a shard of the network each, every one writes its shards, through ``torch.distributed.checkpoint``;
``last.pt`` and ``best.pt`` then hold all but the shards, in whose place they name a folder beside them and its files.
"""

import copy
import os
import re
import shutil
import threading
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.distributed.process_group import ProcessGroup
from dltrain.errors import TrainingError
from dltrain.runs import checkpoint
from dltrain.system.files import digest_of

_PAUSE = 0.25  # seconds from one writing to the next: what SIGKILL can cost at most, where epochs are shorter still
_SHARDS = re.compile(r"(best|last)-\d+")  # folders with the shards of a checkpoint
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)


@dataclass
class Due:
    """When a checkpoint is to be written: every so many epochs, optimizer steps or minutes, any of which may be off."""

    every_n_epochs: int | None = 1
    every_n_steps: int | None = None
    every_n_minutes: float | None = None
    _saved: tuple[int, int] = (0, 0)
    _time: float = field(default_factory=time.monotonic)

    def after_step(self, step: int) -> bool:
        """Whether one is due after optimizer step ``step``, counted from 1, whatever the time."""
        return self.every_n_steps is not None and step % self.every_n_steps == 0

    def after_epoch(self, epoch: int) -> bool:
        """Whether one is due after epoch ``epoch``, counted from 1."""
        return self.every_n_epochs is not None and epoch % self.every_n_epochs == 0

    def saved(self, epoch: int, step: int) -> None:
        """Note that one was written."""
        self._saved, self._time = (epoch, step), time.monotonic()

    def has_unsaved(self, epoch: int, step: int) -> bool:
        """Whether the last one was written at another step or epoch."""
        return self._saved != (epoch, step)

    @property
    def time_is_up(self) -> bool:
        """Whether one is due because the last one is so many minutes old."""
        return self.every_n_minutes is not None and time.monotonic() - self._time >= 60 * self.every_n_minutes


class Checkpoints:
    """Keeps ``last.pt``, from which a run can go on, and ``best.pt``, the weights of the best epoch.

    ``header`` (what rebuilds the network: configuration as text, facts of the data, preprocessing) is part of both.
    ``last.pt`` also holds the content of ``best.pt``: a run that goes on needs no second file, which could be newer or
    older than its state. ``keep`` checkpoints before the last one stay, ``last-1.pt`` the newest of them.

    What is to be saved is copied at once and written by a thread, about four times a second at most; of more, the
    newest is written. The first of each file is written without delay. Without ``writes``, as in all but one of
    several processes, it is only copied.
    """

    def __init__(self, folder: Path, header: dict[str, Any], keep: int = 1, writes: bool = True):
        self.folder = folder
        self.header = _copy(header, {})
        self.keep = keep
        self.writes = writes
        self.newest_best: dict[str, Any] | None = None  # what is in best.pt once all is written
        self._pending: dict[str, dict[str, Any]] = {}  # by file name
        self._submitted: set[str] = set()  # file names
        self._writing = False
        self._lock = threading.Lock()  # around these three
        self._hurry = threading.Event()  # set where another thread waits for what is pending
        self._next = 0.0  # the earliest moment of the next writing, on the monotonic clock
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None
        self._last_is_whole = False  # known of one that this process has written

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
        """:meth:`restore_best` from a ``last.pt`` in ``folder``, whose run may have written shards."""
        self.restore_best(self.tensors_of(saved, folder, model))

    def tensors_of(self, content: dict[str, Any], folder: Path, model: nn.Module) -> dict[str, Any]:
        """The ``content`` of a checkpoint in ``folder`` with tensors that fit ``model``: whole ones, or its shards."""
        if "shards" not in content:
            return content
        from dltrain.runs.shards import load_shards  # its torch modules take long to import

        return load_shards(content, folder)

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
        # Not a daemon: a process that ends early still finishes what it has begun to write.
        self._writer = threading.Thread(target=self._write_pending, name="checkpoints", daemon=False)
        self._writer.start()

    def _write_pending(self) -> None:
        # Pickling holds the interpreter's lock, so each writing stops the training for as long as it takes.
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
                checkpoint.save(self.folder / name, {**self.header, **content}, make_way)
                self._remove_shards()
            except Exception as error:  # raised in the main thread, when it next saves or waits
                self._error = error

    def _remove_shards(self) -> None:
        """Remove the folders with shards that no checkpoint names any more; others stay."""
        if folders := [path for path in self.folder.iterdir() if path.is_dir() and _SHARDS.fullmatch(path.name)]:
            contents = [checkpoint.load(path) for path in self.folder.glob("*.pt")]
            parts = [part for content in contents for part in (content, content.get("best") or {})]
            named = {part["shards"]["folder"] for part in parts if "shards" in part}
            for folder in folders:
                if folder.name not in named:
                    shutil.rmtree(folder)

    def _keep_previous(self) -> None:
        """Keep ``last.pt``, which is about to be replaced, as ``last-1.pt``, after renaming those before it."""
        is_known, self._last_is_whole = self._last_is_whole, True
        # A run that went on from an older checkpoint, because this one is damaged, keeps the one that is not.
        if not self.keep or (not is_known and checkpoint.find_fault(self.last)):
            return
        for path in reversed(checkpoint.previous(self.folder)):
            number = int(path.stem.removeprefix("last-"))
            if number < self.keep:
                os.replace(path, self.folder / f"last-{number + 1}.pt")
        newest = self.folder / "last-1.pt"
        newest.unlink(missing_ok=True)
        try:
            os.link(self.last, newest)
        except OSError:  # a file system without hard links; a run also goes on from a file of this name
            os.replace(self.last, newest)

    def _raise_error(self) -> None:
        if self._error is not None and not isinstance(self._error, OSError):
            raise self._error
        if self._error is not None:
            raise TrainingError(
                f"the checkpoint cannot be written to '{self.folder}': {self._error}; those that are there stay as"
                " they are. Make room or mend the folder, then go on with dltrain resume"
            ) from self._error


class ShardedCheckpoints(Checkpoints):
    """:class:`Checkpoints` of a run whose processes hold a shard each; every method is called by all of them.

    torch's modules for shards take long to import, and are imported when used.
    """

    def __init__(self, folder: Path, header: dict[str, Any], keep: int, process_group: ProcessGroup):
        super().__init__(folder, header, keep, writes=process_group.is_main)
        self.process_group = process_group

    def save_best(self, content: dict[str, Any]) -> None:
        super().save_best(self._without_shards(content, f"best-{content['epoch']}"))
        self._wait_for_all()

    def save_last(self, content: dict[str, Any]) -> dict[str, Any]:
        saved = super().save_last(self._without_shards(content, f"last-{content['trainer']['step']}"))
        self._wait_for_all()
        return saved

    def take_over_best(self, saved: dict[str, Any], folder: Path, model: nn.Module) -> None:
        if "shards" in saved and folder.resolve() == self.folder.resolve():
            self.restore_best(saved)
        else:
            self.save_best(self.tensors_of(saved, folder, model))

    def tensors_of(self, content: dict[str, Any], folder: Path, model: nn.Module) -> dict[str, Any]:
        from dltrain.runs.shards import load_shards, spread

        parameter: Any = next(model.parameters())
        mesh = parameter.device_mesh
        if "shards" in content:
            return load_shards(content, folder, mesh)
        return spread(content, {name for name, _ in model.named_parameters()}, mesh)

    def _without_shards(self, content: dict[str, Any], name: str) -> dict[str, Any]:
        """``content`` with its shards written to the folder ``name``, which it names."""
        from torch.distributed.checkpoint.state_dict_saver import save

        from dltrain.runs.shards import take_shards

        folder = self.folder / name
        shards: dict[str, Tensor] = {}
        plain = take_shards(content, shards)
        self.process_group.broadcast(lambda: _make_empty(folder))
        save(shards, checkpoint_id=folder)
        digests = {path.name: digest_of(path) for path in folder.glob(f"__{self.process_group.rank}_*")}
        files = {file: digest for part in self.process_group.gather(digests) for file, digest in part.items()}
        return {**plain, "shards": {"folder": name, "files": files}}

    def _wait_for_all(self) -> None:
        """Have all on the disk before a process goes on: shards that no file names yet must not look like old ones."""
        self.wait()
        self.process_group.broadcast(lambda: None)


def _make_empty(folder: Path) -> None:
    """Make ``folder``, without what a process has left there that ended before a checkpoint named it."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


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
