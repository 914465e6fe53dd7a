"""Tensors of a checkpoint that are written as shards: taken out of its content, loaded, and spread over processes.

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


def load_shards(content: dict[str, Any], folder: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """``content`` of a checkpoint in ``folder`` with its tensors: each process's shards of them on ``mesh``, or whole.

    The content of ``best.pt`` in it, whose shards lie in another folder, is left out.

    Raises:
        CheckpointError: shards are missing or damaged.
    """
    shards = folder / content["shards"]["folder"]
    try:
        _verify(shards, content["shards"]["files"], mesh)
        tensors: dict[str, Tensor] = {}
        kept = {key: value for key, value in content.items() if key not in ("shards", "best")}
        loaded: dict[str, Any] = _with_empty_tensors(kept, tensors, mesh)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is intended
            load(tensors, storage_reader=_Reader(shards), no_dist=mesh is None)
    except CheckpointError:
        raise
    except (Exception, CheckpointException) as error:  # a hostile file can make the reader raise anything
        raise CheckpointError(f"the shards in '{shards}' cannot be read: {error}") from error
    return loaded


def _verify(folder: Path, files: Mapping[str, str], mesh: DeviceMesh | None) -> None:
    """Compare the checksums of all files, or in each process on ``mesh`` of some."""
    first, step = (mesh.get_local_rank(), mesh.size()) if mesh else (0, 1)
    for name in sorted(files)[first::step]:
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"'{path}' is missing: it holds a part of the network's weights")
        if digest_of(path) != files[name]:
            raise CheckpointError(f"'{path}' is damaged: it does not match its checksum")


def take_shards(content: Any, shards: dict[str, Tensor], name: str = "") -> Any:
    """``content`` with descriptions in place of sharded tensors, which are added to ``shards`` by name."""
    if isinstance(content, DTensor):
        shards[name] = content.detach()
        return {_SHARD: name, "shape": list(content.shape), "dtype": content.dtype}
    if isinstance(content, Mapping):
        return {key: take_shards(value, shards, f"{name}/{key}") for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [take_shards(value, shards, f"{name}/{key}") for key, value in enumerate(content)]
    return content


def _with_empty_tensors(content: Any, tensors: dict[str, Tensor], mesh: DeviceMesh | None) -> Any:
    """``content`` with empty tensors in place of descriptions; they are added to ``tensors`` by name."""
    if isinstance(content, Mapping) and _SHARD in content:
        shape, dtype = content["shape"], content["dtype"]
        return tensors.setdefault(content[_SHARD], _empty(shape, dtype, mesh))
    if isinstance(content, Mapping):
        return {key: _with_empty_tensors(value, tensors, mesh) for key, value in content.items()}
    if isinstance(content, list):
        return [_with_empty_tensors(value, tensors, mesh) for value in content]
    return content


def spread(content: Mapping[str, Any], names: Collection[str], mesh: DeviceMesh) -> dict[str, Any]:
    """``content`` with this process's shards in place of the whole tensors of the parameters called ``names``."""
    parts = dict(content)
    for key, value in content.items():
        if key in ("model", "ema"):
            parts[key] = {name: _shard(tensor, mesh) if name in names else tensor for name, tensor in value.items()}
        elif key == "trainer":
            parts[key] = spread(value, names, mesh)
        elif key == "optimizer":
            states = {number: _spread_state(state, mesh) for number, state in value["state"].items()}
            parts[key] = {**value, "state": states}
    return parts


def _spread_state(state: Mapping[str, Any], mesh: DeviceMesh) -> dict[str, Any]:
    """What an optimizer keeps of a parameter has its shape, but for counts of steps."""
    return {
        name: _shard(value, mesh) if isinstance(value, Tensor) and value.dim() > 0 else value
        for name, value in state.items()
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
        kind = super().find_class(module, name) if module in (*_SAFE, _METADATA) and "." not in name else None
        is_data = module == _METADATA and isinstance(kind, type) and kind.__module__ == _METADATA
        is_plain = module == "torch" and (isinstance(kind, torch.dtype) or kind is torch.Size)
        if is_data or is_plain or name in (_SAFE.get(module) or ()):
            return kind
        raise pickle.UnpicklingError(f"it holds a {module}.{name}")
