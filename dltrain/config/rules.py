"""What a value may be, and a problem with one. Plain Python: no torch, no Hydra."""

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from types import UnionType
from typing import Any, Protocol

from dltrain.errors import did_you_mean

LATER = "<known once the data are loaded>"
NOTHING = object()  # a problem of a key that has no value


@dataclass(frozen=True)
class Problem:
    """What is wrong with a key; ``text`` follows ``key=value (where it came from): ``."""

    key: str
    text: str
    value: Any = NOTHING

    def sentence(self, where: str = "") -> str:
        value = "" if self.value is NOTHING else f"={shown(self.value)}"
        return f"{self.key}{value}{f' ({where})' if where else ''}: {self.text}"


def distinct(problems: Iterable[Problem]) -> list[Problem]:
    """The first problem of each key."""
    by_key: dict[str, Problem] = {}
    for problem in problems:
        by_key.setdefault(problem.key, problem)
    return list(by_key.values())


class Rule(Protocol):
    """Whether a value is allowed; as text, what is: ``a number of at least 0``."""

    def allows(self, value: Any) -> bool: ...


@dataclass(frozen=True)
class Number:
    """A number of at least ``low``, or above it, below ``below`` and at most ``most``; ``whole`` excludes fractions."""

    low: float
    below: float = math.inf
    whole: bool = False
    optional: bool = False
    open_low: bool = False
    most: float = math.inf

    def allows(self, value: Any) -> bool:
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return (self.low < value if self.open_low else self.low <= value) and value < self.below and value <= self.most

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        low = f"{'above' if self.open_low else 'of at least'} {self.low:.10g}"
        below = "" if self.below == math.inf else f" and below {self.below:.10g}"
        most = "" if self.most == math.inf else f" and at most {self.most:.10g}"
        return f"{kind} {low}{below}{most}{', or null' if self.optional else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some words or numbers."""

    words: tuple[str | int, ...]

    def allows(self, value: Any) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.words))}" if len(self.words) > 1 else str(self.words[0])


@dataclass(frozen=True)
class Of:
    """A value of one type."""

    type: type | UnionType
    name: str
    optional: bool = False

    def allows(self, value: Any) -> bool:
        return isinstance(value, self.type) or (self.optional and value is None)

    def __str__(self) -> str:
        return f"{self.name}{', or null' if self.optional else ''}"


@dataclass(frozen=True)
class Pattern:
    """Text of a certain form."""

    form: str
    name: str

    def allows(self, value: Any) -> bool:
        return isinstance(value, str) and re.fullmatch(self.form, value) is not None

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Many:
    """A list of items that follow the rule ``item``, each above the last if ``rising``; ``length`` items if given."""

    item: Rule
    rising: bool = False
    length: int | None = None

    def allows(self, value: Any) -> bool:
        if not isinstance(value, list | tuple) or (self.length is not None and len(value) != self.length):
            return False
        value = [item for item in value if item != LATER]
        if not all(self.item.allows(item) for item in value):
            return False
        return not self.rising or all(first < second for first, second in pairwise(value))

    def __str__(self) -> str:
        count = f" of {self.length}" if self.length else ""
        return f"a list{count} in brackets, each {self.item}{', each above the one before' if self.rising else ''}"


@dataclass(frozen=True)
class Either:
    """A value that one of two rules allows."""

    first: Rule
    second: Rule

    def allows(self, value: Any) -> bool:
        return self.first.allows(value) or self.second.allows(value)

    def __str__(self) -> str:
        return f"{self.first}, or {self.second}"


def complaint(value: Any, rule: Rule) -> str:
    """What is wrong with a value, with what to write instead where that is clear; empty where the rule allows it."""
    return "" if value == LATER or rule.allows(value) else f"must be {rule}{_hint(value, rule)}"


def _hint(value: Any, rule: Rule) -> str:
    if isinstance(rule, Number) and isinstance(value, float) and value.is_integer() and rule.allows(int(value)):
        return f": write {int(value)}"
    if isinstance(rule, Choice) and isinstance(value, str):
        return did_you_mean(value, map(str, rule.words))
    if isinstance(rule, Of) and rule.type is bool and isinstance(value, str | int):
        return f", not {shown(value)}"
    return ""


Where = Callable[[str], str]  # of a key: "command line", or a file with its line, or nothing


def shown(value: Any) -> str:
    """``value`` as it is typed on the command line, with text in quotes."""
    if value == LATER:
        return "${...}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return f"[{','.join(map(shown, value))}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{shown(item)}" for key, item in value.items()) + "}"
    return repr(value)
