"""Checkpoints of a network that lies in shards: each process writes its own, through ``torch.distributed.checkpoint``.

``last.pt`` and ``best.pt`` hold all but the shards, in whose place they name a folder beside them and what is in it.
"""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor

from dltrain.distributed.process_group import ProcessGroup
from dltrain.runs.checkpoint import Checkpoints
from dltrain.runs.shards import joined, split, spread
from dltrain.system.files import digest_of


class ShardedCheckpoints(Checkpoints):
    """:class:`Checkpoints` of a run whose processes hold a shard each; every method is called by all of them."""

    def __init__(self, folder: Path, header: dict[str, Any], keep: int, process_group: ProcessGroup):
        super().__init__(folder, header, keep, writes=process_group.is_main)
        self.process_group = process_group

    def save_best(self, content: dict[str, Any]) -> None:
        super().save_best(self._without_shards(content, f"best-{content['epoch']}"))
        self._settle_together()

    def save_last(self, content: dict[str, Any]) -> dict[str, Any]:
        saved = super().save_last(self._without_shards(content, f"last-{content['trainer']['step']}"))
        self._settle_together()
        return saved

    def take_over_best(self, saved: dict[str, Any], folder: Path, model: nn.Module) -> None:
        if "shards" in saved and folder.resolve() == self.folder.resolve():
            self.restore_best(saved)
        else:
            self.save_best(self.tensors_of(saved, folder, model))

    def tensors_of(self, content: dict[str, Any], folder: Path, model: nn.Module) -> dict[str, Any]:
        parameter = next(model.parameters())
        assert isinstance(parameter, DTensor)
        if "shards" in content:
            return joined(content, folder, parameter.device_mesh)
        return spread(content, {name for name, _ in model.named_parameters()}, parameter.device_mesh)

    def _without_shards(self, content: dict[str, Any], name: str) -> dict[str, Any]:
        """``content`` with its shards written to the folder ``name``, which it names."""
        shards: dict[str, Tensor] = {}
        plain = split(content, "", shards)
        self.process_group.broadcast(lambda: _emptied(self.folder / name))
        save(shards, checkpoint_id=self.folder / name)
        own = {path.name: digest_of(path) for path in (self.folder / name).glob(f"__{self.process_group.rank}_*")}
        files = {file: digest for found in self.process_group.gather(own) for file, digest in found.items()}
        return {**plain, "shards": {"folder": name, "files": files}}

    def _settle_together(self) -> None:
        """Have all on the disk before a process goes on: shards that no file names yet must not look like old ones."""
        self.wait()
        self.process_group.broadcast(lambda: None)


def _emptied(folder: Path) -> None:
    """A folder of that name that an earlier process did not get to name in a checkpoint is of no use."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
