"""The open part of the configuration: every node with a ``_target_``, on plain dicts."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dltrain.config.arguments import check_arguments
from dltrain.config.interpolation import escaped
from dltrain.config.limits import SHARED, check_limits, check_shared
from dltrain.config.relations import check_relations
from dltrain.config.rules import LATER, Choice, Of, Problem, Rule, distinct, shown
from dltrain.config.source import READ
from dltrain.config.targets import PLACES, SEVERAL, WITHIN, Target, Trust, find, is_scheduler, stated_of, trust_at
from dltrain.errors import ConfigError
from dltrain.report.metrics import NAMES

GROUPS = tuple(group for group in PLACES if group not in SEVERAL)
# Keys that dltrain reads itself and does not hand to the target.
WITHHELD = {"dataset": ("batch_size",), "scheduler": ("interval", "monitor"), "metric": ("better", "unit", "chart")}
_METRIC_RULES: dict[str, Rule] = {
    "better": Choice(("lower", "higher")),
    "unit": Choice(("target",)),
    "chart": Of(str, "the title of a chart"),
}
# Keys that dltrain follows where the target of a data set does not take them itself.
FOLLOWED = ("val_fraction", "test_fraction", "limit", "split_seed")
# What dltrain hands over by position.
_FILLED = {"optim": ("params",), "scheduler": ("optimizer",), "logger": ("folder", "config", "history")}
_NONE: Mapping[str, tuple[str, ...]] = {"scheduler": ("interval",), "pruner": ()}  # may have no target, but these keys
# Optimizers of torch's that a loop of forward, backward and step cannot use.
_UNUSABLE = {
    "torch.optim.lbfgs.LBFGS": "computes the loss several times a step, where dltrain computes it once",
    "torch.optim.sparse_adam.SparseAdam": "takes sparse gradients alone, and those of a network here are dense",
}
_HYDRA = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")


def check_nodes(cfg: Mapping[str, Any], trust: Callable[[str], Trust]) -> Iterator[Problem]:
    """Every problem of the open nodes of ``cfg``: plain types, with ``LATER`` for what only the data know.

    ``trust`` says of a key whose code its node may name.
    """
    for group in GROUPS:
        if group in cfg:
            yield from _check_node(group, group, cfg[group], trust(group))
        else:
            yield Problem(group, f"is missing: choose an option, {group}=...; dltrain list {group} shows them")
    yield from _check_several("logger", "logger=csv, logger=[csv,tensorboard]", cfg, trust)
    yield from _check_several("metric", "metric=mine, metric=[mine,yours]", cfg, trust)
    if all(isinstance(cfg.get(group), dict) for group in GROUPS):
        yield from check_relations(cfg, stated_of(cfg["dataset"].get("_target_"), trust("dataset")))


def _check_several(
    group: str, example: str, cfg: Mapping[str, Any], trust: Callable[[str], Trust]
) -> Iterator[Problem]:
    """A group of which several options may be chosen: a node each, under its name."""
    nodes = cfg.get(group)
    if nodes is not None and not isinstance(nodes, dict):
        yield Problem(group, f"must be one or more options of the group: {example}", nodes)
        return
    for name, node in (nodes or {}).items():
        yield from _check_node(f"{group}.{name}", group, node, trust(group))
        if group == "metric" and isinstance(node, dict):
            yield from _check_metric(str(name), node)


def _check_metric(name: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """What a metric says of itself."""
    if any(name in names for names in NAMES.values()) or not name.isidentifier():
        yield Problem(f"metric.{name}", "give it another name: a word that no metric of a task has")
    for key, rule in _METRIC_RULES.items():
        if node.get(key) is not None and not rule.allows(node[key]):
            yield Problem(f"metric.{name}.{key}", f"must be {rule}", node[key])
    if node.get("better") is None:
        yield Problem(f"metric.{name}.better", f"is missing: it must be {_METRIC_RULES['better']}")


def _check_node(key: str, group: str, node: Any, trust: Trust) -> Iterator[Problem]:
    place = PLACES[group]
    if not isinstance(node, dict):
        text = f"must hold keys, key: value; a file names an option under defaults, - override /{group}: OPTION"
        yield Problem(key, text, node)
        return
    if key == group:
        yield from check_shared(group, node)
    if group in _NONE and node.get("_target_", "") is None:  # scheduler=none
        yield from _check_empty(group, node)
        return
    if "_target_" not in node:
        text = f"is missing: name {place.what}, _target_: {place.example}{_elsewhere(key, node)}"
        yield Problem(f"{key}._target_", text)
        return
    for name in ("_partial_", *(("_args_",) if group in _FILLED else ())):  # which would come among those
        if node.get(name):
            yield Problem(f"{key}.{name}", "is not for this place: write each argument with its name", node[name])
    yield from _check_target(key, group, node, trust)


def _elsewhere(key: str, node: Mapping[str, Any]) -> str:
    """Where the target seems to stand instead."""
    similar = [f"; write it in the place of {name}" for name in node if str(name).strip("_") == "target"]
    inner = [name for name, value in node.items() if isinstance(value, dict) and "_target_" in value]
    deep = [f"; it stands too deep, in {key}.{name}" for name in inner]
    return next(iter(similar + deep), "")


def _check_empty(group: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in node.items():
        if name not in ("_target_", *_NONE[group]):
            text = f"{group}=none has no key {name}: choose a {group} that has it, dltrain list {group} shows them"
            yield Problem(f"{group}.{name}", text, value)


def _check_target(
    key: str, group: str, node: Mapping[str, Any], trust: Trust, inner: bool = False
) -> Iterator[Problem]:
    """A node with a target, and those within it; ``inner`` if it is within one and no scheduler of a scheduler."""
    name = node["_target_"]
    try:
        target = find(name, WITHIN[group] if inner else PLACES[group], trust)
    except ConfigError as error:
        yield from (Problem(f"{key}._target_", text, name) for text in error.problems)
        return
    if problem := _unusable(target, inner=key != group):
        yield Problem(f"{key}._target_", problem, name)
        return
    unnamed = [argument for argument in node if not isinstance(argument, str)]
    text = "the name of an argument is text: put it in quotes, if it is one"
    yield from (Problem(f"{key}.{shown(argument)}", text, node[argument]) for argument in unnamed)
    is_called = not node.get("_partial_") and not unnamed
    if not inner and target.package in READ:  # before the types, of which a range tells more
        yield from check_limits(key, group, node)
    if is_called:
        yield from _check_keys(key, "" if inner else group, node, target)
    for argument, value in node.items():
        yield from _check_nested(f"{key}.{argument}", group, value, trust)


def _check_keys(key: str, group: str, node: Mapping[str, Any], target: Target) -> Iterator[Problem]:
    """Whether the keys of a node are arguments of its target; ``group`` is empty for a node within another."""
    taken = target.signature.parameters if target.signature else {}
    followed = [name for name in FOLLOWED if group == "dataset" and name not in taken]
    ours = [*(WITHHELD.get(group, ()) if key == group or group == "metric" else ()), *followed]
    passed = {name: value for name, value in node.items() if name not in (*_HYDRA, *ours)}
    filled = _FILLED.get(group, tuple(f"_args_[{number}]" for number in range(len(node.get("_args_") or ()))))
    if group == "scheduler" and "optimizer" in list(taken)[1:]:  # ChainedScheduler: handed over by name
        passed, filled = {**passed, "optimizer": LATER}, ()
    if group == "scheduler" and target.name.endswith(".ReduceLROnPlateau") and "mode" in passed:
        passed["mode"] = LATER  # check_monitors checks it: auto is dltrain's word for what the metric needs
    yield from check_arguments(key, passed, target, filled, ours)


def _unusable(target: Target, inner: bool) -> str:
    """Why dltrain cannot use what fits the place otherwise; an empty string where it can."""
    if target.ancestors[:1] == PLACES["scheduler"].bases:
        return "is what schedulers inherit from: name one of those"
    for name in target.ancestors:
        if name in _UNUSABLE:
            return f"{_UNUSABLE[name]}: use optim=adamw, or optim=sgd with its momentum"
    if inner and "torch.optim.lr_scheduler.ReduceLROnPlateau" in target.ancestors:
        return "follows a metric, which a schedule within another does not get: use it alone, scheduler=plateau"
    return ""


def _check_nested(key: str, group: str, value: Any, trust: Trust) -> Iterator[Problem]:
    """A value of a node of the group: what it names, at any depth; schedulers may be made of others."""
    if isinstance(value, dict) and value.get("_target_") is not None:
        inner = group != "scheduler" or not is_scheduler(value["_target_"], trust)
        yield from _check_target(key, group, value, trust, inner)
    elif isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, item in items:
            yield from _check_nested(f"{key}.{name}", group, item, trust)


def settled(cfg: DictConfig, key: str) -> DictConfig:
    """The node ``key``, ready to be made: nothing in it is resolved any more.

    It is checked once more, as it is now: the check before was made without the facts of the data. What a class of the
    user's takes for these, it says itself.

    Raises:
        ConfigError: each value that is wrong, and each ``_target_`` that may not stand where it stands.
    """
    group = key.partition(".")[0]
    resolved: Any = OmegaConf.to_container(OmegaConf.select(cfg, key), resolve=True)
    problems = distinct(_check_node(key, group, resolved, trust_at(cfg, key)))
    if str(resolved.get("_target_")).partition(".")[0] not in READ:
        checked = ("_target_", *SHARED.get(group, ()))
        problems = [problem for problem in problems if problem.key.rpartition(".")[2] in checked]
    if problems:
        raise ConfigError(problem.sentence() for problem in problems)
    made = OmegaConf.create(escaped(escaped(resolved)))  # as Hydra resolves it, and then what came out of that
    assert isinstance(made, DictConfig)
    return made
