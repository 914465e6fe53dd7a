"""Tensors that lie in shards: apart from what else a checkpoint holds, whole again, and spread over processes.

Reading runs no code of the files, as elsewhere: torch's own reader would unpickle anything.
"""

import pickle
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor, zeros

from dltrain.errors import CheckpointError
from dltrain.system.files import digest_of

_SHARD = "shard of"  # the key of what stands for a tensor that lies in shards
_METADATA = "torch.distributed.checkpoint.metadata"
_SAFE = {
    "torch": None,
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
}


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
        if digest_of(path) != files[name]:
            raise CheckpointError(f"'{path}' is damaged: it does not match its checksum")


def split(content: Any, name: str, shards: dict[str, Tensor]) -> Any:
    """``content`` with descriptions in place of tensors that lie in shards, which are added to ``shards`` by name."""
    if isinstance(content, DTensor):
        shards[name] = content.detach()
        return {_SHARD: name, "shape": list(content.shape), "dtype": content.dtype}
    if isinstance(content, Mapping):
        return {key: split(value, f"{name}/{key}", shards) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [split(value, f"{name}/{key}", shards) for key, value in enumerate(content)]
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


def spread(content: Mapping[str, Any], names: Collection[str], mesh: DeviceMesh) -> dict[str, Any]:
    """``content`` with each process's shards in place of the whole tensors that it holds of these parameters."""
    parts = dict(content)
    for key, value in content.items():
        if key in ("model", "ema"):
            parts[key] = {name: _shard(one, mesh) if name in names else one for name, one in value.items()}
        elif key == "trainer":
            parts[key] = spread(value, names, mesh)
        elif key == "optimizer":  # what it keeps of a parameter has its shape, but for counts of steps
            parts[key] = {**value, "state": {number: _sharded(one, mesh) for number, one in value["state"].items()}}
    return parts


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
