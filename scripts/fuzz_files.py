"""Files and values that somebody else could have made: changed at random by a seeded generator."""

import copy
import io
import json
import os
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

from dltrain.runs.checkpoint import _seal

SECRET = "DLTRAIN_FUZZ_SECRET"  # a variable of the environment whose value no file of others may ask for
MARKUP = "<img src=x onerror=fuzz()>"  # which no page may hold as it is
_LARGE = 8000  # characters of a text that is too long for a line
_TOKENS = (
    *(b"\0", b"\xff", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b"'", b"\n", b"\r", b"\r\n", b",", b";", b"\t", b"{"),
    b"[" * 5000,
    *(b"nan", b"inf", b"-1e400", b"99999999999999999999", b"2026-13-45", b"\x1b[2J", b"&a [*a]"),
    b"!!python/name:os.system ",
    *(b"${oc.env:%s}" % SECRET.encode(), MARKUP.encode(), b"PK\5\6", b"9" * _LARGE, "é€😀\u202e\u2028".encode()),
)


def bytes_of(draw: random.Random, content: bytes) -> bytes:
    """``content`` with bytes changed, cut out, put in or repeated, or something else altogether."""
    if draw.random() < 0.05:
        return draw.choice([b"", b"\0" * 512, draw.randbytes(300), b"[" * 100_000, b"\xff\xfe" + content[:500]])
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 1, 2, 5, 20])):
        place, size = draw.randint(0, len(changed)), draw.choice([1, 1, 2, 8, 100])
        kind = draw.randrange(6)
        if kind == 0 and place < len(changed):
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[place : place + size] = draw.randbytes(size)
        elif kind == 2:
            del changed[place : place + size]
        elif kind == 3:
            changed[place:place] = draw.choice(_TOKENS)
        elif kind == 4:
            changed[place:place] = changed[place : place + size]
        elif kind == 5 and draw.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def value(draw: random.Random, outside: Path) -> Any:
    """What a JSON or YAML file can hold where something else belongs."""
    return draw.choice(
        [
            *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 10**6, 2**31, 2**63, 2**64, 10**30, 10**400, 1e308, 1e-320),
            *(float("nan"), float("inf"), -float("inf"), "", " ", "a", "0", "nan", "null", "auto", "cpu"),
            *("cuda:7", "x" * _LARGE),
            *(f"${{oc.env:{SECRET}}}", f"${{oc.decode:${{oc.env:{SECRET}}}}}", "${hydra:runtime.cwd}"),
            *("${optim.lr}", "${a.b}", "${"),
            *(f"{outside}", "../outside/kept", f"{outside}/new", "~/x", "/dev/zero", "/proc/self/environ", "/"),
            *(MARKUP, "\x1b[2J\x1b]0;x\x07", "a\nb\r\nc", "\0", "é€😀\u202e\u2028", "\ud800", "$(touch pwned)"),
            *("';`touch pwned`", "%s%n{x}"),
            *([], {}, [[]], [None], [{}], {"": ""}, {"a": [1]}, list(range(2000)), _nested(80), [0] * 50),
            *([-1, 2**40], [1e300]),
            *({"_target_": "os.system", "command": f"touch {outside}/pwned"}, {"_target_": "torch.hub.load"}),
            "os.system",
            *({"_target_": "pathlib.Path", "_args_": [f"{outside}/pwned"]}, "builtins.exec", "torch.nn.Linear"),
            "dltrain.cli.main",
            *("digits", "classification", "regression", "image", "series", "table", "done", "running"),
            *("failed", "2026-01-01"),
        ]
    )


def _nested(depth: int) -> Any:
    nested: Any = 1
    for level in range(depth):
        nested = [nested] if level % 2 else {"a": nested}
    return nested


def tree_of(draw: random.Random, tree: Any, new: Callable[[], Any]) -> Any:
    """``tree`` of mappings and lists with one or a few places replaced, taken out, renamed or exchanged."""
    root = [copy.deepcopy(tree)]
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        places = list(_places(root))
        container, key = draw.choice(places)
        kind = draw.randrange(8)
        if kind == 0 and container is not root:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[draw.choice([f"{key}x", "", MARKUP, "${a}", "a.b", str(new())[:50]])] = container.pop(key)
        elif kind == 2:
            other, place = draw.choice(places)
            container[key] = copy.deepcopy(other[place])
        elif kind == 3 and isinstance(container[key], int | float):
            container[key] = draw.choice([-container[key], container[key] + 1, container[key] * 1000, 0.5])
        elif kind == 4:
            container[key] = draw.choice([[container[key]], {"a": container[key]}, str(container[key])])
        elif kind == 5 and isinstance(container[key], list):
            container[key] = container[key] * draw.choice([0, 2, 3])
        else:
            container[key] = new()
    return root[0]


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    for key, inner in items[:60]:
        yield node, key
        yield from _places(inner)


def json_of(draw: random.Random, content: bytes, outside: Path) -> bytes:
    """A JSON file with other contents, or other bytes."""
    if draw.random() < 0.25:
        return bytes_of(draw, content)
    return json.dumps(tree_of(draw, json.loads(content), lambda: value(draw, outside))).encode()


def yaml_of(draw: random.Random, content: bytes, outside: Path) -> bytes:
    """A YAML file with other contents, or other bytes."""
    if draw.random() < 0.25:
        return bytes_of(draw, content)
    tree = tree_of(draw, yaml.safe_load(content), lambda: value(draw, outside))
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False).encode("utf-8", "surrogatepass")


def csv_of(draw: random.Random, content: bytes, outside: Path) -> bytes:
    """A CSV file with other cells, lines, separators or encoding."""
    kind = draw.randrange(6)
    if kind == 0:
        return bytes_of(draw, content)
    lines = content.decode().splitlines()
    if kind == 1:
        separator = draw.choice([";", "\t", "|", " ", ":", "\0", "€"])
        lines = [line.replace(",", separator) for line in lines]
    for _ in range(draw.choice([1, 1, 3, 10])):
        place = draw.choice([0, 1, draw.randrange(len(lines)), len(lines) - 1])
        cells = lines[place].split(",")
        lines[place] = ",".join(_cells_of(draw, cells, outside))
        if draw.random() < 0.2:
            lines.insert(
                place, draw.choice(["", " ", ",,,", "# a comment", lines[0], lines[-1], '"', "x" * _LARGE, "sep=;"])
            )
    ending = draw.choice(["\n", "\n", "\n", "\r\n", "\r", "\n\n"])
    text = ending.join(lines) + draw.choice([ending, "", "\0", "\x1a"])
    encoding = draw.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
    return text.encode(encoding, "replace")


def _cells_of(draw: random.Random, cells: list[str], outside: Path) -> list[str]:
    place = draw.randrange(len(cells))
    kind = draw.randrange(6)
    if kind == 0:
        return cells[:place] + cells[place + 1 :]
    if kind == 1:
        return [*cells[:place], cells[place], *cells[place:]]
    if kind == 2:
        return [cells[0]] * len(cells)
    cells[place] = draw.choice(
        [
            *("", " ", "nan", "inf", "-inf", "1e400", "-1e-400", "1_000", "1.000,5", "0x10", "١٢", "1e5", "NA"),
            *("true", '"', '"a', '""', "'"),
            *("99999-01-01", "2026-02-30", "1677-01-01 00:00:00", "2026-01-01T00:00:00+99:00", "24:00", "-1"),
            *("9" * 400, "x" * _LARGE),
            str(value(draw, outside)),
        ]
    )
    return cells


def image_of(draw: random.Random, content: bytes) -> bytes:
    """An image file with other bytes, of another format, mode or size, or with a header that lies."""
    if draw.random() < 0.4:
        return bytes_of(draw, content)
    image = Image.open(io.BytesIO(content))
    mode = draw.choice(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16"])
    size = draw.choice([image.size, image.size, (1, 1), (3000, 1), (1, 3000), (300, 200)])
    with_mode = (image.convert(mode) if mode != "I;16" else image.convert("I").convert("I;16")).resize(size)
    kind = draw.choice(
        ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PDF", "EPS", "PCX", "SGI", "DDS"]
    )
    written = io.BytesIO()
    try:
        with_mode.save(written, kind)
    except (OSError, ValueError, KeyError):  # a format that has no such mode
        return _huge(draw, content)
    return written.getvalue() if draw.random() < 0.7 else bytes_of(draw, written.getvalue())


def _huge(draw: random.Random, content: bytes) -> bytes:
    """A PNG whose header says that it has very many pixels."""
    sides = struct.pack(">II", draw.choice([0, 20_000, 100_000, 2**31 - 1]), draw.choice([1, 20_000, 2**31 - 1]))
    header = b"IHDR" + sides + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


def checkpoint_of(draw: random.Random, content: bytes, outside: Path) -> bytes:
    """A checkpoint with other contents, in most cases with the checksum that belongs to them."""
    kind = draw.randrange(10)
    if kind == 0:
        return bytes_of(draw, content)
    if kind == 1:
        return sealed(bytes_of(draw, _unsealed(content)))
    if kind == 2:
        return sealed(_members_of(draw, content))
    if kind == 3:
        return sealed(_saved(_Runs(f"touch {outside}/pwned")))
    tree = torch.load(io.BytesIO(content), weights_only=True)
    if kind in (4, 5, 6):  # in the configuration, which is text
        for key in ("config", "composed"):
            if isinstance(tree.get(key), str) and draw.random() < 0.8:
                tree[key] = yaml_of(draw, tree[key].encode(), outside).decode("utf-8", "replace")
    elif kind == 7:
        part = draw.choice(["facts", "preprocessing"])
        tree[part] = tree_of(draw, tree[part], lambda: _value_or_tensor(draw, outside))
    else:
        tree = tree_of(draw, tree, lambda: _value_or_tensor(draw, outside))
    return sealed(_saved(tree))


class _Runs:
    """Runs a command where it is unpickled by somebody who trusts it."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def _value_or_tensor(draw: random.Random, outside: Path) -> Any:
    if draw.random() < 0.7:
        return value(draw, outside)
    return draw.choice(
        [
            *(torch.empty(0), torch.tensor(1.0), torch.zeros(3, 2), torch.full((4,), torch.nan)),
            torch.ones(2, dtype=torch.bool),
            *(torch.zeros(1).expand(10**6), torch.zeros(3, dtype=torch.complex64), torch.ones(3, dtype=torch.int8)),
            *(torch.eye(3).to_sparse(), torch.empty(3, device="meta"), torch.nn.Parameter(torch.ones(2))),
            *(1j, b"bytes", (1, 2), torch.float16, torch.device("cuda:3"), torch.Size([2])),
        ]
    )


def _saved(tree: Any) -> bytes:
    file = io.BytesIO()
    try:
        torch.save(tree, file)
    except (RecursionError, pickle.PicklingError, UnicodeEncodeError):
        torch.save({"format": 2}, file)
    return file.getvalue()


def _unsealed(content: bytes) -> bytes:
    end = content.rfind(b"PK\5\6") + 20
    return content[:end] + b"\0\0"


def sealed(content: bytes) -> bytes:
    """``content`` with the checksum that a checkpoint ends with, where it is a ZIP archive."""
    file = io.BytesIO(content)
    try:
        _seal(file)
    except (OSError, ValueError, struct.error):
        return content
    return file.getvalue()


def _members_of(draw: random.Random, content: bytes) -> bytes:
    """The archive with members changed, left out, renamed or doubled."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as before, zipfile.ZipFile(written, "w") as after:
        names = before.namelist()
        chosen = draw.choice([*names, *[name for name in names if name.endswith(".pkl")] * 10])
        for name in names:
            member, kind = before.read(name), draw.randrange(5)
            if name != chosen or kind > 1:
                after.writestr(name, bytes_of(draw, member) if name == chosen else member)
            if name == chosen and kind == 1:
                after.writestr(draw.choice(["../../outside/pwned", f"/{name}", f"{name}x", name.upper()]), member)
    return written.getvalue()
