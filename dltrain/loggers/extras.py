"""What loggers with a library of their own share."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from dltrain.errors import UserError


def require_extra(module: str, extra: str) -> None:
    """Raise :class:`UserError` with the line that installs ``extra`` when ``module`` is not installed."""
    if find_spec(module) is None:
        raise UserError(f"logger={extra} needs the package {module}: pip install 'dltrain[{extra}]'")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"optim": {"lr": 1}}`` as ``{"optim.lr": 1}``; lists become text."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
