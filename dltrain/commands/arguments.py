"""What the verbs that look at a run have in common: their arguments. Imports no torch."""

from collections.abc import Sequence

from dltrain.errors import UserError
from dltrain.run import find_run


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
