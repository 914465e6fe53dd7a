"""The line of each key of a YAML file, and what is wrong with a file that cannot be read."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from dltrain.system.yaml_text import RefusedYAML, require_plain

Key = tuple[str, ...]
_HIDDEN = re.compile(rb"\xef\xbb\xbf\s*#\s*@")


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
    if not path.is_file() or not _HIDDEN.match(path.read_bytes()):
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
