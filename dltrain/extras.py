"""Libraries that an extra of the package brings. Imports nothing heavy."""

from collections.abc import Sequence
from importlib.util import find_spec

from dltrain.errors import UserError


def require_extras(modules: Sequence[str], extra: str, what: str) -> None:
    """Raise :class:`UserError` with the line that installs ``extra`` unless all ``modules`` can be imported.

    ``what`` names, in the user's words, what needs them.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise UserError(f'{what} needs the package{plural} {", ".join(missing)}: pip install "dltrain[{extra}]"')
