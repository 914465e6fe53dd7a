"""Which file and line, or the command line, the value of a key comes from."""

from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override

from dltrain.config.complete import COMPLETE, complete_file
from dltrain.config.hydra_internals import CachingConfigRepository
from dltrain.config.overrides import chooses
from dltrain.config.targets import near_path
from dltrain.config.yaml_lines import hidden_header, key_lines

COMMAND_LINE = "command line"
_SHIPPED = ("hydra", "main", "schema")  # with Hydra and dltrain, by their providers in Hydra's words


class Origins:
    """Called with a key, returns where its value comes from. The files are read at the first call.

    ``composed_from`` takes a function that returns Hydra's list of the composed files, in their order.
    """

    def __init__(self, repository: CachingConfigRepository, overrides: Sequence[Override]):
        self.repository = repository
        self._defaults: Callable[[], Sequence[Any]] = tuple
        self._options = {override.key_or_group for override in overrides if chooses(override, repository)}
        self._typed = {override.key_or_group for override in overrides} - self._options
        self._lines: dict[str, str] | None = None

    def composed_from(self, defaults: Callable[[], Sequence[Any]]) -> None:
        self._defaults, self._lines = defaults, None

    def __call__(self, key: str) -> str:
        # Typed itself, or within a node that was typed, or made by typing a key within it.
        if any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in self._typed):
            return COMMAND_LINE
        if any(name.startswith(f"{key}.") for name in self._typed):
            return COMMAND_LINE
        lines = self._read()
        outer = key.partition("[")[0]
        while outer and outer not in lines:  # items of a list have no line, nor has what is missing
            outer = outer.rpartition(".")[0]
        return lines.get(outer, "") or (COMMAND_LINE if key in self._options else "")

    def hidden_headers(self) -> list[str]:
        """Return the problems of files whose ``# @package`` Hydra does not see."""
        if all(source.provider in _SHIPPED for source in self.repository.get_sources()):
            return []
        paths = [file_of(self.repository, default.config_path) for default in self._defaults() if default.config_path]
        return [f"{path_shown(path)}, {text}" for path in paths if path and (text := hidden_header(path))]

    def _read(self) -> dict[str, str]:
        if self._lines is None:
            self._lines = {}
            for default in self._defaults():
                path = file_of(self.repository, default.config_path) if default.config_path else None
                lines = {".".join(key): line for key, line in (key_lines(path) if path else {}).items()}
                if default.package:
                    lines = {f"{default.package}.{key}".removesuffix("."): line for key, line in lines.items()}
                self._lines |= {key: f"{path_shown(path)}, line {line}" for key, line in lines.items()}
                if path and default.package:
                    self._lines.setdefault(default.package, path_shown(path))
        return self._lines


def file_of(repository: CachingConfigRepository, config_path: str) -> Path | None:
    """Return the file that Hydra takes for ``optim/sgd``; ``None`` where it is not on disk."""
    if config_path == COMPLETE:
        return complete_file()
    source = repository.delegate._find_object_source(config_path, ObjectType.CONFIG)  # type: ignore[attr-defined]
    if source is None or source.scheme() not in ("file", "pkg"):
        return None
    folder = Path(str(files(source.path))) if source.scheme() == "pkg" else Path(source.path)
    return folder / f"{config_path.removesuffix('.yaml')}.yaml"


def path_shown(path: Path | None) -> str:
    """Return the path from the working directory, or for a file of dltrain's from its ``conf`` folder."""
    shipped = Path(str(files("dltrain.conf")))
    if path is None:
        return ""
    return f"dltrain's conf/{path.relative_to(shipped)}" if path.is_relative_to(shipped) else near_path(path)
