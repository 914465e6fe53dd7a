"""A nested configuration as the flat names that the services of loggers take."""

from collections.abc import Mapping
from typing import Any

from dltrain.system.structure import flat


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """``{"optim": {"lr": 1}}`` as ``{"optim.lr": 1}``; lists become text, and what holds nothing is left out."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flat(config).items()
        if not isinstance(value, Mapping)
    }
