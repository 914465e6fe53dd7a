"""What a ``_target_`` names, and whether it may stand where it stands. Torch is not imported for torch's own classes.

A target of torch, torchvision or dltrain is read from its file (:mod:`~.source`), any other one is imported.
What could do harm is refused by its name, before anything is imported or called, and by where it was defined.
"""

import inspect
import os
import sys
import traceback
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dltrain.config import source
from dltrain.errors import ConfigError, did_you_mean
from dltrain.extras import install_line

# Packages that no target may come from, beside the standard library: they run code, load pickles or change files.
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


@dataclass(frozen=True)
class Target:
    """A class or function: its parameters, and for a class the full names of what it inherits from, itself first."""

    name: str
    home: str
    signature: inspect.Signature | None
    ancestors: tuple[str, ...] = ()
    methods: frozenset[str] = frozenset()

    @property
    def is_class(self) -> bool:
        return bool(self.ancestors)


@dataclass(frozen=True)
class Place:
    """A node of the configuration: what its target is, and which of torch's and dltrain's names are meant for it."""

    what: str
    homes: tuple[str, ...]
    example: str
    base: str = ""
    methods: frozenset[str] = frozenset()
    functions: bool = True


PLACES = {
    "dataset": Place(
        "a function or class that makes a data set",
        ("dltrain.data", "torchvision.datasets"),
        "dltrain.data.bundled.digits",
    ),
    "model": Place(
        "a torch.nn.Module", ("torch.nn", "torchvision.models", "dltrain.models"), "dltrain.models.CNN", _MODULE
    ),
    "loss": Place("a loss", ("torch.nn", "dltrain.losses"), "torch.nn.CrossEntropyLoss", _MODULE),
    "optim": Place("an optimizer", ("torch.optim",), "torch.optim.SGD", _OPTIMIZER, functions=False),
    "scheduler": Place(
        "a learning-rate scheduler",
        ("torch.optim", "dltrain.schedulers"),
        "torch.optim.lr_scheduler.StepLR",
        _SCHEDULER,
    ),
    "pruner": Place("a pruner", ("optuna.pruners",), "optuna.pruners.MedianPruner", _PRUNER, functions=False),
    "logger": Place(
        "a logger",
        ("dltrain.loggers",),
        "dltrain.loggers.csv.CSVLogger",
        methods=frozenset({"log", "close"}),
        functions=False,
    ),
    "": Place(  # a node within one of those
        "a class or function",
        (
            *("torch.nn", "torch.optim", "torch.utils.data", "torchvision", "dltrain.models", "dltrain.losses"),
            "optuna.pruners",
        ),
        "torch.nn.Linear",
    ),
}


def find(name: Any, place: Place) -> Target:
    """The class or function that ``name`` stands for, if it may stand in ``place``.

    Raises:
        ConfigError: there is no such thing, its import fails, it is refused, or it is nothing for this place.
    """
    if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
        raise _refusal(f"must be the full name of a class or function, for example {place.example}")
    top = name.partition(".")[0]
    _require_harmless(top, name, place)
    if name in VALUES and not place.base:
        return Target(name, "torch", None)
    target = _read(name, place) if top in source.READ else _imported(name, place)
    _require_fitting(target, place)
    return target


def is_scheduler(name: Any) -> bool:
    """Whether ``name`` is a class of learning-rate schedulers, or a function that makes one of its ``optimizer``."""
    try:
        target = find(name, PLACES["scheduler"])
    except ConfigError:  # told by whoever looks it up for its own place
        return False
    return target.is_class or (target.signature is not None and "optimizer" in target.signature.parameters)


def _refusal(text: str) -> ConfigError:
    return ConfigError([text])


def _require_harmless(top: str, name: str, place: Place) -> None:
    if top in sys.stdlib_module_names or top in _REFUSED:
        kind = "a part of Python itself" if top in sys.stdlib_module_names else f"of the package {top}"
        raise _refusal(f"is refused: {name} is {kind}, not {place.what} such as {place.example}")


def _read(name: str, place: Place) -> Target:
    found = source.find(name)
    if not isinstance(found, source.Definition) or found.is_value:
        raise _refusal(_unfound(name, found, place))
    lineage = list(source.bases(found)) if found.is_class else []
    methods = frozenset(one for one in place.methods if source.method(found, one))
    ancestors = tuple(one.name for one in lineage)
    return Target(name, found.module.name, source.signature(found), ancestors, methods)


def _unfound(name: str, found: source.Definition | source.Module | None, place: Place) -> str:
    if found is not None:
        what = "a module" if isinstance(found, source.Module) else "a value"
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


def _imported(name: str, place: Place) -> Target:
    value = _import(name)
    if not inspect.isclass(value) and not inspect.isroutine(value):
        raise _refusal(f"is {_with_article(type(value).__name__)}, not {place.what}")
    home = getattr(value, "__module__", None) or ""
    # Where it was defined, not where it was named: `from os import system` in a file of the user's hides nothing.
    _require_harmless(home.partition(".")[0] or "builtins", f"{home}.{value.__qualname__}", place)
    if home.partition(".")[0] in source.READ:
        return _read(f"{home}.{value.__qualname__}", place)
    ancestors = (
        tuple(f"{base.__module__}.{base.__qualname__}" for base in value.__mro__) if inspect.isclass(value) else ()
    )
    methods = frozenset(one for one in place.methods if _takes_one(value, one))
    return Target(name, home, signature_of(value), ancestors, methods)


def _takes_one(value: Any, name: str) -> bool:
    """Whether the method ``name`` is there and can be called with one argument, as far as Python can tell."""
    method = getattr(value, name, None)
    if not callable(method):
        return False
    unbound = inspect.isclass(value) and inspect.isfunction(inspect.getattr_static(value, name))
    try:
        inspect.signature(method).bind(*(["self"] if unbound else []), "argument")
    except TypeError:
        return False
    except ValueError:  # no signature, as of some compiled functions
        return True
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
            near = did_you_mean(part, [each for each in vars(value) if not each.startswith("_")]).replace(
                "'", f"'{outer}.", 1
            )
            raise _refusal(f"{outer} has no {part}{near}{_location(module)}")
        value = getattr(value, part)
    return value


def _module(parts: list[str]) -> tuple[Any, int]:
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
    if count == 1:
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
    while (
        inner := innermost.__cause__ or (None if innermost.__suppress_context__ else innermost.__context__)
    ) is not None:
        innermost = inner
    text = f"{type(innermost).__name__}: {innermost}"
    if isinstance(innermost, SyntaxError) and innermost.filename:
        return (
            f"{type(innermost).__name__}: {innermost.msg} in {near_path(innermost.filename)}, line {innermost.lineno}"
        )
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


def _location(module: Any) -> str:
    file = getattr(module, "__file__", None)
    return f" ({near_path(file)})" if file else ""


def _with_article(name: str) -> str:
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def signature_of(value: Any) -> inspect.Signature | None:
    """As :func:`inspect.signature`, with annotations as types, and ``Any`` for those that cannot be resolved."""
    try:
        found = inspect.signature(value)
    except (ValueError, TypeError):
        return None
    try:
        hints = typing.get_type_hints(value.__init__ if inspect.isclass(value) else value)
    except Exception:  # the user's annotations: a name that is only imported for type checkers, for example
        hints = {}
    parameters = [one.replace(annotation=hints.get(one.name, Any)) for one in found.parameters.values()]
    return found.replace(parameters=parameters, return_annotation=found.empty)


def _require_fitting(target: Target, place: Place) -> None:
    """Raise unless a class is of the place's kind; a function is trusted if it lies where such functions are."""
    top = target.home.partition(".")[0]
    here = _lies_in(target.home, place.homes) or _lies_in(target.name, place.homes)
    if target.is_class and (place.base or place.methods):
        fits = place.base in target.ancestors if place.base else target.methods == place.methods
    elif target.is_class:
        fits = here or top not in source.READ
    else:
        fits = (here and top != "torch" if top in source.READ else True) and place.functions
    if not fits:
        kind = "class" if target.is_class else "function"
        needs = f" with the methods {' and '.join(sorted(place.methods))}, of one argument" if place.methods else ""
        needs += f": it must inherit from {_PUBLIC[place.base]}" if target.is_class and place.base else ""
        raise _refusal(f"is a {kind}, but not {place.what}{needs}; one is, for example, {place.example}")


def _lies_in(name: str, homes: Iterable[str]) -> bool:
    return any(name == home or name.startswith(f"{home}.") for home in homes)
