"""Whether the keys of a node are the arguments of its target: wrong and missing ones, and values of a wrong type."""

import contextlib
import inspect
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, Union

from dltrain.config.rules import LATER, Problem, shown
from dltrain.config.source import Tensor
from dltrain.config.targets import Target
from dltrain.errors import did_you_mean

_NAMES = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    dict: "a mapping {...}",
    types.NoneType: "null",
}
_SYNONYMS = {"learning_rate": "lr", "hidden_dim": "hidden_size", "n_layers": "num_layers"}  # of other tools
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def check_arguments(
    key: str, given: Mapping[str, Any], target: Target, filled: Sequence[str] = (), ours: Collection[str] = ()
) -> Iterator[Problem]:
    """Check the keys ``given`` under ``key`` against the parameters of its target.

    ``filled`` are the arguments that dltrain hands over first, by position, whatever the target calls them; ``ours``
    are keys of the node that dltrain reads itself.
    """
    if target.signature is None:
        return
    parameters = list(target.signature.parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    if len(positional) < len(filled) and inspect.Parameter.VAR_POSITIONAL not in kinds:
        yield Problem(f"{key}._target_", _too_few(target, len(positional), filled), target.name)
        return
    by_dltrain = {parameter.name for parameter in positional[: len(filled)]}
    named = {each.name: each for each in parameters if each.name not in by_dltrain and each.kind not in _VARIABLE}
    for name, value in given.items():
        if name in by_dltrain:
            yield Problem(f"{key}.{name}", _given_already(name, target, filled), value)
        elif name in named:
            yield from _check_value(f"{key}.{name}", value, named[name])
        elif inspect.Parameter.VAR_KEYWORD not in kinds:
            yield Problem(f"{key}.{name}", _unknown(name, target, [*named, *ours]), value)
    for name, parameter in named.items():
        if parameter.default is parameter.empty and name not in given:
            yield Problem(f"{key}.{name}", f"{target.name} needs it: add {key}.{name}=... or write it in the file")


def _too_few(target: Target, taken: int, filled: Sequence[str]) -> str:
    if not target.is_class:
        signature = f"{target.name.rpartition('.')[2]}({', '.join(filled)}, ...)"
    else:
        signature = f"__init__(self, {', '.join(filled)}, ...)"
    return f"is called with {len(filled)} arguments by position but takes {taken}: it must be {signature}"


def _given_already(name: str, target: Target, filled: Sequence[str]) -> str:
    if name in filled:
        return "dltrain fills this in itself, leave it out"
    return f"{target.name} is called with ({', '.join(filled)}, ...), which fill {name}: let it come behind them"


def _unknown(name: str, target: Target, choices: Sequence[str]) -> str:
    near = did_you_mean(_SYNONYMS.get(name, name), choices)
    return f"{target.name} has no argument {name}{near or '; it has ' + (', '.join(choices) or 'none')}"


def _check_value(key: str, value: Any, parameter: inspect.Parameter) -> Iterator[Problem]:
    wanted = parameter.annotation
    if value is None and parameter.default is None:
        return
    if isinstance(value, float | int | str | list | dict | bool | None) and not fits(value, wanted):
        words = f"must be {described(wanted)}"
        near = did_you_mean(value, _words(wanted)) if isinstance(value, str) else ""
        yield Problem(key, words + (near or _number_hint(value, wanted)), value)


def _number_hint(value: Any, wanted: Any) -> str:
    if isinstance(value, str) and fits(1.0, wanted):
        with contextlib.suppress(ValueError):
            return f"; write it without quotes, {float(value):g}"
    return ""


def _alternatives(wanted: Any) -> tuple[Any, ...]:
    return typing.get_args(wanted) if typing.get_origin(wanted) in (Union, types.UnionType) else (wanted,)


def _words(wanted: Any) -> list[str]:
    options = [typing.get_args(kind) for kind in _alternatives(wanted) if typing.get_origin(kind) is Literal]
    return [word for words in options for word in words if isinstance(word, str)]


def takes_tensor(wanted: Any) -> bool:
    """Whether a value of the type is a tensor, for which a list is written, or null; not where it may be a number."""
    kinds = [kind for kind in _alternatives(wanted) if kind not in (None, types.NoneType)]
    return len(kinds) == 1 and _is_tensor(kinds[0])


def _is_tensor(kind: Any) -> bool:
    """Whether this is torch's class, known without importing it, or what stands for it."""
    return kind is Tensor or (getattr(kind, "__module__", ""), getattr(kind, "__name__", "")) == ("torch", "Tensor")


def _is_array(value: Any) -> bool:
    """Whether these are numbers, or lists of them of the same length, at any depth."""
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, list) for item in value):
        return len({len(item) for item in value}) == 1 and all(map(_is_array, value))
    return all(item == LATER or (isinstance(item, int | float) and not isinstance(item, bool)) for item in value)


def fits(value: Any, wanted: Any) -> bool:
    """Whether a value from YAML can be one of the type; true for types that are not known here."""
    if value == LATER or (isinstance(value, dict) and "_target_" in value):
        return True
    if takes_tensor(wanted) and value is not None:
        return _is_array(value)
    return any(_fits_kind(value, kind) for kind in _alternatives(wanted))


def _fits_kind(value: Any, wanted: Any) -> bool:
    if wanted is None or wanted is types.NoneType:
        return value is None
    if wanted in (int, float, bool, str):
        allowed = {float: (int, float)}.get(wanted, (wanted,))
        return isinstance(value, allowed) and isinstance(value, bool) == (wanted is bool)
    outer = typing.get_origin(wanted) or wanted
    if outer is Literal:
        return any(value == word and type(value) is type(word) for word in typing.get_args(wanted))
    if not inspect.isclass(outer):
        return True
    if _is_tensor(outer):  # beside a number, where a list would be none
        return False
    if issubclass(outer, Mapping):
        return isinstance(value, dict)
    if outer in (list, tuple, set, frozenset) or outer.__module__ == "collections.abc":
        return _fits_items(value, outer, typing.get_args(wanted))
    return True


def _fits_items(value: Any, outer: type, items: tuple[Any, ...]) -> bool:
    if not (issubclass(outer, Collection) or outer.__name__ == "Iterable"):
        return True  # a Callable, for example
    if not isinstance(value, list):
        return False
    if outer is tuple and items and items[-1] is not ...:
        return len(value) == len(items) and all(map(fits, value, items))
    return not items or all(fits(item, items[0]) for item in value)


def described(wanted: Any) -> str:
    """The type in words, with an example where the form matters."""
    words = [_described_kind(kind) for kind in _alternatives(wanted) if not _is_tensor(kind)]
    if takes_tensor(wanted):
        words.append("a list of numbers, for example [1.0,2.0]")
    return " or ".join(dict.fromkeys(words))


def _described_kind(wanted: Any) -> str:
    origin, items = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if wanted is None:
        return "null"
    if origin is Literal:
        return f"one of {', '.join(map(str, items))}" if len(items) > 1 else f"{items[0]}"
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return _NAMES[dict]
    if origin in _NAMES:
        return _NAMES[origin]
    if origin is tuple and items and items[-1] is not ...:
        return f"a list of {len(items)}, each {described(items[0])}"
    if inspect.isclass(origin) and issubclass(origin, Collection):
        return f"a list [...]{', each ' + described(items[0]) if items else ''}"
    return shown(getattr(wanted, "__name__", str(wanted)))
