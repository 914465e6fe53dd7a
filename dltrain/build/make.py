"""A node of the configuration to the object that it names."""

import inspect
import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import nn
from torch.optim import Optimizer

from dltrain.config.nodes import require_harmless
from dltrain.config.targets import PLACES, find, is_scheduler
from dltrain.errors import ConfigError, DltrainError

_NONE: Mapping[str, Any] = MappingProxyType({})


def make(
    cfg: DictConfig,
    key: str,
    *args: Any,
    without: Sequence[str] = (),
    keywords: Mapping[str, Any] = _NONE,
    partial: bool = False,
) -> Any:
    """Call the ``_target_`` of the node ``key`` with its keys, but for those in ``without``, and with the arguments.

    With ``partial`` it is not called: what comes back takes further arguments, which no configuration could hold.

    Raises:
        DltrainError: as the target itself raised it.
        ConfigError: there is no such target, or one of torch's or dltrain's own refuses the keys.
    """
    node = OmegaConf.select(cfg, key)
    outer = node._get_parent()
    node = OmegaConf.masked_copy(node, [name for name in node if name not in without])
    node._set_parent(outer)  # so that interpolations still find the rest
    resolved: Any = OmegaConf.to_container(node, resolve=True)
    require_harmless(key, resolved)
    try:
        call = instantiate(node, *args, _convert_="all", _partial_=True)
        return call if partial else call(**keywords)
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if cause is None:
            raise ConfigError([f"{key}: {str(error).splitlines()[0]}"]) from error
        if isinstance(cause, DltrainError):
            raise cause from cause.__cause__
        ours = str(node._target_).partition(".")[0] in ("torch", "torchvision", "dltrain")
        if ours and isinstance(cause, ValueError | TypeError | ArithmeticError):
            raise ConfigError([f"{key}: {cause}"]) from error
        raise cause from cause.__cause__  # a bug in the user's class keeps its own traceback


def optimizer(cfg: DictConfig, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Make the node ``optim`` for ``parameters``.

    Raises:
        ConfigError: it cannot take a step: one of torch's is tried on a parameter of its own.
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
    """Make the node ``key``, a learning-rate scheduler, and before it those that it is made of, each of ``optimizer``.

    Raises:
        DltrainError: see :func:`make`.
    """
    node = OmegaConf.select(cfg, key)
    inner = {
        name: _inner_schedulers(cfg, f"{key}.{name}", optimizer)
        for name, value in node.items()
        if name not in without and any(map(_is_scheduler, value if isinstance(value, ListConfig) else [value]))
    }
    signature = find(node._target_, PLACES["scheduler"]).signature
    by_name = signature is not None and "optimizer" in signature.parameters
    args, keywords = ((), {**inner, "optimizer": optimizer}) if by_name else ((optimizer,), inner)
    with warnings.catch_warnings():
        # What a chain within a sequence is made to do by torch itself.
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")
        return make(cfg, key, *args, without=(*without, *inner), keywords=keywords)


def _is_scheduler(value: Any) -> bool:
    return isinstance(value, DictConfig) and is_scheduler(value.get("_target_"))


def _inner_schedulers(cfg: DictConfig, key: str, optimizer: Optimizer) -> Any:
    value = OmegaConf.select(cfg, key)
    if isinstance(value, ListConfig):
        return [_inner_schedulers(cfg, f"{key}[{number}]", optimizer) for number in range(len(value))]
    return scheduler(cfg, key, optimizer) if _is_scheduler(value) else value


def module(cfg: DictConfig, key: str) -> nn.Module:
    """Make the node ``key``, a model or a loss; see :func:`make`."""
    made = make(cfg, key)
    if not isinstance(made, nn.Module):  # what a class makes was checked before, not what a function returns
        target = f"{key}._target_={cfg[key]._target_}"
        raise ConfigError([f"{target}: it returned {made!r:.60}, but must return a torch.nn.Module"])
    return made
