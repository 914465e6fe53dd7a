"""YAML from strangers: refused where it nests deeper, or its aliases repeat more, than a configuration needs.

A few hundred bytes can stand for billions of values, and a few thousand brackets exhaust the interpreter's stack.
"""

from typing import IO, Any

import yaml

FAST = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has been built with it
DEEPEST = 50  # lists and mappings within each other
TOO_DEEP = f"more than {DEEPEST} lists and mappings lie within each other: a configuration needs a few"
_MOST = 10_000  # values that aliases stand for, all of them together


class RefusedYAML(yaml.MarkedYAMLError):  # type: ignore[misc]
    """Well-formed, but out of all proportion."""


def load(text: str, loader: Any = FAST) -> Any:
    """What ``text`` holds.

    Raises:
        yaml.YAMLError: it is no YAML, or refused.
        ValueError: a date or number that there is not.
    """
    require_plain(text, loader)
    return yaml.load(text, loader)


def require_plain(stream: str | IO[str], loader: Any = yaml.SafeLoader) -> None:
    """Refuse YAML that ``loader``, which reads it next, would take long for or fail on.

    Raises:
        yaml.YAMLError: it is no YAML, or refused.
    """
    seen = _Seen()
    for event in yaml.parse(stream, loader):
        if problem := seen.take(event):
            raise RefusedYAML(problem=problem, problem_mark=event.start_mark)


class _Seen:
    """Size and depth of the collections that have been read so far."""

    def __init__(self) -> None:
        self.open: list[tuple[str | None, int, int]] = []  # anchor, size and height of each, from the outermost on
        self.anchored: dict[str, tuple[int, int]] = {}
        self.repeated = 0

    def take(self, event: yaml.Event) -> str:
        """What is wrong with the document as far as ``event``; an empty string where nothing is."""
        match event:
            case yaml.CollectionStartEvent():
                self.open.append((event.anchor, 1, 1))
                return self._too_deep(0)
            case yaml.CollectionEndEvent():
                self._add(*self.open.pop())
            case yaml.ScalarEvent():
                self._add(event.anchor, 1, 0)
            case yaml.AliasEvent():
                return self._repeat(event.anchor)
        return ""

    def _add(self, anchor: str | None, size: int, height: int) -> None:
        if anchor:
            self.anchored[anchor] = (size, height)
        if self.open:
            outer, total, highest = self.open[-1]
            self.open[-1] = (outer, total + size, max(highest, height + 1))

    def _repeat(self, anchor: str) -> str:
        if any(anchor == outer for outer, _, _ in self.open):
            return f"the alias *{anchor} stands within what it is to repeat: write out what is meant"
        size, height = self.anchored.get(anchor, (1, 0))  # the loader refuses an unknown one
        self.repeated += size
        self._add(None, size, height)
        if self.repeated > _MOST:
            return f"its aliases repeat more than {_MOST:,} values: write out those that are meant"
        return self._too_deep(height)

    def _too_deep(self, further: int) -> str:
        if len(self.open) + further > DEEPEST:
            return TOO_DEEP
        return ""
