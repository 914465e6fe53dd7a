"""``dltrain shards FOLDER OUT``: write images in class folders as tar or Parquet shards. Imports no torch."""

from collections.abc import Mapping, Sequence

from dltrain.commands.arguments import require_choice, take_keys
from dltrain.data.folders import text_of
from dltrain.errors import UserError, did_you_mean
from dltrain.runs.find import path_of
from dltrain.system.answer import on_terminal, print_json
from dltrain.system.log import log_to

_USAGE = "dltrain shards FOLDER OUT [format=tar|parquet]"
_FORMATS = ("tar", "parquet")
_KEYS = ("format", "samples", "seed")


def shards(arguments: Sequence[str]) -> None:
    """Write the images of a folder as shards, and say how many there are.

    Raises:
        UserError: a folder or a key is wrong, or the shards cannot be written.
    """
    words, given = take_keys(arguments, _KEYS)
    for word in words:
        name, equals, _ = word.partition("=")
        if word.startswith("-") or (equals and name.isidentifier()):
            hint = did_you_mean(name.strip("-"), _KEYS)
            raise UserError(f"{word} is no key of this verb{hint} It takes {', '.join(f'{key}=' for key in _KEYS)}")
    if len(words) != 2:
        raise UserError(f"two folders are wanted, the images and where the shards go: {_USAGE}")
    folder, out = map(path_of, words)
    if not folder.is_dir():
        raise UserError(f"there is no folder '{words[0]}'; it must hold <class>/<images>, or train/<class>/<images>")
    format = given.get("format", "tar")
    require_choice("format", format, _FORMATS)
    samples, seed = _number(given, "samples", 10_000, 1), _number(given, "seed", 0, 0)

    from dltrain.data.shard_files.writing import write_shards

    log_to(None)
    counts = write_shards(folder, out, format, samples, seed)  # type: ignore[arg-type]
    files = {part: len(list((out / part).iterdir())) for part in counts}
    answer = {"status": "done", "out": text_of(out), "format": format, "samples": counts, "shards": files}
    if on_terminal():
        from dltrain.commands.tables import show_shards

        show_shards(answer)
    else:
        print_json(answer)


def _number(given: Mapping[str, str], key: str, default: int, least: int) -> int:
    text = given.get(key, str(default))
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{key}={text} is not allowed: it must be a whole number of at least {least}")
    return int(text)
