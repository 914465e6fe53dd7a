"""Reads classes and functions of torch, torchvision and dltrain from their files, without importing them.

To import torch takes seconds, to parse the few files of a class takes milliseconds.
"""

import ast
import inspect
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Optional, Union

READ = ("torch", "torchvision", "dltrain", "optuna")
_TYPES: dict[str, Any] = {
    **{kind.__name__: kind for kind in (int, float, bool, str, list, tuple, dict, Sequence, Iterable, Mapping)},
    "List": list,
    "Tuple": tuple,
    "Dict": dict,
    "Optional": Optional,
    "Union": Union,
    "Literal": Literal,
}
# Every network inherits from this class, which takes any arguments. Its file takes longer to parse than all others.
_MODULE = ("torch.nn.modules.module", "Module")
_EMPTY_CLASS = ast.ClassDef(name="Module", bases=[], keywords=[], body=[], decorator_list=[])


class Tensor:
    """Stands for torch's tensor, for which a list of numbers is written."""


@dataclass(frozen=True)
class Definition:
    """A class, function or other value, and the module that defines it."""

    module: "Module"
    node: ast.ClassDef | ast.FunctionDef | ast.expr

    @property
    def name(self) -> str:
        return f"{self.module.name}.{getattr(self.node, 'name', '')}"

    @property
    def is_class(self) -> bool:
        return isinstance(self.node, ast.ClassDef)

    @property
    def is_value(self) -> bool:
        return isinstance(self.node, ast.expr)


class Module:
    """The names that a module's file defines or imports; the file is parsed when they are first used."""

    def __init__(self, name: str, path: Path):
        self.name = name
        self.path = path

    @cached_property
    def stars(self) -> list[str]:
        """The modules from which all names are imported."""
        imports = [statement for statement in self._statements if isinstance(statement, ast.ImportFrom)]
        return [self._source(statement) for statement in imports if statement.names[0].name == "*"]

    @cached_property
    def names(self) -> dict[str, ast.stmt | ast.expr | tuple[str, str]]:
        return {name: entry for statement in self._statements for name, entry in self._entries(statement)}

    @cached_property
    def _statements(self) -> list[ast.stmt]:
        return list(_unfolded(ast.parse(self.path.read_text(encoding="utf-8")).body))

    def _entries(self, statement: ast.stmt) -> Iterator[tuple[str, ast.stmt | ast.expr | tuple[str, str]]]:
        match statement:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name, statement
            case ast.Assign(targets=targets, value=value):
                yield from ((target.id, value) for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case ast.ImportFrom(names=aliases):
                source = self._source(statement)
                yield from ((each.asname or each.name, (source, each.name)) for each in aliases if each.name != "*")
            case ast.Import(names=aliases):
                yield from ((alias.asname or alias.name.partition(".")[0], (alias.name, "")) for alias in aliases)

    def _source(self, statement: ast.ImportFrom) -> str:
        """Return the full name of the module that a statement imports from."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        outer = parts[: len(parts) - statement.level + (self.path.name == "__init__.py")]
        return ".".join([*outer, *([statement.module] if statement.module else [])])


def _unfolded(statements: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield the statements, and in the place of ``if`` and ``try`` the statements within."""
    for statement in statements:
        if isinstance(statement, ast.If | ast.Try):
            yield from _unfolded((*statement.body, *statement.orelse))
        else:
            yield statement


@cache
def module(name: str) -> Module | None:
    """Return the module ``name`` of a package that is read, or ``None`` where it has no Python file."""
    path = _path(name)
    return Module(name, path) if path else None


@cache
def _path(name: str) -> Path | None:
    top, *rest = name.split(".")
    spec = find_spec(top) if top in READ else None
    if spec is None or not spec.submodule_search_locations:
        return None
    base = Path(spec.submodule_search_locations[0], *rest)
    candidates = (base / "__init__.py", base.with_name(base.name + ".py"))
    return next((path for path in candidates if path.is_file()), None)


def find(name: str) -> Definition | Module | None:
    """Return what the dotted ``name`` stands for; ``None`` when the files do not say."""
    parts = name.split(".")
    return _within(parts[0], parts[1:]) if _path(parts[0]) else None


def _within(start: str, attributes: Sequence[str]) -> Definition | Module | None:
    current: Definition | Module | None = None
    place = start
    for number, attribute in enumerate(attributes):
        if _path(f"{place}.{attribute}"):
            place = f"{place}.{attribute}"
            continue
        current = _definition(place, attribute, frozenset())
        if isinstance(current, Module):
            return _within(current.name, attributes[number + 1 :])
        return current if number == len(attributes) - 1 else None
    return module(place)


def _definition(place: str, name: str, seen: frozenset[tuple[str, str]]) -> Definition | Module | None:
    """Follow ``name`` of the module ``place`` through imports and aliases to what defines it."""
    if (place, name) in seen:
        return None
    if (place, name) == _MODULE:
        home = module(place)
        return Definition(home, _EMPTY_CLASS) if home else None
    if _path(f"{place}.{name}"):
        return module(f"{place}.{name}")
    home = module(place)
    if home is None:
        return None
    seen |= {(place, name)}
    entry = home.names.get(name)
    if isinstance(entry, tuple):
        source, original = entry
        return _definition(source, original, seen) if original else module(source)
    if isinstance(entry, ast.Name):
        return _definition(place, entry.id, seen) or Definition(home, entry)
    if isinstance(entry, ast.ClassDef | ast.FunctionDef | ast.expr):
        return Definition(home, entry)
    imported = (_definition(star, name, seen) for star in home.stars)
    return next((definition for definition in imported if definition), None)


def names_of(place: Module) -> set[str]:
    """Return the classes and functions that can be reached as ``place.name``, and its submodules."""
    names = {name for name, entry in place.names.items() if isinstance(entry, ast.ClassDef | ast.FunctionDef | tuple)}
    for star in place.stars:
        if (source := module(star)) is not None and source is not place:
            names |= names_of(source)
    if place.path.name == "__init__.py":
        names |= {path.stem for path in place.path.parent.iterdir() if path.suffix == ".py" or path.is_dir()}
    return {name for name in names if not name.startswith("_")}


def _expression(node: ast.expr, home: Module) -> Definition | Module | None:
    """Return what a name or a chain of attributes stands for in the module ``home``."""
    match node:
        case ast.Name(id=name):
            return _definition(home.name, name, frozenset())
        case ast.Attribute(value=value, attr=attribute):
            outer = _expression(value, home)
            return _definition(outer.name, attribute, frozenset()) if isinstance(outer, Module) else None
        case ast.Subscript(value=value):  # Generic[T], Dataset[T]
            return _expression(value, home)
    return None


def bases(definition: Definition) -> Iterator[Definition]:
    """Yield the class itself and what it inherits from, as far as the files say, in the order of its bases."""
    yield definition
    if isinstance(definition.node, ast.ClassDef):
        for base in definition.node.bases:
            inherited = _expression(base, definition.module)
            if isinstance(inherited, Definition):
                yield from bases(inherited)


def method(definition: Definition, name: str) -> Definition | None:
    """Return the method ``name`` of a class or of a class that it inherits from."""
    for base in bases(definition):
        for statement in reversed(getattr(base.node, "body", ())):  # the last one: those before may be overloads
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return Definition(base.module, statement)
    return None


def registers_model(definition: Definition) -> bool:
    """Whether torchvision registers this function as one that makes a network."""
    is_of_models = definition.module.name.startswith("torchvision.models.")
    return is_of_models and _decorator(definition, "register_model") is not None


def decoration(definition: Definition, name: str) -> dict[str, Any]:
    """Return the arguments, which are constants, of the decorator ``name`` of a class or function; none without it."""
    call = _decorator(definition, name)
    return {str(each.arg): ast.literal_eval(each.value) for each in call.keywords} if call else {}


def _decorator(definition: Definition, name: str) -> ast.Call | None:
    calls = [each for each in getattr(definition.node, "decorator_list", ()) if isinstance(each, ast.Call)]
    return next((call for call in calls if isinstance(call.func, ast.Name) and call.func.id == name), None)


def signature(definition: Definition) -> inspect.Signature | None:
    """Return the signature of a function, or of ``__init__`` without ``self``; ``None`` when the files do not say."""
    if isinstance(definition.node, ast.FunctionDef):
        return inspect.Signature(_parameters(definition.node, definition.module))
    init = method(definition, "__init__")
    if init is None or not isinstance(init.node, ast.FunctionDef):
        return None
    return inspect.Signature(_parameters(init.node, init.module)[1:])


def _parameters(function: ast.FunctionDef, home: Module) -> list[inspect.Parameter]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    kinds = inspect.Parameter
    parameters = [
        _parameter(a, kinds.POSITIONAL_OR_KEYWORD, d, home) for a, d in zip(positional, defaults, strict=True)
    ]
    if arguments.vararg:
        parameters.append(_parameter(arguments.vararg, kinds.VAR_POSITIONAL, None, home))
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parameters += [_parameter(argument, kinds.KEYWORD_ONLY, default, home) for argument, default in keywords]
    return parameters + (_keywords(arguments.kwarg, home) if arguments.kwarg else [])


def _parameter(argument: ast.arg, kind: Any, default: ast.expr | None, home: Module) -> inspect.Parameter:
    value: Any = inspect.Parameter.empty if default is None else ...
    if isinstance(default, ast.Constant):
        value = default.value
    annotation = _type(argument.annotation, home) if argument.annotation else Any
    return inspect.Parameter(argument.arg, kind, default=value, annotation=annotation)


def _keywords(argument: ast.arg, home: Module) -> list[inspect.Parameter]:
    """Return ``**options``, or the fields of its TypedDict where it is annotated with ``Unpack``."""
    annotation = argument.annotation
    if isinstance(annotation, ast.Subscript) and isinstance(annotation.value, ast.Name):
        fields = _expression(annotation.slice, home) if annotation.value.id == "Unpack" else None
        if isinstance(fields, Definition) and isinstance(fields.node, ast.ClassDef):
            lines = [line for line in fields.node.body if isinstance(line, ast.AnnAssign)]
            names = [(line.target.id, line.annotation) for line in lines if isinstance(line.target, ast.Name)]
            kind = inspect.Parameter.KEYWORD_ONLY
            return [
                inspect.Parameter(name, kind, default=..., annotation=_type(given, fields.module))
                for name, given in names
            ]
    return [inspect.Parameter(argument.arg, inspect.Parameter.VAR_KEYWORD)]


def _type(node: ast.expr, home: Module) -> Any:
    """Return the annotation as a type; ``Any`` for what is not known here."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return _type(ast.parse(text, mode="eval").body, home)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_type(left, home), _type(right, home)]  # noqa: UP007  # of values, not of names
        case ast.Attribute(attr=name) | ast.Name(id=name) if name in _TYPES:
            return _TYPES[name]
        case ast.Attribute(attr="Tensor") | ast.Name(id="Tensor"):
            return Tensor
        case ast.Name():
            alias = _expression(node, home)
            if isinstance(alias, Definition) and isinstance(alias.node, ast.expr) and alias.node is not node:
                return _type(alias.node, alias.module)
        case ast.Subscript(value=value, slice=inner):
            return _subscripted(_type(value, home), inner, home)
    return Any


def _subscripted(outer: Any, inner: ast.expr, home: Module) -> Any:
    items = inner.elts if isinstance(inner, ast.Tuple) else [inner]
    if outer is Any:
        return Any
    if outer is Literal:
        words = [item.value for item in items if isinstance(item, ast.Constant)]
        return Literal[tuple(words)] if words else Any
    if outer is Optional:
        return Optional[_type(items[0], home)]  # noqa: UP045  # of values, not of names
    types = [... if isinstance(item, ast.Constant) and item.value is ... else _type(item, home) for item in items]
    if outer is Union:
        return Union[tuple(types)]  # noqa: UP007
    return typing.cast(Any, outer)[tuple(types) if len(types) > 1 else types[0]]
