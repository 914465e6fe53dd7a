"""Plain types at named places: what a file that was read must hold, as another program may have written it."""

from collections.abc import Iterable, Iterator, Mapping
from types import NoneType
from typing import Any

# A type; a list with the structure of each item; or a dict: of names, which are needed where they end in "!", or of
# ``str``, which stands for any name.
Structure = Any

_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    dict: "a mapping",
    list: "a list",
    bool: "true or false",
    NoneType: "null",
}


def mismatch(value: Any, structure: Structure, name: str = "it") -> str:
    """Say where ``value`` is not of the structure; empty where it is."""
    if isinstance(structure, list):
        if not isinstance(value, list | tuple):
            return f"{name} must be a list"
        return _first(mismatch(item, structure[0], f"{name}[{place}]") for place, item in enumerate(value))
    if isinstance(structure, dict):
        if not isinstance(value, Mapping):
            return f"{name} must be a mapping"
        return _first(_of_mapping(value, structure, "" if name == "it" else f"{name}."))
    kinds = getattr(structure, "__args__", (structure,))
    if isinstance(value, structure) and (not isinstance(value, bool) or bool in kinds or object in kinds):
        return ""
    return f"{name} must be {' or '.join(_WORDS.get(kind, kind.__name__) for kind in kinds)}"


def _of_mapping(value: Mapping[Any, Any], structure: dict[Any, Structure], outer: str) -> Iterator[str]:
    for key, inner in structure.items():
        if key is str:
            yield from (mismatch(name, str, f"the name {outer}{name}") for name in value)
            yield from (mismatch(item, inner, f"{outer}{name}") for name, item in value.items())
            continue
        name = key.removesuffix("!")
        if name in value:
            yield mismatch(value[name], inner, f"{outer}{name}")
        elif key != name:
            yield f"{outer}{name} is missing"


def _first(texts: Iterable[str]) -> str:
    return next(filter(None, texts), "")


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as ``optim.lr``."""
    by_name: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        by_name |= flat(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return by_name
