"""``dltrain cache [clear]``: list or remove the decoded images on disk."""

import time
from collections.abc import Sequence

from dltrain.data.cache import cache_folder, cache_limit, clear, entries
from dltrain.errors import UserError
from dltrain.system.answer import say

_GIB = 1024**3


def cache(arguments: Sequence[str]) -> None:
    """List the cached arrays, the longest unused first, or remove all of them.

    Raises:
        UserError: an argument other than ``clear``.
    """
    if list(arguments) == ["clear"]:
        say(f"{clear() / _GIB:.2f} GiB freed in {cache_folder()}")
        return
    if arguments:
        raise UserError(f"dltrain cache takes nothing or clear, not '{' '.join(arguments)}'")
    cached = entries()
    for entry in cached:
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        shape = "×".join(map(str, entry.shape))
        say(f"{entry.nbytes / _GIB:8.2f} GiB  used {used}  {shape:<20} {entry.source}")
    total = sum(entry.nbytes for entry in cached)
    say(f"{total / _GIB:8.2f} GiB of at most {cache_limit() / _GIB:.0f} GiB in {cache_folder()}")
