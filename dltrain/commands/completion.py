"""What the shell completes: verbs, their words, flags and values here, keys by Hydra. Imports no torch.

Shells call ``dltrain -sc query=SHELL`` with the line so far in ``$COMP_LINE``, and are given a candidate a line; where
there is none they offer files. Hydra knows no verbs, so a verb and its own words are taken off that line, and the
configuration folder that the line names is put on Hydra's own command line.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from dltrain.commands.list import groups, options, with_folder
from dltrain.commands.verbs import VERBS, Verb
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
    while IFS= read -r found; do
        [ -n "$found" ] && COMPREPLY+=("$found")
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
    set -l found (dltrain -sc query=fish 2>/dev/null | string match -r '.+')
    if set -q found[1]
        printf '%s\\n' $found
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
    """Whether a shell asks what could come next, or how to ask."""
    is_asked = "COMP_LINE" in os.environ and any(word.startswith("query=") for word in arguments)
    return is_asked or any(word.startswith("install=") for word in arguments[1:] if arguments[0] in _ASKS)


def complete(arguments: Sequence[str], ask: Callable[[Sequence[str]], str]) -> None:
    """Print what a shell may offer, or runs to be able to; ``ask`` returns what Hydra prints for such arguments.

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
    verb = VERBS.get(before[0]) if before else None
    given, folder = _folder_of(before[1:] if verb else before)
    if before[-1:] in (["--cfg"], ["-c"]):
        _show(("all", "hydra", "job"), last)
    elif last.startswith("-"):
        _show(_flags(verb), last)
    elif verb is None or not _of_verb(verb, given, last, folder):
        _show(VERBS if not before else (), last)
        found = _values(last, given, folder) or _keys(verb, given, last, folder, arguments, ask)
        # Of a run that has begun no option is chosen anew.
        fixed = groups().keys() - {"logger"} if _takes_run(verb) else ()
        _show((word for word in found if "=" not in word or word.partition("=")[0] not in fixed), last)


def _words(line: str) -> list[str]:
    """The words of the line as the shell reads them; the last, which is being typed, as it stands there."""
    words = [*line.split(), *([""] if line.endswith(" ") else [])]
    try:
        *before, last = shlex.split(f"{line}|")  # with a mark, so that there is a last word also behind a space
    except ValueError:  # a quote that is still open
        return words
    return [*before, last[:-1] if re.search(r"\s", last) else words[-1]]


def _keys(
    verb: Verb | None,
    given: Sequence[str],
    last: str,
    folder: Path | None,
    arguments: Sequence[str],
    ask: Callable[[Sequence[str]], str],
) -> list[str]:
    """Groups and keys, by Hydra, which knows neither runs and inputs nor the verb's own words."""
    own = {word.partition("=")[0] for word in verb.own} if verb else set()
    typed = given[1:] if _takes_run(verb) else given  # the run's path may look like an override
    keys = [word for word in typed if "=" in word and word.lstrip("+~").partition("=")[0] not in own]
    keys = [word for word in keys if not re.search(r"\s", word)]  # at which Hydra would split them
    place = ["--config-dir", str(folder)] if folder else []
    if _takes_run(verb) and Path(given[0], "config.yaml").is_file():
        place = ["--config-dir", given[0], "--config-name", "config"]
    os.environ["COMP_LINE"] = " ".join(["dltrain", *keys, last])
    return ask([*place, *arguments]).split()


def _takes_run(verb: Verb | None) -> bool:
    return verb is not None and verb.usage.startswith("RUN")


def _folder_of(words: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words that are no flags, of several values the first, and the folder of ``--config-dir``, if it is there."""
    try:
        found, folder = with_folder(words)
    except UserError:
        found, folder = list(words), None
    return [_SEVERAL.sub(r"\1", word) for word in found if not word.startswith("-")], folder


def _flags(verb: Verb | None) -> Iterable[str]:
    if verb is None or verb.run == "dltrain.cli:check":
        return FLAGS
    own = ("--config-dir",) if verb.takes == "groups" else verb.own
    return ["--help", *(word for word in own if word.startswith("-"))]


def _of_verb(verb: Verb, given: Sequence[str], last: str, folder: Path | None) -> bool:
    """Print the words that a verb itself takes; whether nothing else can stand here."""
    takes_run = _takes_run(verb)
    if verb.usage.startswith(("RUN", "FOLDER")) and not given:  # the shell has files to offer
        return True
    words = verb.own if verb.takes == "overrides" else groups(folder) if verb.takes == "groups" else verb.takes
    found = [word for word in words if word.startswith(last) and not word.startswith("-")]
    if takes_run and found and not last and verb.takes_files:
        found += _files("", "")
    _show(found, last)
    return verb.takes != "overrides" or (bool(found) and (bool(last) or takes_run))


def _show(choices: Iterable[str], begun: str) -> None:
    for choice in choices:
        if choice.startswith(begun):
            print(choice)


def _values(last: str, given: Sequence[str], folder: Path | None) -> list[str]:
    """What may stand behind ``key=``, whole words: options of a group, choices, and files where paths belong."""
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
    """Files and folders whose path begins so, each behind ``before``."""
    outer, _, name = begun.rpartition("/")
    place = Path(os.path.expanduser(f"{outer}/" if "/" in begun else "."))
    there = sorted(place.iterdir()) if place.is_dir() else []
    prefix = f"{before}{outer}/" if "/" in begun else before
    return [
        f"{prefix}{path.name}{'/' if path.is_dir() else ''}"
        for path in there
        if path.name.startswith(name) and (name or not path.name.startswith("."))
    ]
