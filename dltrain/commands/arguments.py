"""What the verbs that look at a run have in common: their arguments, and where their answers go. Imports no torch."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dltrain.answer import stdout
from dltrain.errors import UserError
from dltrain.run import find_run, finite


def own_keys(arguments: Sequence[str], keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """``arguments`` without the ``key=value`` words of the verb's own ``keys``, and these."""
    pairs = {word: word.partition("=") for word in arguments}
    own = {key: value for key, equals, value in pairs.values() if equals and key in keys}
    return [word for word in arguments if pairs[word][0] not in own or not pairs[word][1]], own


def run_of(words: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """The first word, which names a run, and the others.

    Raises:
        UserError: there is none; said before anything is imported that takes its time.
    """
    if not words or "=" in words[0]:
        raise UserError(f"a run folder or a checkpoint comes first: {usage}")
    find_run(words[0])
    return words[0], list(words[1:])


def print_json(content: Mapping[str, Any]) -> None:
    """One line of JSON on stdout."""
    say(json.dumps(finite(content)))


def say(text: str) -> None:
    """Lines on stdout."""
    print(text, file=stdout(), flush=True)


def on_terminal() -> bool:
    """Whether a person reads stdout."""
    return stdout().isatty()
