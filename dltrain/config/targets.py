"""What a ``_target_`` names, and whether it may stand where it stands.

A target of torch, torchvision, optuna or dltrain is read from its file (:mod:`~.source`), any other is imported.
What could do harm is refused by its name, before anything is imported or called, and by where it is defined. The same
:func:`find` is used when a configuration is checked, and for each node again just before it is made.
"""

import contextlib
import inspect
import os
import re
import sys
import traceback
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, Node, OmegaConf

from dltrain.config import source
from dltrain.data.stated import Stated, stated_by
from dltrain.errors import ConfigError, did_you_mean
from dltrain.system.extras import install_line

# Packages that no target may come from, as from the standard library: they run code, load pickles or change files.
_REFUSED = frozenset(
    (
        *("hydra", "hydra_plugins", "omegaconf", "antlr4", "yaml", "numpy", "polars", "PIL", "matplotlib", "fsspec"),
        *("pip", "setuptools", "pkg_resources", "wheel", "pytest", "_pytest", "IPython", "cloudpickle", "dill"),
        *("joblib", "simpleeval", "mlflow", "wandb", "tensorboard", "sqlalchemy"),
    )
)
# The few functions of torch's compiled part that make a value, and nothing else.
VALUES = frozenset(f"torch.{name}" for name in ("tensor", "device", "Generator"))
_MODULE = "torch.nn.modules.module.Module"
_OPTIMIZER = "torch.optim.optimizer.Optimizer"
_SCHEDULER = "torch.optim.lr_scheduler.LRScheduler"
_PRUNER = "optuna.pruners._base.BasePruner"
_PUBLIC = {
    _MODULE: "torch.nn.Module",
    _OPTIMIZER: "torch.optim.Optimizer",
    _SCHEDULER: _SCHEDULER,
    _PRUNER: "optuna.pruners.BasePruner",
}

_EXTRAS = {"optuna": "optuna"}  # which of dltrain's extras brings a package
_INSTALLED = frozenset(("site-packages", "dist-packages"))

# Where classes lie that a foreign configuration may name, besides those that conf/ names.
_COMMON = (
    *("torch.nn.modules", "torch.optim", "torchvision.models", "torchvision.ops", "optuna.pruners"),
    *("dltrain.models", "dltrain.losses", "dltrain.schedulers"),
)
_TRANSFORMS = "torchvision.transforms"
_ONLINE = {f"dltrain.loggers.{name}": name for name in ("mlflow", "wandb")}  # they write elsewhere, or to a server
# Functions of torchvision's that make parts of networks, and those that read or change one image.
_PARTS = tuple(f"torchvision.models.{name}" for name in ("detection.backbone_utils", "feature_extraction"))
_READERS = ("torchvision.io.image.read_image", "torchvision.io.image.decode_image")


@dataclass(frozen=True)
class Trust:
    """Whose code a configuration may name: of packages that the user trusts; ``foreign`` if another user wrote it."""

    packages: tuple[str, ...] = ()
    foreign: bool = False


def trust_at(cfg: DictConfig, key: str) -> Trust:
    """What the user has said of the configuration that the node ``key`` is from."""
    packages = OmegaConf.select(cfg, "trust", throw_on_resolution_failure=False)
    node = cfg._get_node(key.partition(".")[0])
    foreign = bool((node if isinstance(node, Node) else cfg)._get_flag("foreign"))
    return Trust(tuple(map(str, packages)) if isinstance(packages, ListConfig) else (), foreign)


@dataclass(frozen=True)
class Target:
    """A class or function: its parameters, and for a class the full names of what it inherits from, itself first.

    ``name`` is what was written, ``full`` where it is defined; ``builds``: torchvision has registered it as one
    that makes a network; ``stated``: what a data set says of itself.
    """

    name: str
    full: str
    signature: inspect.Signature | None
    ancestors: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()
    builds: bool = False
    stated: Stated = field(default_factory=Stated)

    @property
    def is_class(self) -> bool:
        return bool(self.ancestors)

    @property
    def package(self) -> str:
        return self.full.partition(".")[0]


@dataclass(frozen=True)
class Place:
    """A node of the configuration, and what its target may be.

    A class inherits from one of ``bases`` or has ``methods``, of so many arguments, which ``needs`` puts in words; any
    other of the user's passes where ``open`` is true. Of the packages that are read, classes in ``homes`` pass too, and
    of functions only those that dltrain's YAML files name in ``groups``, that build a network (with ``model`` among
    these), or that lie in ``makers``.
    """

    what: str
    example: str
    bases: tuple[str, ...] = ()
    methods: Mapping[str, int] = field(default_factory=dict)
    needs: str = ""
    homes: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    makers: tuple[str, ...] = ()
    open: bool = False
    functions: bool = True


_DATA_SETS = ("torchvision.datasets", "torch.utils.data.dataset")
_NETWORKS = (*_PARTS, "torchvision.models._api.get_model")
PLACES = {
    "dataset": Place(
        "a function or class that makes a data set",
        "dltrain.data.bundled.digits",
        homes=_DATA_SETS,
        groups=("dataset",),
        open=True,
    ),
    "model": Place("a torch.nn.Module", "dltrain.models.CNN", (_MODULE,), groups=("model",), makers=_NETWORKS),
    "loss": Place("a loss", "torch.nn.CrossEntropyLoss", (_MODULE,), groups=("loss",)),
    "optim": Place("an optimizer", "torch.optim.SGD", (_OPTIMIZER,), functions=False),
    "scheduler": Place(
        "a learning-rate scheduler", "torch.optim.lr_scheduler.StepLR", (_SCHEDULER,), groups=("scheduler",)
    ),
    "pruner": Place("a pruner", "optuna.pruners.MedianPruner", (_PRUNER,), functions=False),
    "logger": Place(
        "a logger",
        "dltrain.loggers.csv.CSVLogger",
        methods={"log": 1, "close": 1},
        needs=" with the methods close and log, of one argument",
        homes=("dltrain.loggers",),
        functions=False,
    ),
    "metric": Place(
        "a metric",
        "torchmetrics.classification.MulticlassAUROC",
        methods={"update": 2, "compute": 0},
        needs=" with the methods update(predictions, targets) and compute()",
        functions=False,
    ),
}
SEVERAL = ("logger", "metric")  # groups of which several options may be chosen at once
# Nodes within those: whatever the user's code makes of its arguments, and of torch's what fits.
_INNER = Place(
    "a module, or a function that makes one",
    "torch.nn.Linear",
    (_MODULE,),
    homes=("torchvision.models",),
    groups=("model", "loss"),
    makers=_NETWORKS,
    open=True,
)
WITHIN = {
    "model": _INNER,
    "loss": _INNER,
    "dataset": Place(
        "a transform or a data set",
        "torchvision.transforms.v2.Resize",
        (_MODULE,),
        homes=(_TRANSFORMS, *_DATA_SETS),
        groups=("dataset",),
        makers=(f"{_TRANSFORMS}.functional", f"{_TRANSFORMS}.v2.functional", "torchvision.datasets.folder", *_READERS),
        open=True,
    ),
    "optim": Place("an optimizer or a value", "torch.tensor", (_OPTIMIZER,), open=True),
    "scheduler": Place("a scheduler or a value", "torch.tensor", (_SCHEDULER,), groups=("scheduler",), open=True),
    "pruner": Place("a pruner", "optuna.pruners.MedianPruner", (_PRUNER,), open=True),
    "logger": Place("a value", "torch.tensor", open=True),
    "metric": Place("a value", "torch.tensor", open=True),
}


def find(name: Any, place: Place, trust: Trust) -> Target:
    """The class or function that ``name`` stands for, if it may stand in ``place``.

    Raises:
        ConfigError: there is no such thing, its import fails, it is refused, or it is nothing for this place.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise _refusal(f"must be the full name of a class or function, for example {place.example}")
    top = name.partition(".")[0]
    _require_harmless(top, name, place)
    if trust.foreign and (package := needs_trust(name, trust)):
        raise _refusal(f"would run code of '{package}': if you trust it, add 'trust=[{package}]'")
    if name in VALUES and place in WITHIN.values():
        return Target(name, name, None)
    target = _read(name, place) if top in source.READ else _imported(name, place, trust)
    _require_fitting(target, place)
    return target


def needs_trust(name: Any, trust: Trust) -> str:
    """The package that the user has to trust where a foreign configuration names ``name``; empty for none."""
    text = str(name)
    top, home = text.partition(".")[0], text.rpartition(".")[0]
    package = _ONLINE.get(home, top)
    return "" if package in trust.packages or _is_common(text) else package


def _is_common(name: str) -> bool:
    """Whether ``name`` is a network, loss, optimizer or the like that neither writes nor connects nor runs code."""
    top = name.partition(".")[0]
    if name in VALUES or top not in source.READ or "$" in name:
        return name in VALUES
    definition = source.find(name)
    if definition is None:  # for a name that does not exist there is a better message when it is made
        home = source.find(name.rpartition(".")[0])
        return _lies_in(name, ("torch.nn", *_COMMON)) and isinstance(home, source.Module)
    if not isinstance(definition, source.Definition) or definition.is_value or _lies_in(definition.name, _ONLINE):
        return False
    if not definition.is_class:
        return source.registers_model(definition) or _is_shipped(name, definition.name, PLACES)
    if _lies_in(definition.name, _COMMON):
        return not {base.name for base in source.bases(definition)}.isdisjoint(_PUBLIC)
    return _lies_in(definition.name, (_TRANSFORMS,)) or _is_shipped(name, definition.name, PLACES)


@cache
def _written(group: str) -> frozenset[str]:
    """The targets that dltrain's YAML files of a group name."""
    paths = [path for path in (files("dltrain.conf") / group).iterdir() if path.name.endswith(".yaml")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return frozenset(name for text in texts for name in re.findall(r"^\s*_target_: ([\w.]+)", text, re.M))


def _is_shipped(name: str, full: str, groups: Iterable[str]) -> bool:
    """Whether dltrain's YAML files name what is written as ``name`` and defined as ``full``, by whatever name."""
    written = [each for group in groups for each in _written(group)]
    if name in written:
        return True
    of_package = (each for each in written if each.partition(".")[0] == full.partition(".")[0])
    definitions = map(source.find, of_package)
    return any(isinstance(each, source.Definition) and each.name == full for each in definitions)


def stated_of(name: Any, trust: Trust) -> Stated:
    """What the data set ``name`` states of itself; nothing where it is none."""
    try:
        return find(name, PLACES["dataset"], trust).stated
    except ConfigError:  # which the check of its node raises
        return Stated()


def is_scheduler(name: Any, trust: Trust) -> bool:
    """Whether ``name`` is a class of learning-rate schedulers, or a function that makes one of its ``optimizer``."""
    try:
        target = find(name, PLACES["scheduler"], trust)
    except ConfigError:  # which the check of its place raises
        return False
    return target.is_class or (target.signature is not None and "optimizer" in target.signature.parameters)


def _refusal(text: str) -> ConfigError:
    return ConfigError([text])


def _require_harmless(top: str, name: str, place: Place) -> None:
    if top in sys.stdlib_module_names or top in _REFUSED:
        kind = "a part of Python itself" if top in sys.stdlib_module_names else f"of the package {top}"
        raise _refusal(f"is refused: {name} is {kind}, not {place.what} such as {place.example}")


def _read(name: str, place: Place) -> Target:
    definition = source.find(name)
    if not isinstance(definition, source.Definition) or definition.is_value:
        raise _refusal(_no_definition(name, definition, place))
    ancestors = tuple(base.name for base in source.bases(definition)) if definition.is_class else ()
    methods = frozenset(method for method in place.methods if source.method(definition, method))
    builds = source.registers_model(definition)
    stated = Stated(**source.decoration(definition, "Stated"))
    return Target(name, definition.name, source.signature(definition), ancestors, methods, builds, stated)


def _no_definition(name: str, other: source.Definition | source.Module | None, place: Place) -> str:
    if other is not None:
        what = "a module" if isinstance(other, source.Module) else "a value"
        return f"is {what}, not {place.what} such as {place.example}"
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        outer = ".".join(parts[:count])
        home = source.find(outer) if count > 1 else source.module(outer)
        if isinstance(home, source.Module):
            names = sorted(source.names_of(home), key=str.islower, reverse=True)  # of sgd and SGD, the class
            near = did_you_mean(parts[count], names).replace("'", f"'{outer}.", 1)
            return f"{outer} has no {parts[count]}{near or f'; {place.what} is, for example, {place.example}'}"
        if home is not None:
            return f"names a part of {outer}, where {place.what} is expected"
    install = f": {install_line(_EXTRAS[parts[0]])}" if parts[0] in _EXTRAS else ""
    return f"there is no package {parts[0]} on this machine{install}"


def _imported(name: str, place: Place, trust: Trust) -> Target:
    top = name.partition(".")[0]
    if not place.bases:  # else only its import shows whether a class inherits from one of them
        _require_vouched(top, name, trust)
    value = _import(name)
    if not inspect.isclass(value) and not inspect.isroutine(value):
        kind = type(value).__name__
        raise _refusal(f"is {'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}, not {place.what}")
    home = getattr(value, "__module__", None) or "builtins"
    # Where it is defined, not where it is named: `from os import system` in a file of the user's hides nothing.
    full, package = f"{home}.{value.__qualname__}", home.partition(".")[0]
    _require_harmless(package, full, place)
    if package in source.READ:
        return _read(full, place)
    ancestors = (
        tuple(f"{base.__module__}.{base.__qualname__}" for base in value.__mro__) if inspect.isclass(value) else ()
    )
    if set(place.bases).isdisjoint(ancestors):
        for named in dict.fromkeys((top, package)):
            _require_vouched(named, name, trust)
    methods = frozenset(method for method, count in place.methods.items() if _takes(value, method, count))
    return Target(name, full, signature_of(value), ancestors, methods, stated=stated_by(value))


def _require_vouched(package: str, name: str, trust: Trust) -> None:
    """Refuse what is of an installed package that does not require torch, unless the user trusts it."""
    if package in trust.packages or not _is_installed(package) or _requires_torch(package):
        return
    why = f"{name} is of the installed package {package}, which does not say that it works with torch"
    raise _refusal(f"is refused: {why}; if you trust it, add trust=[{package}]")


def _is_installed(package: str) -> bool:
    """Whether a package lies where pip puts packages, unlike files of the user's and what is installed as editable."""
    try:
        spec = find_spec(package)
    except ValueError:  # a module that was made by hand
        return True
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    return any(not _INSTALLED.isdisjoint(Path(place).parts) for place in places if place)


@cache
def _requires_torch(package: str) -> bool:
    """Whether the distribution of a package requires torch, always or for an extra that is named after it."""
    from importlib import metadata  # imports the parsers of e-mail

    try:
        names: Iterable[str] = (metadata.distribution(package).metadata["Name"],)
    except metadata.PackageNotFoundError:  # scikit-learn is imported as sklearn
        names = metadata.packages_distributions().get(package, ())
    needs = [text for name in names for text in metadata.requires(name) or ()]
    return any(
        re.match(r"torch(vision)?(?![\w.-])", text) and ("extra ==" not in text or text.count("torch") > 1)
        for text in needs
    )


def _takes(value: Any, name: str, count: int) -> bool:
    """Whether there is a method ``name`` that can be called with ``count`` arguments, as far as Python can tell."""
    method = getattr(value, name, None)
    if not callable(method):
        return False
    unbound = inspect.isclass(value) and inspect.isfunction(inspect.getattr_static(value, name))
    with contextlib.suppress(ValueError):  # no signature, as of some compiled functions
        try:
            inspect.signature(method).bind(*(["self"] if unbound else []), *["argument"] * count)
        except TypeError:
            return False
    return True


def _import(name: str) -> Any:
    """Import the longest part of ``name`` that is a module, and look the rest up in it."""
    parts = name.split(".")
    if len(parts) == 1:
        raise _refusal(f"must be module.Class: the file {name}.py, or a package, and a class or function in it")
    module, count = _module(parts)
    value: Any = module
    for number, part in enumerate(parts[count:], count):
        if not hasattr(value, part):
            outer = ".".join(parts[:number])
            near = did_you_mean(part, [name for name in vars(value) if not name.startswith("_")])
            near = near.replace("'", f"'{outer}.", 1)
            file = getattr(module, "__file__", None)
            where = f" ({near_path(file)})" if file else ""
            raise _refusal(f"{outer} has no {part}{near}{where}")
        value = getattr(value, part)
    return value


def _module(parts: list[str]) -> tuple[Any, int]:
    """The innermost module that the first of ``parts`` name, imported, and how many parts these are."""
    module: Any = None
    for count in range(1, len(parts) + 1):
        name = ".".join(parts[:count])
        try:
            if find_spec(name) is None:
                break
            module = import_module(name)
        except Exception as error:
            raise _refusal(_failed_import(name, error)) from error
        except SystemExit as error:  # a script without `if __name__ == "__main__"`
            raise _refusal(f"importing {name} ends the process: it calls sys.exit when it is imported") from error
        if not hasattr(module, "__path__"):
            return module, count
    else:
        return module, len(parts)
    if module is None:
        raise _refusal(_no_package(parts[0]))
    return module, count - 1


def _no_package(name: str) -> str:
    here = [path.stem for path in Path.cwd().glob("*.py")]
    here += [path.name for path in Path.cwd().iterdir() if (path / "__init__.py").is_file()]
    near = did_you_mean(name, [*source.READ, *here])
    return f"there is neither a file {name}.py in the working directory nor an installed package {name}{near}"


def _failed_import(name: str, error: BaseException) -> str:
    """The innermost cause first, with the line of the user's file that it comes from."""
    innermost = error
    while inner := innermost.__cause__ or (None if innermost.__suppress_context__ else innermost.__context__):
        innermost = inner
    text = f"{type(innermost).__name__}: {innermost}"
    if isinstance(innermost, SyntaxError) and innermost.filename:
        place = f"{near_path(innermost.filename)}, line {innermost.lineno}"
        return f"{type(innermost).__name__}: {innermost.msg} in {place}"
    frames = [frame for frame in traceback.extract_tb(innermost.__traceback__) if "importlib" not in frame.filename]
    frames = [frame for frame in frames if frame.filename != __file__]
    where = f" in {near_path(frames[-1].filename)}, line {frames[-1].lineno}" if frames else ""
    missing = innermost.name if isinstance(innermost, ModuleNotFoundError) else None
    hint = f"; install it: pip install {missing.partition('.')[0]}" if missing else ""
    return f"{text}{where} (while importing {name}){hint}"


def near_path(path: str | os.PathLike[str]) -> str:
    """``path`` from the working directory where it lies in it."""
    full = Path(path).absolute()
    return str(full.relative_to(Path.cwd())) if full.is_relative_to(Path.cwd()) else str(full)


def signature_of(value: Any) -> inspect.Signature | None:
    """As :func:`inspect.signature`, with annotations as types, and ``Any`` for those that cannot be resolved."""
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError):
        return None
    try:
        hints = typing.get_type_hints(value.__init__ if inspect.isclass(value) else value)
    except Exception:  # the user's annotations: a name that is only imported for type checkers, for example
        hints = {}
    parameters = [each.replace(annotation=hints.get(each.name, Any)) for each in signature.parameters.values()]
    return signature.replace(parameters=parameters, return_annotation=signature.empty)


def _require_fitting(target: Target, place: Place) -> None:
    """Raise unless a class is of the place's kind, and a function one of those that make such things."""
    if _fits(target, place):
        return
    kind = "class" if target.is_class else "function"
    needs = place.needs
    if target.is_class and place.bases and not place.open:
        needs += f": it must inherit from {_PUBLIC[place.bases[0]]}"
    raise _refusal(f"is a {kind}, but not {place.what}{needs}; one is, for example, {place.example}")


def _fits(target: Target, place: Place) -> bool:
    is_read = target.package in source.READ
    if not target.is_class:
        return place.functions and (not is_read or _makes(target, place))
    if place.methods:
        return target.methods == place.methods.keys() and (not is_read or _lies_in(target.full, place.homes))
    if not set(place.bases).isdisjoint(target.ancestors):
        return True
    return _lies_in(target.full, place.homes) if is_read else place.open


def _makes(target: Target, place: Place) -> bool:
    """Whether a function of torch's or dltrain's is known to make what stands in the place."""
    if (target.builds and "model" in place.groups) or _lies_in(target.full, place.makers):
        return True
    return _is_shipped(target.name, target.full, place.groups)


def _lies_in(name: str, homes: Iterable[str]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)
