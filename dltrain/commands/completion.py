"""What the shell completes: verbs, their words, flags and values here, keys by Hydra. Imports no torch.

Shells call ``dltrain -sc query=SHELL`` with the line so far in ``$COMP_LINE``, and are given a candidate a line; where
there is none they offer files. Hydra knows no verbs, so a verb and its words are taken off that line, and the
configuration folder that the line names is put on Hydra's command line.
"""

import io
import os
import re
import shlex
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

from dltrain.commands.help import groups, options, with_folder
from dltrain.commands.verbs import TRAIN, VERBS, Verb, verb_of
from dltrain.errors import UserError
from dltrain.system.answer import stdout_reserved

# Of training and check; a test compares them with Hydra's.
FLAGS = tuple(
    f"--{name}"
    for name in ("cfg", "config-dir", "config-name", "help", "hydra-help", "info", "multirun", "package", "resolve")
)
_BASH = """\
hydra_bash_completion() {
    COMPREPLY=()
    while IFS= read -r word; do
        [ -n "$word" ] && COMPREPLY+=("$word")
    done <<END
$(COMP_LINE="$COMP_LINE" dltrain -sc query=bash 2>/dev/null)
END
}
COMP_WORDBREAKS=${COMP_WORDBREAKS//=}
complete -o nospace -o default -F hydra_bash_completion dltrain"""
_ZSH = f"""\
(( $+functions[compdef] )) || {{ autoload -Uz compinit; compinit }}
(( $+functions[complete] )) || {{ autoload -Uz bashcompinit; bashcompinit }}
{_BASH}"""
_FISH = """\
function hydra_fish_completion
    set -lx COMP_LINE (commandline -cp)
    set -l words (dltrain -sc query=fish 2>/dev/null | string match -r '.+')
    if set -q words[1]
        printf '%s\\n' $words
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c dltrain -f -a '(hydra_fish_completion)'"""
_ASKS = ("-sc", "--shell-completion")
_WITH_FILE = ("--config-dir", "-cd", "--config-name", "-cn")
_PATHS = ("root", "path", "out", "dir", "resume", "weights")  # keys, without what they are keys of
_SEVERAL = re.compile(r"^([^=]+=[^,\[{('\"]+),[^=]*$")  # of a sweep; Hydra completes the line of a single run
_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def asks_for_completion(arguments: Sequence[str]) -> bool:
    """Whether a shell asks for completions, or the user for the script that asks."""
    is_asked = "COMP_LINE" in os.environ and any(word.startswith("query=") for word in arguments)
    return is_asked or any(word.startswith("install=") for word in arguments[1:] if arguments[0] in _ASKS)


def complete(arguments: Sequence[str]) -> None:
    """Print completions for a shell, or the script that installs completion.

    Raises:
        UserError: completion cannot be installed in such a shell.
    """
    shell = next((word.removeprefix("install=") for word in arguments if word.startswith("install=")), None)
    if shell is not None:
        if shell not in _SCRIPTS:
            raise UserError(f"install={shell}: the shells are {', '.join(_SCRIPTS)}")
        print(_SCRIPTS[shell])
        return
    *before, last = _words(os.environ["COMP_LINE"])[1:] or [""]
    if before[-1:] and before[-1] in _WITH_FILE:  # the shell has files to offer
        return
    verb, words = verb_of(before)
    given, folder = _folder_of(words)
    if before[-1:] in (["--cfg"], ["-c"]):
        _show(("all", "hydra", "job"), last)
    elif last.startswith("-"):
        _show(FLAGS if verb.takes_hydra_flags else ("--help", *verb.words), last)
    elif not _of_verb(verb, given, last, folder):
        _show(VERBS if not before else (), last)
        offered = _values(last, given, folder) or _keys(verb, given, last, folder, arguments)
        # Of a run that has begun no option is chosen anew.
        fixed = groups().keys() - {"logger"} if verb.takes_run else ()
        _show((word for word in offered if "=" not in word or word.partition("=")[0] not in fixed), last)


def _words(line: str) -> list[str]:
    """Split the line as the shell does; the last word, which is being typed, stays as it is."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    try:
        *before, last = shlex.split(f"{line}|")  # with a mark, so that there is a last word also after a space
    except ValueError:  # a quote that is still open
        return words
    return [*before, last[:-1] if re.search(r"\s", last) else words[-1]]


def _keys(verb: Verb, given: Sequence[str], last: str, folder: Path | None, arguments: Sequence[str]) -> list[str]:
    """Return groups and keys, from Hydra, which knows neither runs and inputs nor the words of the verb."""
    known = {word.partition("=")[0] for word in verb.words}
    typed = given[1:] if verb.takes_run else given  # the run's path may look like an override
    keys = [word for word in typed if "=" in word and word.lstrip("+~").partition("=")[0] not in known]
    keys = [word for word in keys if not re.search(r"\s", word)]  # at which Hydra would split them
    place = ["--config-dir", str(folder)] if folder else []
    if verb.takes_run and Path(given[0], "config.yaml").is_file():
        place = ["--config-dir", given[0], "--config-name", "config"]
    os.environ["COMP_LINE"] = " ".join(["dltrain", *keys, last])
    return _ask_hydra([*place, *arguments]).split()


def _ask_hydra(arguments: Sequence[str]) -> str:
    """Return what Hydra prints for such arguments; nothing where the line is wrong so far."""
    offered = io.StringIO()
    try:
        with redirect_stdout(offered):
            TRAIN(arguments)
    except Exception as error:
        from dltrain.config.translate import explained  # imports Hydra, as training does

        if not isinstance(explained(error), UserError):
            raise
    return offered.getvalue()


def _folder_of(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """Return the words that are no flags, of several values the first, and the folder of ``--config-dir``, if any."""
    folder = None
    with suppress(UserError):
        words, folder = with_folder(words)
    return [_SEVERAL.sub(r"\1", word) for word in words if not word.startswith("-")], folder


def _of_verb(verb: Verb, given: Sequence[str], last: str, folder: Path | None) -> bool:
    """Print the words that a verb itself takes; returns whether nothing else may follow."""
    if verb.takes_path and not given:  # the shell has files to offer
        return True
    choices = groups(folder) if verb.completes == "groups" else verb.words
    words = [word for word in choices if word.startswith(last) and not word.startswith("-")]
    if words and not last and verb.takes_run and verb.takes_files:
        words += _files("", "")
    _show(words, last)
    return verb.completes != "overrides" or (bool(words) and (bool(last) or verb.takes_run))


def _show(choices: Iterable[str], begun: str) -> None:
    for choice in choices:
        if choice.startswith(begun):
            print(choice)


def _values(last: str, given: Sequence[str], folder: Path | None) -> list[str]:
    """Return the words ``key=value``: options of a group, choices, and files where paths belong."""
    key, equals, value = last.partition("=")
    if not equals:
        return []
    name = key.lstrip("+~")
    known = groups(folder)
    begun = value[: max(value.rfind(mark) for mark in "[,") + 1]
    if name in known:
        return [f"{key}={begun}{option}" for option, _ in options(known[name])]
    if value.startswith((".", "/", "~")) or name.rpartition(".")[2] in _PATHS:
        return _files(f"{key}=", value)
    from dltrain.config.choices import choices_of

    with stdout_reserved():  # it may import a class of the user's
        words = choices_of(name, given, folder)
    return [f"{key}={begun}{word}" for word in words]


def _files(before: str, begun: str) -> list[str]:
    """Return the files and folders whose path begins so, each after ``before``."""
    outer, _, name = begun.rpartition("/")
    place = Path(os.path.expanduser(f"{outer}/" if "/" in begun else "."))
    there = sorted(place.iterdir()) if place.is_dir() else []
    prefix = f"{before}{outer}/" if "/" in begun else before
    return [
        f"{prefix}{path.name}{'/' if path.is_dir() else ''}"
        for path in there
        if path.name.startswith(name) and (name or not path.name.startswith("."))
    ]
