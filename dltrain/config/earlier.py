"""The configuration of an earlier run: used again with overrides, and trusted no further than it has to be."""

import os
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from dltrain.config.interpolation import escaped, of_composed, of_resolved
from dltrain.config.targets import Trust, needs_trust, trust_at
from dltrain.config.translate import too_deep
from dltrain.errors import CheckpointError, ConfigError, did_you_mean
from dltrain.runs.record import GROUPS

_TABLES = ("dltrain.data.table.table", "dltrain.data.series.series")


def as_text(cfg: DictConfig) -> str:
    """Return a composed configuration as YAML, for another process of the same run."""
    return OmegaConf.to_yaml({"foreign": bool(cfg._get_flag("foreign")), "config": OmegaConf.to_container(cfg)})


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the configuration in plain types, with its references as they are written."""
    content = OmegaConf.to_container(cfg)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def of_text(text: str) -> DictConfig:
    """Return the configuration that :func:`as_text` was given, trusted as it was there."""
    read = OmegaConf.to_container(OmegaConf.create(text))
    assert isinstance(read, dict)
    cfg = OmegaConf.create(read["config"])
    assert isinstance(cfg, DictConfig)
    cfg._set_flag("foreign", read["foreign"])
    return cfg


def of_checkpoint(path: Path, resolved: str, composed: str | None = None) -> DictConfig:
    """Read the configuration in the checkpoint ``path``, its texts being data; of a run that goes on, as ``composed``.

    Raises:
        CheckpointError: it is none.
    """
    try:
        cfg = of_run(of_resolved(resolved) if composed is None else of_composed(composed, resolved), ())
        lacking = [name for name in GROUPS if not isinstance(cfg._get_node(name), DictConfig)]
    except (YAMLError, OmegaConfBaseException, ConfigError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' holds no configuration of a run: {' '.join(str(error).split())}") from error
    if lacking:
        raise CheckpointError(f"'{path}' holds no configuration of a run: it has no {', '.join(lacking)}")
    return cfg


def of_run(composed: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the configuration of an earlier run with values of existing keys replaced by ``overrides``.

    Raises:
        ConfigError: an override that is none, or a key that the configuration does not have.
    """
    cfg = OmegaConf.create(composed)
    assert isinstance(cfg, DictConfig)
    cfg.trust = []  # nobody vouches for himself
    _add_new_keys(cfg)
    if problems := [problem for text in overrides if (problem := _override(cfg, text))]:
        raise ConfigError(problems)
    return cfg


def _add_new_keys(cfg: DictConfig) -> None:
    """Give the configuration of an earlier run the keys that this dltrain has and the run's had not."""
    if isinstance(cfg.get("trainer"), DictConfig):
        cfg.trainer = OmegaConf.merge(_yaml("trainer/default.yaml"), cfg.trainer)
    if cfg.get("dataset") and str(cfg.dataset.get("_target_")) in _TABLES:
        cfg.dataset = OmegaConf.merge(dict.fromkeys(("header", "decimal", "thousands", "missing")), cfg.dataset)
    if "pruner" not in cfg:
        cfg.pruner = _yaml("pruner/none.yaml")


def _override(cfg: DictConfig, text: str) -> str:
    """Replace the value of a key of ``cfg`` by the override ``text``; returns why that fails, or an empty string."""
    if deep := too_deep(text):
        return deep
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        return f"{text}: {str(error).splitlines()[0]}; an override is key=value"
    outer, _, name = override.key_or_group.rpartition(".")
    known = OmegaConf.select(cfg, outer) if outer else cfg
    if not isinstance(known, DictConfig) or name not in known:
        hint = did_you_mean(name, [str(other) for other in known]) if isinstance(known, DictConfig) else ""
        return f"{override.key_or_group} is no key of this run{hint}"
    if override.key_or_group == "logger":
        cfg.logger = _loggers(override.value())
        cfg.logger._set_flag("foreign", False)  # this user has named them
    elif isinstance(known[name], DictConfig) and not isinstance(override.value(), dict):
        return f"{text}: a group cannot be chosen anew for a run that has begun; override its keys"
    else:
        try:
            OmegaConf.update(cfg, override.key_or_group, override.value())
        except OmegaConfBaseException as error:
            return f"{text}: {str(error).splitlines()[0]}"
    return ""


_SQLITE = "sqlite:///"  # and the path of a file, which may be relative


def locate_files(cfg: DictConfig, folder: str) -> None:
    """Make relative paths of a configuration absolute where they exist in ``folder``.

    They were typed in that directory, and the run may be resumed in a different directory.
    """
    loggers = cfg.get("logger")
    stores = list(loggers.values()) if isinstance(loggers, DictConfig) else []
    for node, key, prefix in (
        *((cfg.get("dataset"), key, "") for key in ("root", "path")),
        *((node, "tracking_uri", prefix) for node in stores for prefix in ("", _SQLITE)),
    ):
        value = node.get(key) if isinstance(node, DictConfig) else None
        if not isinstance(value, str) or not value.startswith(prefix) or value == prefix:
            continue
        path = Path(os.path.expanduser(value.removeprefix(prefix)))
        if not path.is_absolute() and Path(folder, path).exists():
            node[key] = escaped(f"{prefix}{Path(folder, path)}")


def _yaml(file: str) -> Any:
    return OmegaConf.create((files("dltrain.conf") / file).read_text(encoding="utf-8"))


def _loggers(chosen: Any) -> DictConfig:
    """Return the options of the group ``logger`` that are ``chosen``, by a name or a list."""
    names = [str(name) for name in (chosen if isinstance(chosen, list) else [chosen])]
    there = {path.name.removesuffix(".yaml"): path for path in (files("dltrain.conf") / "logger").iterdir()}
    if unknown := [name for name in names if name not in there]:
        raise ConfigError([f"logger={name} is no option{did_you_mean(name, there)}" for name in unknown])
    merged = OmegaConf.merge(*(_yaml(f"logger/{name}.yaml") for name in names))
    assert isinstance(merged, DictConfig)
    return merged


def require_trusted(cfg: DictConfig) -> None:
    """Refuse a configuration that came with a checkpoint and names classes of packages that nobody has vouched for.

    Raises:
        ConfigError: each ``_target_`` that is neither a common class or function of torch, torchvision,
            optuna and dltrain nor of the packages of ``trust``.
    """
    cfg._set_flag("foreign", True)  # for whoever makes what it names
    content = OmegaConf.to_container(cfg, resolve=False)
    problems = [
        f"{key}={target} would run code of '{package}': if you trust it, add 'trust=[{package}]'"
        + (", or choose loggers, logger=csv" if key.startswith("logger.") else "")
        for key, target in _targets(content, "")
        if (trust := trust_at(cfg, key)).foreign and (package := needs_trust(target, trust))
    ]
    if problems:
        raise ConfigError(problems)


def packages_of(cfg: DictConfig) -> list[str]:
    """Return the packages that the user has to trust to load a checkpoint with this configuration."""
    content = OmegaConf.to_container(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))
    packages = (needs_trust(target, Trust((), True)) for _, target in _targets(content, ""))
    return list(filter(None, dict.fromkeys(packages)))


def _targets(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield key and value of every ``_target_`` at any depth."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key == "_target_" and value is not None:
            yield f"{prefix}{key}", value
        else:
            yield from _targets(value, f"{prefix}{key}.")
