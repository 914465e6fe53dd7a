"""A node of the configuration to the object that it names; the data, and the loaders that serve them."""

import inspect
import math
import re
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from dltrain.config.arguments import takes_tensor
from dltrain.config.nodes import FOLLOWED, WITHHELD, settled
from dltrain.config.source import READ
from dltrain.config.targets import PLACES, find, is_scheduler, signature_of, trust_at
from dltrain.data.adapted import adapted
from dltrain.data.base import Data, Facts, Fitted, Samples
from dltrain.data.loader import Loader
from dltrain.distributed.process_group import ProcessGroup
from dltrain.errors import ConfigError, DltrainError
from dltrain.system.device import fits
from dltrain.system.machine import core_count

_TOO_LARGE = re.compile(r"Storage size calculation overflowed|can't allocate memory|out of memory", re.IGNORECASE)
_NONE: Mapping[str, Any] = MappingProxyType({})
_FLOAT = {"_target_": "hydra.utils.get_object", "path": "torch.float32"}


def make(cfg: DictConfig, key: str, *args: Any, **options: Any) -> Any:
    """Make the node ``key`` once it is settled; see :func:`make_settled`.

    Raises:
        ConfigError: a key has a value that it cannot have, or a ``_target_`` may not stand where it stands.
    """
    return make_settled(settled(cfg, key), key, *args, **options)


def make_settled(
    node: DictConfig,
    key: str,
    *args: Any,
    without: Sequence[str] = (),
    keywords: Mapping[str, Any] = _NONE,
    device: torch.device | None = None,
) -> Any:
    """Call the ``_target_`` of the settled ``node`` with its keys, but for those in ``without``, and the arguments.

    Lists for arguments that are annotated as tensors become tensors of float32 on ``device``.

    Raises:
        DltrainError: as the target raised it.
        ConfigError: there is no such target, or a target of torch's or dltrain's refuses the keys.
    """
    node = OmegaConf.masked_copy(node, [name for name in node if name not in without])  # type: ignore[misc]
    for place, values in list(_tensors(OmegaConf.to_container(node))):
        tensor = {"_target_": "torch.tensor", "data": values, "dtype": _FLOAT, "device": str(device or "cpu")}
        OmegaConf.update(node, place, tensor, merge=False, force_add=True)
    try:
        # Not as keywords of instantiate, which builds what they name as a _target_.
        return instantiate(node, *args, _convert_="all", _partial_=True)(**keywords)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if cause is None:
            raise ConfigError([f"{key}: {str(error).splitlines()[0]}"]) from error
        if isinstance(cause, DltrainError):
            raise cause from cause.__cause__
        ours = str(node._target_).partition(".")[0] in ("torch", "torchvision", "dltrain")
        if ours and isinstance(cause, ValueError | TypeError | ArithmeticError):
            raise ConfigError([f"{key}: {cause}"]) from error
        if ours and isinstance(cause, RuntimeError) and _TOO_LARGE.search(str(cause)):
            raise ConfigError([f"{key}: there is no memory for its weights: give it smaller sizes"]) from error
        raise cause from cause.__cause__  # a bug in the user's class keeps its traceback


def optimizer(cfg: DictConfig, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Make the node ``optim`` for ``parameters``.

    Raises:
        ConfigError: it cannot take a step: torch's optimizers are tried on a small parameter first.
    """
    target = str(cfg.optim._target_)
    if target.startswith("torch.") and parameters:
        tried = nn.Parameter(torch.zeros(2, 2, device=parameters[0].device))
        tried.grad = torch.ones_like(tried)
        try:
            make(cfg, "optim", [tried]).step()
        except (RuntimeError, ValueError, TypeError, ArithmeticError, AssertionError) as error:
            cause = str(error).splitlines()[0]
            raise ConfigError([f"optim: it cannot take a step on {tried.device}: {cause}"]) from error
    made: Optimizer = make(cfg, "optim", parameters)
    closure = inspect.signature(made.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise ConfigError([f"optim._target_={target}: its step needs a closure, and dltrain has none for it"])
    return made


def scheduler(cfg: DictConfig, key: str, optimizer: Optimizer, without: Sequence[str] = ()) -> Any:
    """Make the node ``key``, a learning-rate scheduler of ``optimizer``, and before it those that it is made of.

    Raises:
        DltrainError: see :func:`make`.
    """
    node = OmegaConf.select(cfg, key)
    inner = {
        name: _inner_schedulers(cfg, f"{key}.{name}", optimizer)
        for name, value in node.items()
        if name not in without
        and any(_is_scheduler(cfg, item) for item in (value if isinstance(value, ListConfig) else [value]))
    }
    signature = find(node._target_, PLACES["scheduler"], trust_at(cfg, key)).signature
    by_name = signature is not None and "optimizer" in signature.parameters
    args, keywords = ((), {**inner, "optimizer": optimizer}) if by_name else ((optimizer,), inner)
    with warnings.catch_warnings():
        # torch steps a chain within a sequence too early itself.
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")
        return make(cfg, key, *args, without=(*without, *inner), keywords=keywords)


def _is_scheduler(cfg: DictConfig, value: Any) -> bool:
    return isinstance(value, DictConfig) and is_scheduler(value.get("_target_"), trust_at(cfg, "scheduler"))


def _inner_schedulers(cfg: DictConfig, key: str, optimizer: Optimizer) -> Any:
    value = OmegaConf.select(cfg, key)
    if isinstance(value, ListConfig):
        return [_inner_schedulers(cfg, f"{key}[{number}]", optimizer) for number in range(len(value))]
    return scheduler(cfg, key, optimizer) if _is_scheduler(cfg, value) else value


def _tensors(node: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """The lists for arguments that are annotated as tensors, at any depth of a resolved node, each after its place."""
    if isinstance(node, list):
        node = {f"[{number}]": item for number, item in enumerate(node)}
    if not isinstance(node, dict):
        return
    target = node.get("_target_")
    for name, value in node.items():
        place = f"{prefix}{name}" if str(name).startswith("[") or not prefix else f"{prefix}.{name}"
        values = _written(value, str(target))
        if isinstance(values, list) and isinstance(target, str) and takes_tensor(_annotation(target, name)):
            yield place, values
        else:
            yield from _tensors(value, place)


def _written(value: Any, target: str) -> Any:
    """The list, also of ``torch.tensor(list)`` for torch's classes: of whole numbers it would be no float tensor."""
    is_tensor = isinstance(value, dict) and value == {"_target_": "torch.tensor", "data": value.get("data")}
    return value["data"] if is_tensor and target.partition(".")[0] in READ else value


def _annotation(target: str, name: str) -> Any:
    try:
        signature = signature_of(get_object(target))
    except (HydraException, ImportError, ValueError, TypeError):  # instantiate says why
        return Any
    parameters = signature.parameters if signature else {}
    return parameters[name].annotation if name in parameters else Any


def added_metrics(cfg: DictConfig, processes: int) -> dict[str, Any]:
    """Make the metrics of the group ``metric``, by their names; see :func:`make`.

    Raises:
        ConfigError: a metric cannot take in what other ``processes`` have gathered.
    """
    metrics = {name: make(cfg, f"metric.{name}", without=WITHHELD["metric"]) for name in cfg.get("metric") or ()}
    for name, metric in metrics.items():
        if processes > 1 and not hasattr(metric, "merge"):
            problem = f"has no method merge(process_group), which it needs in {processes} processes"
            raise ConfigError([f"metric.{name}: {type(metric).__name__} {problem}"])
    return metrics


def module(cfg: DictConfig, key: str, device: torch.device | None = None) -> nn.Module:
    """Make the node ``key``, a model or a loss; see :func:`make`."""
    made = make(cfg, key, device=device)
    if not isinstance(made, nn.Module):  # a class is checked before, but not what a function returns
        target = f"{key}._target_={cfg[key]._target_}"
        raise ConfigError([f"{target}: it returned {made!r:.60}, but must return a torch.nn.Module"])
    return made


# An evaluation batch has at most so many samples, and so many values, unless the training batch has more.
_EVALUATION_BATCH = 256
_EVALUATION_VALUES = 1_000_000


def read_data(cfg: DictConfig, fitted: Fitted | None = None) -> Data:
    """Make the data set; keys about its parts that its target does not take are followed here.

    With ``fitted``, what an earlier run measured, it is prepared as that run's was, where its target can do that.
    """
    node = settled(cfg, "dataset")
    taken = _data_parameters(node._target_)
    withheld = [key for key in FOLLOWED if key not in taken]
    keywords = {"fitted": fitted} if fitted and "fitted" in taken else {}  # which a configuration could not hold
    made = make_settled(node, "dataset", without=(*WITHHELD["dataset"], *withheld), keywords=keywords)
    return adapted(made, str(node._target_).rpartition(".")[2], **{key: node[key] for key in FOLLOWED if key in node})


def _data_parameters(target: str) -> Collection[str]:
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
