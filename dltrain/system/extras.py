"""The command that installs an extra of this package, and files that another package has overwritten.

Imports nothing heavy.
"""

import json
import shlex
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

from dltrain.errors import UserError

DISTRIBUTION = "dltrain-cli"
_NAMESAKE = "dltrain"  # another project's trainer has this name in the package registry


def install_line(extra: str) -> str:
    """The command that adds ``extra`` to the dltrain in use: to its checkout, or to the installed package."""
    checkout = _checkout()
    if checkout is None:
        return f'pip install "{DISTRIBUTION}[{extra}]"'
    change = "" if checkout == Path.cwd() else f"cd {shlex.quote(str(checkout))} && "
    return f'{change}pip install -e ".[{extra}]"'


def require_extras(modules: Sequence[str], extra: str, what: str) -> None:
    """Raise :class:`UserError` with the line that installs ``extra`` unless all ``modules`` can be imported.

    ``what`` names what needs them, as the user would type it.
    """
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        plural = "s" if len(missing) > 1 else ""
        raise UserError(f"{what} needs the package{plural} {', '.join(missing)}: {install_line(extra)}")


def overwritten_files() -> list[str]:
    """Files of this package that the registry's distribution ``dltrain``, another project, has installed as well.

    Both write into a folder called ``dltrain``, where whichever was installed last replaces the other's files.
    """
    from importlib.metadata import Distribution, PackageNotFoundError  # imports the parsers of e-mail

    try:
        namesake = Distribution.from_name(_NAMESAKE)
    except PackageNotFoundError:
        return []
    here = Path(__file__).resolve().parents[1]
    paths = [Path(str(namesake.locate_file(file))).resolve() for file in namesake.files or ()]
    return sorted(str(path.relative_to(here)) for path in paths if path.is_relative_to(here) and path.suffix == ".py")


def _checkout() -> Path | None:
    """The folder that an editable installation runs from, else ``None`` (see PEP 610 for ``direct_url.json``)."""
    from importlib.metadata import distributions

    for distribution in distributions(name=DISTRIBUTION):  # a checkout on the path has metadata too, without an origin
        if text := distribution.read_text("direct_url.json"):
            origin = json.loads(text)
            editable = origin.get("dir_info", {}).get("editable", False)
            return Path(unquote(urlsplit(origin["url"]).path)) if editable else None
    folder = Path(__file__).resolve().parents[2]
    return folder if (folder / "pyproject.toml").is_file() else None
