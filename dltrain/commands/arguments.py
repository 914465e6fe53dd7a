"""The arguments of verbs that look at a run. Imports no torch.

Where a path may stand, what exists as one is a path, also where it looks like an override: Hydra names folders
``optim.lr=0.1,seed=1``. ``./lr=0.1`` is a path in any case.
"""

import re
from collections.abc import Collection, Sequence
from glob import glob, has_magic

from dltrain.errors import UserError, did_you_mean
from dltrain.runs.find import find_run, is_there, path_of

_OVERRIDE = re.compile(r"[a-z]\w*(\.\w+)*=")


def is_path(word: str) -> bool:
    """Whether this exists, or is a pattern that matches something."""
    return is_there(word) or (has_magic(word) and bool(glob(str(path_of(word)))))


def take_keys(arguments: Sequence[str], keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Split ``arguments`` into other words, and the values of the ``keys`` that the verb itself takes."""
    words: list[str] = []
    given: dict[str, str] = {}
    for word in arguments:
        key, equals, value = word.partition("=")
        if equals and key in keys and not is_path(word):
            given[key] = value
        else:
            words.append(word)
    return words, given


def run_of(words: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """Split ``words`` into the first, which names a run, and the others.

    Raises:
        UserError: there is none; said before anything is imported that takes its time.
    """
    if not words or ("=" in words[0] and not is_there(words[0])):
        raise UserError(f"a run folder or a checkpoint comes first: {usage}")
    find_run(words[0])
    return words[0], list(words[1:])


def require_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Raise :class:`UserError` unless ``value`` is among the ``choices`` for ``key``."""
    if value not in choices:
        hint = did_you_mean(value, choices)
        raise UserError(f"{key}={value} is not allowed: it must be one of {', '.join(choices)}{hint}")


def inputs_of(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split ``words`` into those that name inputs, and overrides."""
    overrides = [word for word in words if _OVERRIDE.match(word) and not is_path(word)]
    return [word for word in words if word not in overrides], overrides
