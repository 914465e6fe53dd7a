"""rich's console for names that are the user's: control characters are spelled out, and drive no terminal."""

from typing import Any

from rich import console, markup
from rich.text import Text

from dltrain.streams import printable


class Console(console.Console):
    """Every text of a table, a line or a live view comes through here."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def escape(text: str) -> str:
    """A name as rich is to show it: in one line, and none of it as markup."""
    return markup.escape(text.replace("\n", "\\n"))
