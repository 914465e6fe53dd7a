"""rich's console for texts that are the user's: shown as they are, and control characters drive no terminal."""

from typing import Any

from rich import console
from rich.text import Text

from dltrain.errors import in_one_line
from dltrain.system.log import printable


class Console(console.Console):
    """Every text of a table, a line or a live view comes through here, and none of it is markup."""

    def __init__(self, **options: Any):
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def styled(text: str, style: str) -> Text:
    """A name or a number in a style; see :class:`Console`."""
    return Text(printable(in_one_line(text)), style)
