"""Which file and line, or the command line, the value of a key comes from; and what is wrong with the files.

The ``config.yaml`` of a run is such a file, too, which can be run again: ``--config-dir RUN --config-name config``.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from dltrain.config.command_line import Flags, chooses
from dltrain.config.hydra_internals import CachingConfigRepository
from dltrain.config.targets import near_path
from dltrain.errors import ConfigError, UserError
from dltrain.system.yaml_text import RefusedYAML, require_plain

Key = tuple[str, ...]
_HIDDEN_HEADER = re.compile(rb"\xef\xbb\xbf\s*#\s*@")


def key_lines(path: Path) -> dict[Key, int]:
    """Return the line, from 1, of every key of the file, nested keys as tuples; nothing where it cannot be read.

    A file that holds no keys, but a list for example, has a single entry, with an empty key.
    """
    try:
        root = _composed(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    if root is None:
        return {}
    return dict(_lines(root, ())) if isinstance(root, yaml.MappingNode) else {(): root.start_mark.line + 1}


def _composed(path: Path) -> yaml.Node | None:
    text = path.read_text(encoding="utf-8")
    require_plain(text)
    root: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
    return root


def _lines(node: yaml.Node, outer: Key) -> Iterator[tuple[Key, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        full = (*outer, str(key.value))
        yield full, key.start_mark.line + 1
        yield from _lines(value, full)


def hidden_header(path: Path) -> str:
    """Return what hides ``# @package`` from Hydra; an empty string where nothing does."""
    if not path.is_file() or not _HIDDEN_HEADER.match(path.read_bytes()):
        return ""
    return "line 1: save it as UTF-8 without a byte order mark, which hides # @package from Hydra"


def file_problems(path: Path) -> list[str]:
    """Return what is wrong with the file, each with its line: not YAML, a tab, a key that is no text or there twice."""
    try:
        root = _composed(path)
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    except UnicodeDecodeError as error:
        return [f"{path}: it is not UTF-8 text (byte {error.start}): save it as UTF-8"]
    except yaml.MarkedYAMLError as error:
        return [_syntax(path, error)]
    except yaml.YAMLError as error:
        return [f"{path}: {error}"]
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        return [f"{path}, line {root.start_mark.line + 1}: it must hold keys, key: value, on lines of their own"]
    return [f"{path}, {text}" for text in (*_wrong_keys(root), *_wrong_defaults(root))]


def _syntax(path: Path, error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    line = f", line {mark.line + 1}" if mark else ""
    if isinstance(error, RefusedYAML):
        return f"{path}{line}: {error.problem}"
    if "'\\t'" in str(error.problem):
        return f"{path}{line}: there is a tab: indent with spaces, two for each level"
    if "mapping values are not allowed" in str(error.problem):
        reason = "there is a second colon, or a line is indented below a value"
        return f"{path}{line}: {reason}: write key: value, and text with a colon in quotes"
    if "could not find expected ':'" in str(error.problem) and error.context_mark:
        return f"{path}, line {error.context_mark.line + 1}: a colon takes a space after it: write key: value"
    if error.context_mark and ("flow" in str(error.context) or "quoted" in str(error.context)):
        what = "bracket" if "flow" in str(error.context) else "quote"
        return f"{path}, line {error.context_mark.line + 1}: this is no YAML: a {what} is opened and not closed"
    hint = "write key: value, indented with spaces, and close brackets and quotes"
    return f"{path}{line}: this is no YAML ({error.problem}): {hint}"


def _wrong_keys(node: yaml.Node) -> Iterator[str]:
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _wrong_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:null":
            yield f"line {line}: a key is text: put this one in quotes"
            continue
        if name in first:
            yield f"line {line}: the key {name} is there twice, before in line {first[name]}: remove one of them"
        first.setdefault(name, line)
        yield from _wrong_keys(value)


def _wrong_defaults(root: yaml.MappingNode) -> Iterator[str]:
    for value in (value for key, value in root.value if key.value == "defaults"):
        entries = value.value if isinstance(value, yaml.SequenceNode) else [value]
        for entry in entries:
            if value is entry or not _is_entry(entry):
                form = "defaults is a list, each entry after a dash: - GROUP: OPTION, or - _self_"
                yield f"line {entry.start_mark.line + 1}: {form}"


def _is_entry(node: yaml.Node) -> bool:
    """Whether this is ``name``, ``group: option`` or ``group: [option, option]``."""
    if isinstance(node, yaml.ScalarNode):
        return bool(node.tag == "tag:yaml.org,2002:str")
    if not isinstance(node, yaml.MappingNode) or len(node.value) != 1:
        return False
    ((group, option),) = node.value
    options = option.value if isinstance(option, yaml.SequenceNode) else [option]
    return _is_entry(group) and all(isinstance(each, yaml.ScalarNode) for each in options)


COMPLETE = "dltrain_complete"  # the name under which Hydra is given a file that a run left


def config_name(flags: Flags) -> str:
    """Return the primary file that ``flags`` name, dltrain's by default, by its name in Hydra.

    ``--config-dir RUN --config-name config`` names the file that a run left, resolved and complete, and without a list
    of options to choose others from. Hydra is given it with such a list, in its store: see :func:`_with_options`.

    Raises:
        UserError: a file of the user's has the name of dltrain's.
        ConfigError: the file that is named cannot be read.
    """
    name = flags.config_name or "config"
    file = Path(flags.config_dir or "", name.removesuffix(".yaml") + ".yaml")
    if flags.config_dir is None or flags.config_name is None or not os.path.isfile(file):
        return name
    if problems := file_problems(file):
        raise ConfigError(text.replace(str(file), near_path(file), 1) for text in problems)
    content = OmegaConf.load(file)
    assert isinstance(content, DictConfig)  # else there was a problem
    if "defaults" not in content:
        ConfigStore.instance().store(COMPLETE, _with_options(content, flags.overrides), provider=str(file))
        return COMPLETE
    if file.name == "config.yaml":
        raise UserError(f"'{file}' has the name of dltrain's file, which hides it: give it another name")
    return name


def complete_file() -> Path | None:
    """Return the file that was stored as :data:`COMPLETE`, if any was."""
    stored = ConfigStore.instance().repo.get(f"{COMPLETE}.yaml")
    return Path(stored.provider) if stored else None


def _with_options(content: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Add dltrain's list of options to ``content``, the configuration of a run, which needs none of them.

    Options that ``overrides`` choose, and those that such an option picks in turn, take the place of the whole node.
    Keys that a run of an earlier version lacks have their defaults.
    """
    primary: Any = OmegaConf.create(files("dltrain.conf").joinpath("config.yaml").read_text(encoding="utf-8"))
    listed: list[Any] = [dict(entry) if isinstance(entry, DictConfig) else entry for entry in primary.defaults]
    groups = {name for entry in listed if isinstance(entry, dict) for name in entry if "/" not in name}
    needless = groups - {"trainer", *({"pruner"} - content.keys())}
    primary.defaults = [dict.fromkeys(needless.intersection(entry)) or entry for entry in listed]
    words = [text.partition("=") for text in overrides]
    chosen = {name for group, _, value in words if group in groups for name in _picked(group, value)}
    merged = OmegaConf.merge(
        primary, {name: node for name, node in content.items_ex(resolve=False) if name not in chosen}
    )
    assert isinstance(merged, DictConfig)
    return merged


def _picked(group: str, value: str) -> Iterator[str]:
    """Yield the groups of which ``group=value`` chooses an option, directly or through other options."""
    if value.startswith("{"):  # keys, and no option
        return
    yield group
    for option in value.strip("[]").split(","):
        file = files("dltrain.conf").joinpath(group, f"{option.strip()}.yaml")
        if file.is_file():
            content: Any = OmegaConf.to_container(OmegaConf.create(file.read_text(encoding="utf-8")))
            for entry in content.get("defaults", ()):
                for name, picked in entry.items() if isinstance(entry, dict) else ():
                    yield from _picked(name.removeprefix("override /").partition("@")[0], str(picked))


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
