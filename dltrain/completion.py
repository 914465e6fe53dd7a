"""What the shell completes: the verbs and their words here, overrides by Hydra. Imports no torch.

Shells call ``dltrain -sc query=SHELL`` with the line so far in ``$COMP_LINE``; Hydra knows no verbs, so a verb is taken
off that line, and the configuration folder that the line names is put on Hydra's own command line.
"""

import itertools
import os
from collections.abc import Iterable, Sequence

from dltrain.commands.list import groups
from dltrain.verbs import VERBS

_FOLDER = ("--config-dir", "-cd")


def asks_for_completion(arguments: Sequence[str]) -> bool:
    """Whether a shell asks what could come next."""
    return "COMP_LINE" in os.environ and any(word.startswith("query=") for word in arguments)


def complete(arguments: Sequence[str]) -> list[str]:
    """Print what is no override; returns the arguments with which Hydra is to print the rest, or none."""
    _, *words = os.environ["COMP_LINE"].split() or [""]
    if os.environ["COMP_LINE"].endswith(" "):
        words.append("")
    if len(words) == 1:
        _show(VERBS, words[0])
    elif words[:1] and words[0] in VERBS:
        verb, *words = words
        takes, own = VERBS[verb].takes, VERBS[verb].own
        if VERBS[verb].usage.startswith(("RUN", "FOLDER")):
            if len(words) == 1:  # where nothing is offered, shells offer files
                return []
            # Hydra knows neither runs and inputs nor the verb's own words.
            keys = {word.partition("=")[0] for word in own}
            words = [*(word for word in words[:-1] if "=" in word and word.partition("=")[0] not in keys), words[-1]]
        _show(own if takes == "overrides" else groups() if takes == "groups" else takes, words[-1])
        if takes != "overrides" or (words[-1] and any(word.startswith(words[-1]) for word in own)):
            return []
    os.environ["COMP_LINE"] = " ".join(["dltrain", *words])
    return [*_folder(words), *arguments]


def _show(choices: Iterable[str], begun: str) -> None:
    for choice in choices:
        if choice.startswith(begun):
            print(choice)


def _folder(words: Sequence[str]) -> list[str]:
    split = [part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])]
    for flag, value in itertools.pairwise(split):
        if flag in _FOLDER and os.path.isdir(value):
            return ["--config-dir", value]
    return []
