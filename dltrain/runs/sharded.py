"""Checkpoints of a network that lies in shards: each process writes its own, through ``torch.distributed.checkpoint``.

``last.pt`` and ``best.pt`` hold all but the shards, in whose place they name a folder beside them and what is in it.
Reading runs no code of the files, as elsewhere: torch's own reader would unpickle anything.
"""

import pickle
import shutil
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, zeros

from dltrain.distributed.world import World
from dltrain.errors import CheckpointError
from dltrain.runs import checkpoint
from dltrain.runs.checkpoint import Checkpoints

_SHARD = "shard of"  # the key of what stands for a tensor that lies in shards
_METADATA = "torch.distributed.checkpoint.metadata"
_SAFE = {
    "torch": None,
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}


class ShardedCheckpoints(Checkpoints):
    """:class:`Checkpoints` of a run whose processes hold a shard each; every method is called by all of them."""

    def __init__(self, folder: Path, header: dict[str, Any], keep: int, world: World):
        super().__init__(folder, header, keep, writes=world.is_main)
        self.world = world

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
        return _spread(content, {name for name, _ in model.named_parameters()}, parameter.device_mesh)

    def _without_shards(self, content: dict[str, Any], name: str) -> dict[str, Any]:
        """``content`` with its shards written to the folder ``name``, which it names."""
        shards: dict[str, Tensor] = {}
        plain = _split(content, "", shards)
        self.world.share(lambda: _emptied(self.folder / name))
        save(shards, checkpoint_id=self.folder / name)
        own = {path.name: checkpoint.digest_of(path) for path in (self.folder / name).glob(f"__{self.world.rank}_*")}
        files = {file: digest for found in self.world.gather(own) for file, digest in found.items()}
        return {**plain, "shards": {"folder": name, "files": files}}

    def _settle_together(self) -> None:
        """Have all on the disk before a process goes on: shards that no file names yet must not look like old ones."""
        self.wait()
        self.world.share(lambda: None)


def joined(content: dict[str, Any], folder: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """``content`` of a checkpoint in ``folder`` with its tensors: each process's shards of them on ``mesh``, or whole.

    What it holds of ``best.pt``, whose shards lie elsewhere, is left out.

    Raises:
        CheckpointError: shards are missing or damaged.
    """
    place = folder / content["shards"]["folder"]
    try:
        _verify(place, content["shards"]["files"], mesh)
        names: dict[str, Tensor] = {}
        own = {key: value for key, value in content.items() if key not in ("shards", "best")}
        plain = _prepared(own, names, mesh)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is meant
            load(names, storage_reader=_Reader(place), no_dist=mesh is None)
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # a hostile file can make the reader raise anything
        raise CheckpointError(f"the shards in '{place}' cannot be read: {error}") from error
    filled: dict[str, Any] = plain
    return filled


def _verify(place: Path, files: Mapping[str, str], mesh: DeviceMesh | None) -> None:
    """Compare checksums: all of them, or each process some."""
    first, step = (mesh.get_local_rank(), mesh.size()) if mesh else (0, 1)
    for name in sorted(files)[first::step]:
        path = place / name
        if not path.is_file():
            raise CheckpointError(f"'{path}' is missing: it holds a part of the network's weights")
        if checkpoint.digest_of(path) != files[name]:
            raise CheckpointError(f"'{path}' is damaged: it does not match its checksum")


def _split(content: Any, name: str, shards: dict[str, Tensor]) -> Any:
    """``content`` with descriptions in place of tensors that lie in shards, which are added to ``shards`` by name."""
    if isinstance(content, DTensor):
        shards[name] = content.detach()
        return {_SHARD: name, "shape": list(content.shape), "dtype": content.dtype}
    if isinstance(content, Mapping):
        return {key: _split(value, f"{name}/{key}", shards) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_split(value, f"{name}/{key}", shards) for key, value in enumerate(content)]
    return content


def _prepared(content: Any, tensors: dict[str, Tensor], mesh: DeviceMesh | None) -> Any:
    """``content`` with empty tensors in place of descriptions; they are added to ``tensors`` by name."""
    if isinstance(content, Mapping) and _SHARD in content:
        shape, dtype = content["shape"], content["dtype"]
        return tensors.setdefault(content[_SHARD], _empty(shape, dtype, mesh))
    if isinstance(content, Mapping):
        return {key: _prepared(value, tensors, mesh) for key, value in content.items()}
    if isinstance(content, list):
        return [_prepared(value, tensors, mesh) for value in content]
    return content


def _spread(content: Mapping[str, Any], names: Collection[str], mesh: DeviceMesh) -> dict[str, Any]:
    """``content`` with each process's shards in place of the whole tensors that it holds of these parameters."""
    spread = dict(content)
    for key, value in content.items():
        if key in ("model", "ema"):
            spread[key] = {name: _shard(one, mesh) if name in names else one for name, one in value.items()}
        elif key == "trainer":
            spread[key] = _spread(value, names, mesh)
        elif key == "optimizer":  # what it keeps of a parameter has its shape, but for counts of steps
            spread[key] = {**value, "state": {number: _sharded(one, mesh) for number, one in value["state"].items()}}
    return spread


def _sharded(state: Mapping[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    return {
        name: _shard(one, mesh) if isinstance(one, Tensor) and one.dim() > 0 else one for name, one in state.items()
    }


def _shard(tensor: Tensor, mesh: DeviceMesh) -> Tensor:
    return distribute_tensor(tensor.to(mesh.device_type).contiguous(), mesh, [Shard(0)], src_data_rank=None)


def _empty(shape: Sequence[int], dtype: torch.dtype, mesh: DeviceMesh | None) -> Tensor:
    if mesh is None:
        return torch.zeros(*shape, dtype=dtype)
    return zeros(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])


def _emptied(folder: Path) -> None:
    """A folder of that name that an earlier process did not get to name in a checkpoint is of no use."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


class _Reader(FileSystemReader):
    """torch's reader, with a list of the classes that its table of contents may hold."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
        with open(Path(self.path) / ".metadata", "rb") as file:
            metadata = _Unpickler(file).load()
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name) if module in (*_SAFE, _METADATA) and "." not in name else None
        is_data = module == _METADATA and isinstance(found, type) and found.__module__ == _METADATA
        is_plain = module == "torch" and (isinstance(found, torch.dtype) or found is torch.Size)
        if is_data or is_plain or name in (_SAFE.get(module) or ()):
            return found
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")
