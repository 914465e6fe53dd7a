"""A node of the configuration to the object that it names."""

from collections.abc import Sequence
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from dltrain.config.nodes import require_harmless
from dltrain.errors import ConfigError, DltrainError


def make(cfg: DictConfig, key: str, *args: Any, without: Sequence[str] = (), partial: bool = False) -> Any:
    """Call the ``_target_`` of the node ``key`` with its keys, but for those in ``without``, and with the arguments.

    With ``partial`` it is not called: what comes back takes further arguments, which no configuration could hold.

    Raises:
        DltrainError: as the target itself raised it.
        ConfigError: there is no such target, or one of torch's or dltrain's own refuses the keys.
    """
    node = OmegaConf.select(cfg, key)
    node = OmegaConf.masked_copy(node, [name for name in node if name not in without])
    node._set_parent(cfg)  # so that interpolations still find the rest
    resolved: Any = OmegaConf.to_container(node, resolve=True)
    require_harmless(key, resolved)
    try:
        return instantiate(node, *args, _convert_="all", _partial_=partial)
    except InstantiationException as error:
        cause = error.__cause__
        if cause is None:
            raise ConfigError([f"{key}: {str(error).splitlines()[0]}"]) from error
        if isinstance(cause, DltrainError):
            raise cause from cause.__cause__
        ours = str(node._target_).partition(".")[0] in ("torch", "torchvision", "dltrain")
        if ours and isinstance(cause, ValueError | TypeError | ArithmeticError):
            raise ConfigError([f"{key}: {cause}"]) from error
        raise cause from cause.__cause__  # a bug in the user's class keeps its own traceback


def module(cfg: DictConfig, key: str) -> nn.Module:
    """Make the node ``key``, a model or a loss; see :func:`make`."""
    made = make(cfg, key)
    if not isinstance(made, nn.Module):  # what a class makes was checked before, not what a function returns
        target = f"{key}._target_={cfg[key]._target_}"
        raise ConfigError([f"{target}: it returned {made!r:.60}, but must return a torch.nn.Module"])
    return made
