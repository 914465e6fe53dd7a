"""The words that a key may have as its value, for the shell to complete."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dltrain.config.limits import CLOSED, LIMITS, SHARED
from dltrain.config.loader import Loader
from dltrain.config.rules import Choice, Either, Of, Rule
from dltrain.config.session import hydra_session
from dltrain.config.targets import PLACES, find, trust_at
from dltrain.errors import UserError

_FLAG = ("false", "true")


def choices_of(key: str, overrides: Sequence[str], folder: Path | None) -> list[str]:
    """The words for ``key``, in a configuration with the ``overrides`` and the options in ``folder``; often none."""
    if key == "device":
        return ["auto", "cpu", "cuda", "mps"]
    group, _, name = key.partition(".")
    rules = [CLOSED.get(key), *(table.get(group, {}).get(name) for table in (SHARED, LIMITS))]
    words = [word for rule in rules if rule is not None for word in _of_rule(rule)]
    return sorted(set(words or _of_argument(group, name, overrides, folder)))


def _of_rule(rule: Rule) -> Iterator[str]:
    if isinstance(rule, Choice):
        yield from map(str, rule.words)
    elif isinstance(rule, Either):
        yield from (*_of_rule(rule.first), *_of_rule(rule.second))
    elif isinstance(rule, Of) and rule.type is bool:
        yield from _FLAG


def _of_argument(group: str, name: str, overrides: Sequence[str], folder: Path | None) -> Iterator[str]:
    """The words that the class of ``group`` takes for its argument ``name``, by its annotation."""
    if group not in PLACES:
        return
    try:
        with hydra_session():
            cfg = Loader.of(folder).load_configuration("config", list(overrides), RunMode.RUN)
        target = find(OmegaConf.select(cfg, f"{group}._target_"), PLACES[group], trust_at(cfg, group))
    except (HydraException, OmegaConfBaseException, UserError):  # the line is unfinished
        return
    parameter = target.signature.parameters.get(name) if target.signature else None
    if parameter is not None:
        yield from _of_annotation(parameter.annotation)


def _of_annotation(kind: Any) -> Iterator[str]:
    if kind is bool:
        yield from _FLAG
    elif get_origin(kind) is Literal:
        yield from map(str, get_args(kind))
    elif get_origin(kind) in (Union, UnionType):
        for part in get_args(kind):
            yield from _of_annotation(part)
