"""``dltrain list [GROUP]``: what can be chosen, each option with one line."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

from dltrain.commands.arguments import say
from dltrain.errors import UserError, did_you_mean

_OTHER = ("hydra",)  # Hydra's own groups under conf/


def list_options(arguments: Sequence[str]) -> None:
    """Print the options of one group, or of all.

    Raises:
        UserError: there is no such group.
    """
    found = groups()
    for name in arguments:
        if name not in found:
            raise UserError(f"there is no group '{name}'{did_you_mean(name, found) or '.'} Groups: {', '.join(found)}")
    for number, name in enumerate(arguments or found):
        say(f"{'' if number == 0 else chr(10)}{name}")
        for option, line in options(found[name]):
            say(f"  {option:<22}{line}")


def groups() -> dict[str, Traversable]:
    """The folders of the groups that ship, by name, in alphabetical order."""
    conf = files("dltrain.conf")
    found = {entry.name: entry for entry in conf.iterdir() if entry.is_dir() and not entry.name.startswith("_")}
    return {name: entry for name, entry in sorted(found.items()) if name not in _OTHER}


def options(group: Traversable) -> list[tuple[str, str]]:
    """Names and header lines of the options of a group, in alphabetical order."""
    found = []
    for entry in group.iterdir():
        if entry.name.endswith(".yaml"):
            lines = entry.read_text(encoding="utf-8").splitlines()
            header = next((line for line in lines if line.startswith("# ") and not line.startswith("# @")), "")
            found.append((entry.name.removesuffix(".yaml"), header.removeprefix("# ")))
    return sorted(found)
