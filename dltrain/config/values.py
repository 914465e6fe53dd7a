"""Python values as text in the command line's grammar, which is read back as the same values."""

import os
import re
from collections.abc import Mapping
from typing import Any

from dltrain.errors import ConfigError, quoted

_NAME = re.compile(r"[a-z_][\w./-]*", re.ASCII | re.IGNORECASE)
_READ_OTHERWISE = ("null", "true", "false", "nan", "inf")


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """``key=value`` for each of the ``values``; text stays text, whatever it looks like.

    Raises:
        ConfigError: what no configuration can hold, all of it.
    """
    texts, problems = [], []
    for key, value in values.items():
        try:
            texts.append(f"{key}={_written(value)}")
        except TypeError as error:
            problems.append(f"{key}: {error}")
    if problems:
        raise ConfigError(problems)
    return texts


def _written(value: Any) -> str:
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", None):
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(int(value) if isinstance(value, int) else float(value))
    if isinstance(value, str | os.PathLike):
        return quoted(os.fspath(value))
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{_key(key)}:{_written(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_written, value))}]"
    hint = ": write it as a list, .tolist()" if hasattr(value, "tolist") else ""
    kinds = "None, a boolean, a number, a text, a path, or a list or dictionary of these"
    raise TypeError(f"a value is {kinds}, not {type(value).__module__}.{type(value).__qualname__}{hint}")


def _key(key: Any) -> str:
    """The grammar has no quotes around the keys of a dictionary."""
    if isinstance(key, int) and not isinstance(key, bool):
        return repr(key)
    if isinstance(key, str) and _NAME.fullmatch(key) and key.lower() not in _READ_OTHERWISE:
        return key
    raise TypeError(f"a key of a dictionary is a whole number or a name such as class_1, not {key!r}: use a YAML file")
