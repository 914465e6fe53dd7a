"""What the verbs that look at a run have in common: their arguments. Imports no torch.

Where a path may stand, what exists as one is a path, also where it looks like an override: Hydra names folders
``optim.lr=0.1,seed=1``. ``./lr=0.1`` is a path in any case.
"""

import re
from collections.abc import Sequence
from glob import glob, has_magic

from dltrain.errors import UserError
from dltrain.runs.find import find_run, is_there, path_of

_OVERRIDE = re.compile(r"[a-z]\w*(\.\w+)*=")


def is_path(word: str) -> bool:
    """Whether this is something that exists, or a pattern that something fits."""
    return is_there(word) or (has_magic(word) and bool(glob(str(path_of(word)))))


def own_keys(arguments: Sequence[str], keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """``arguments`` without the ``key=value`` words of the verb's own ``keys``, and these."""
    pairs = {word: word.partition("=") for word in arguments if not is_path(word)}
    own = {key: value for key, equals, value in pairs.values() if equals and key in keys}
    return [word for word in arguments if word not in pairs or pairs[word][0] not in own or not pairs[word][1]], own


def run_of(words: Sequence[str], usage: str) -> tuple[str, list[str]]:
    """The first word, which names a run, and the others.

    Raises:
        UserError: there is none; said before anything is imported that takes its time.
    """
    if not words or ("=" in words[0] and not is_there(words[0])):
        raise UserError(f"a run folder or a checkpoint comes first: {usage}")
    find_run(words[0])
    return words[0], list(words[1:])


def inputs_of(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that name inputs, and the overrides among them."""
    overrides = [word for word in words if _OVERRIDE.match(word) and not is_path(word)]
    return [word for word in words if word not in overrides], overrides
