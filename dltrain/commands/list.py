"""``dltrain list [GROUP]``: print the options of groups, a line each."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dltrain.errors import UserError, did_you_mean
from dltrain.system.answer import say

_FLAGS = ("--config-dir", "-cd")
_OTHER = ("hydra",)  # groups of Hydra's under conf/


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
        if flag in _FLAGS:
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
            if entry.is_dir() and entry.name[0] not in "_." and entry.name not in _OTHER:
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
