"""The floor plan of ``dltrain/``, held by reading its imports: who may build on whom."""

import ast
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dltrain

ROOT = Path(dltrain.__file__).parent

# From the roof to the ground: a room imports from itself and from the floors below; rooms of a floor know nothing of
# each other. A module belongs to the longest of these names that begins its own.
HOUSE = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("sweep",),
    ("trained.launch",),
    ("trained",),
    ("build",),
    ("config",),
    ("training",),
    ("runs",),
    ("data", "distributed", "loggers", "losses", "models", "report", "schedulers"),
    ("system",),
    ("errors",),
    ("",),  # the version
)
DATA = (
    ("data",),  # the options of the group, batches, inputs to predict from
    ("data.shard_files",),
    ("data.images", "data.tables"),
    ("data.base", "data.cache", "data.folders", "data.splits", "data.stated", "data.workers"),
)


def name_of(path: Path) -> str:
    """The module in a file, without the leading ``dltrain.``; empty for the package itself."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in ROOT.rglob("*.py")}


def imports_of(path: Path) -> Iterator[str]:
    """Modules of dltrain that a file imports, anywhere in it: within functions and for types alone, too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            package, _, module = name.partition(".")
            if package == "dltrain":
                yield module if module in MODULES else module.rpartition(".")[0]


@pytest.fixture(scope="module")
def arrows() -> set[tuple[str, str]]:
    """Who imports whom; what the package itself offers is imported once somebody uses it."""
    return {(name, other) for name, path in MODULES.items() if name for other in imports_of(path)}


def room_of(module: str, floors: tuple[tuple[str, ...], ...]) -> tuple[int, str]:
    """The floor, from the roof, and the room of a module."""
    rooms = [(room, floor) for floor, rooms in enumerate(floors) for room in rooms]
    fitting = [(room, floor) for room, floor in rooms if module == room or (room and module.startswith(f"{room}."))]
    assert fitting, f"{module} has no room"
    room, floor = max(fitting, key=lambda place: len(place[0]))
    return floor, room


def upward(arrows: set[tuple[str, str]], floors: tuple[tuple[str, ...], ...]) -> set[tuple[str, str]]:
    """Imports that do not go down, between rooms."""
    places = {name: room_of(name, floors) for arrow in arrows for name in arrow}
    return {(low, high) for low, high in arrows if places[low] != places[high] and places[high][0] <= places[low][0]}


def test_rooms_build_on_the_floors_below_them(arrows):
    assert upward(arrows, HOUSE) == set()


def test_the_rooms_of_the_data_build_on_the_floors_below_them(arrows):
    within = {(name, other) for name, other in arrows if name.startswith("data.") and other.startswith("data.")}
    assert upward(within, DATA) == set()


@pytest.mark.parametrize("depth", [None, 1], ids=["modules", "entries of the ground floor"])
def test_none_import_each_other(arrows, depth):
    pairs = {tuple(".".join(name.split(".")[:depth]) for name in arrow) for arrow in arrows}
    graph = {low: {high for name, high in pairs if name == low and high != low} for low, _ in pairs}
    TopologicalSorter(graph).prepare()  # raises CycleError, which shows a knot


def test_a_room_is_there_for_every_name_in_the_plan():
    rooms = {room for floors in (HOUSE, DATA) for floor in floors for room in floor}
    assert {room for room in rooms if room not in MODULES} == set()


def test_the_ground_floor_fits_on_a_screen():
    entries = {path.name for path in ROOT.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 20, sorted(entries)


def test_every_folder_with_code_is_installed():
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {name for name, path in MODULES.items() if path.name == "__init__.py"}
    assert {name_of(path.with_name("__init__.py")) for path in MODULES.values()} == packages
    names = {f"dltrain.{name}".rstrip(".") for name in packages}
    assert set(project["tool"]["setuptools"]["packages"]) == {*names, "dltrain.conf"}
