"""What ``--help`` shows, the command on one screen or one verb; and ``dltrain list``: the options of groups.

Read from the groups' files; imports no torch.
"""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dltrain.commands.verbs import TRAIN, VERBS, verb_of
from dltrain.errors import UserError, did_you_mean
from dltrain.system.answer import say

_FOLDER_FLAGS = ("--config-dir", "-cd")
_NO_GROUPS = ("hydra",)  # groups of Hydra's under conf/


def list_options(arguments: Sequence[str]) -> None:
    """Print the options of one group, or of all; with ``--config-dir FOLDER`` those of the user as well.

    Raises:
        UserError: there is no such group or folder.
    """
    names, folder = with_folder(arguments)
    known = groups(folder)
    for name in names:
        if name not in known:
            raise UserError(f"there is no group '{name}'{did_you_mean(name, known) or '.'} Groups: {', '.join(known)}")
    for number, name in enumerate(names or known):
        say(f"{'' if number == 0 else chr(10)}{name}")
        for option, line in options(known[name]):
            say(f"  {option:<22}{line}".rstrip())


def with_folder(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """Split ``arguments`` into other words, and the folder of the user's options that ``--config-dir`` names.

    Raises:
        UserError: there is no such folder.
    """
    words: list[str] = []
    folder: Path | None = None
    left = iter(arguments)
    for word in left:
        flag, equals, value = word.partition("=")
        if flag in _FOLDER_FLAGS:
            value = value if equals else next(left, "")
            folder = Path(value)
            if not value or not folder.is_dir():
                raise UserError(f"--config-dir={value}: there is no such folder")
        else:
            words.append(word)
    return words, folder


def groups(folder: Path | None = None) -> dict[str, list[Traversable]]:
    """Return the folders of each group, in alphabetical order: dltrain's, and those of the user in ``folder``."""
    folders: dict[str, list[Traversable]] = {}
    for conf in (files("dltrain.conf"), *([folder] if folder else [])):
        for entry in conf.iterdir():
            if entry.is_dir() and entry.name[0] not in "_." and entry.name not in _NO_GROUPS:
                folders.setdefault(entry.name, []).append(entry)
    return {name: folders[name] for name in sorted(folders) if options(folders[name])}


def options(folders: Sequence[Traversable]) -> list[tuple[str, str]]:
    """Return names and header lines of the options of a group, in alphabetical order; the first folder wins."""
    headers: dict[str, str] = {}
    for entry in (entry for folder in folders for entry in folder.iterdir()):
        if entry.name.endswith(".yaml"):
            lines = entry.read_bytes().decode("utf-8", "replace").splitlines()
            header = next((line for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
            headers.setdefault(entry.name.removesuffix(".yaml"), header.removeprefix("# "))
    return sorted(headers.items())


_WIDTH = 100
# The commonest keys, and the file that holds the default and the line of each.
_KEYS = {
    "trainer.epochs": "trainer/default.yaml",
    "optim.lr": "optim/sgd.yaml",
    "dataset.batch_size": "dataset/digits.yaml",
    "trainer.precision": "trainer/default.yaml",
    "trainer.early_stopping.patience": "trainer/default.yaml",
    "seed": "config.yaml",
    "device": "config.yaml",
}
_EXAMPLES = (
    "dltrain model=cnn optim=adamw scheduler=cosine trainer.epochs=40",
    "dltrain dataset=table dataset.path=customers.csv dataset.target=churned",
    "dltrain -m optim.lr=0.01,0.03,0.1 seed=1,2,3",
)
_HELP_FLAGS = ("-h", "--help")


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether ``--help`` or ``-h`` is among the arguments."""
    return any(word in _HELP_FLAGS for word in arguments)


def help_text(arguments: Sequence[str]) -> str:
    """Return the help of the verb that the arguments begin with, or of the whole command.

    Raises:
        UserError: ``--config-dir`` names no folder.
    """
    verb, _ = verb_of(arguments)
    if verb is not TRAIN:
        summary = f"{verb.summary[0].upper()}{verb.summary[1:]}."
        return f"dltrain {arguments[0]} {verb.usage}\n\n{summary}\n\n{verb.details}"
    return "\n".join(_screen(with_folder(arguments)[1]))


def _screen(folder: Path | None) -> Iterator[str]:
    yield "dltrain trains neural networks from the command line."
    verbs = {f"dltrain {name} {verb.usage}": verb.summary for name, verb in VERBS.items()}
    sweep = {f"dltrain -m {TRAIN.usage}": "sweep: every combination of values with commas"}
    yield from _rows({f"dltrain {TRAIN.usage}": TRAIN.summary, **sweep, **verbs})
    yield "\nGroups: choose with group=option; the first is the default; a dataset may pick a model and loss"
    chosen = _defaults()
    for group, folders in groups(folder).items():
        names = sorted((name for name, _ in options(folders)), key=lambda name: name not in chosen.get(group, ()))
        yield textwrap.fill(f"  {group:<10} {' '.join(names)}", _WIDTH, subsequent_indent=" " * 13)
    yield "\nKeys: set with key=value"
    yield from _rows(dict(_default(file, key) for key, file in _KEYS.items()))
    yield "\nExamples"
    yield from (f"  {example}" for example in _EXAMPLES)
    yield "\nMore: dltrain VERB --help. All keys: dltrain --cfg job; with choices: dltrain model=lstm --cfg job"
    yield "Completion: dltrain -sc install=bash (or zsh, fish). Hydra's own flags: dltrain --hydra-help"


def _rows(rows: Mapping[str, str]) -> Iterator[str]:
    """Format two columns, the first as wide as it has to be."""
    width = max(map(len, rows)) + 2
    for left, right in rows.items():
        yield f"  {left:<{width}}{right}".rstrip()


def _defaults() -> dict[str, tuple[str]]:
    """Return the option that the primary file chooses, by group."""
    lines = re.findall(r"^  - (\w+): \[?(\w+)\]?", _text("config.yaml"), re.MULTILINE)
    return {group: (name,) for group, name in lines}


def _default(file: str, key: str) -> tuple[str, str]:
    """Return a key with its default, and the comment after it."""
    name = key.rpartition(".")[2]
    match = re.search(rf"^ *{name}: (\S+)(?: *# (.*))?$", _text(file), re.MULTILINE)
    assert match, f"{file} has no {name}"
    return f"{key}={match[1]}", match[2] or ""


def _text(file: str) -> str:
    return files("dltrain.conf").joinpath(file).read_text(encoding="utf-8")
