"""From a configuration to the data and the loaders that serve them."""

import inspect
import math
from collections.abc import Collection

import torch
from hydra.errors import HydraException
from hydra.utils import get_object
from omegaconf import DictConfig

from dltrain.build.make import make_settled
from dltrain.config.nodes import FOLLOWED, WITHHELD, settled
from dltrain.data.adapted import adapted
from dltrain.data.base import Data, Facts, Fitted, Samples
from dltrain.data.loader import Loader
from dltrain.distributed.process_group import ProcessGroup
from dltrain.system.device import fits
from dltrain.system.machine import core_count

# An evaluation batch has at most so many samples, and so many values, unless the training batch has more.
_EVALUATION_BATCH = 256
_EVALUATION_VALUES = 1_000_000


def read_data(cfg: DictConfig, fitted: Fitted | None = None) -> Data:
    """Make the data set; keys about its parts that its target does not take are followed here.

    With ``fitted``, what an earlier run measured, it is prepared as that run's was, where its target can do that.
    """
    node = settled(cfg, "dataset")
    taken = _parameters(node._target_)
    withheld = [key for key in FOLLOWED if key not in taken]
    keywords = {"fitted": fitted} if fitted and "fitted" in taken else {}  # which a configuration could not hold
    made = make_settled(node, "dataset", without=(*WITHHELD["dataset"], *withheld), keywords=keywords)
    return adapted(made, str(node._target_).rpartition(".")[2], **{key: node[key] for key in FOLLOWED if key in node})


def _parameters(target: str) -> Collection[str]:
    """What a target takes of the keys that dltrain follows otherwise, and ``fitted``.

    All of it where it cannot be found: :func:`make_settled` says why.
    """
    try:
        parameters = inspect.signature(get_object(target)).parameters
    except (HydraException, ImportError, ValueError, TypeError):
        return (*FOLLOWED, "fitted")
    takes_any = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    return (*FOLLOWED, "fitted") if takes_any else parameters


def training_loader(data: Data, cfg: DictConfig, device: torch.device, process_group: ProcessGroup) -> Loader:
    samples, resident = _placed(data.train, device)
    batch_size, smallest = cfg.dataset.batch_size, 2 if cfg.trainer.sync_batchnorm else 2 * process_group.size
    transform, augment, workers = data.transform, data.augment, _workers(process_group)
    return Loader(samples, batch_size, transform, device, cfg.seed, augment, resident, workers, smallest)


def evaluation_loader(
    part: Samples, data: Data, cfg: DictConfig, device: torch.device, process_group: ProcessGroup | None = None
) -> Loader:
    """Batches of ``part`` as it lies; their size, which decides how sums are rounded, follows from ``cfg``.

    Where several processes share them, each gets its part of larger ones.
    """
    process_group = process_group or ProcessGroup()
    samples, resident = _placed(part, device)
    batch_size = evaluation_batch_size(cfg, data.facts) * process_group.size
    loader = Loader(samples, batch_size, data.transform, device, resident=resident, workers=_workers(process_group))
    loader.cut = process_group.cut if process_group.size > 1 else None
    return loader


def _workers(process_group: ProcessGroup) -> int | None:
    """Processes that read files, where the run's processes on a machine share its cores; ``None`` for all of them."""
    return max(core_count() // process_group.local_size, 1) if process_group.local_size > 1 else None


def evaluation_batch_size(cfg: DictConfig, facts: Facts) -> int:
    """Without gradients there is room for more: enough that small networks do not wait for Python."""
    room = _EVALUATION_VALUES // math.prod(facts.input_shape)
    return int(max(cfg.dataset.batch_size, min(_EVALUATION_BATCH, room)))


def _placed(samples: Samples, device: torch.device) -> tuple[Samples, bool]:
    """The samples on the device where they fit there, else as they are, and whether they fit."""
    resident = not samples.streamed and fits(samples.nbytes, device)
    return (samples.to(device) if resident else samples), resident
