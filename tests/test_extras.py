"""The lines that install what is missing, and the name under which this package is installed."""

import importlib.metadata
import json
import re
import sys
import tomllib
from importlib.metadata import PathDistribution
from pathlib import Path

import pytest

import dltrain
from dltrain.errors import UserError
from dltrain.system import extras
from dltrain.system.extras import DISTRIBUTION, install_line, overwritten_files, require_extras

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def installed(folder: Path, name: str, origin: dict | None = None, files: tuple[str, ...] = ()) -> PathDistribution:
    """A distribution as pip leaves it in ``folder``."""
    metadata = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    if origin is not None:
        (metadata / "direct_url.json").write_text(json.dumps(origin))
    return PathDistribution(metadata)


@pytest.mark.parametrize(
    ("origin", "line"),
    [
        (None, 'pip install "dltrain-cli[onnx]"'),  # from a registry
        ({"url": "file:///d.whl", "archive_info": {}}, 'pip install "dltrain-cli[onnx]"'),  # from a wheel
        ({"url": "file:///a%20b/dltrain", "dir_info": {}}, 'pip install "dltrain-cli[onnx]"'),  # pip install FOLDER
        (
            {"url": "file:///a%20b/dltrain", "dir_info": {"editable": True}},
            "cd '/a b/dltrain' && pip install -e \".[onnx]\"",
        ),
    ],
)
def test_the_line_that_installs_an_extra_suits_how_dltrain_was_installed(tmp_path, monkeypatch, origin, line):
    installed(tmp_path, DISTRIBUTION, origin)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "dltrain" / "system" / "extras.py"))
    assert install_line("onnx") == line


def test_metadata_that_a_checkout_on_the_path_holds_says_nothing_of_the_installation(tmp_path, monkeypatch):
    origin = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
    installed(tmp_path / "checkout", DISTRIBUTION)  # as setuptools leaves it there
    installed(tmp_path / "site-packages", DISTRIBUTION, origin)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "checkout"), str(tmp_path / "site-packages")])
    monkeypatch.chdir(tmp_path)
    assert install_line("onnx") == 'pip install -e ".[onnx]"'


def test_a_checkout_that_is_not_installed_at_all_is_one_too(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "dltrain" / "system" / "extras.py"))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.chdir(tmp_path)
    assert install_line("onnx") == 'pip install -e ".[onnx]"'


def test_in_the_checkout_itself_the_line_names_no_folder(tmp_path, monkeypatch):
    installed(tmp_path, DISTRIBUTION, {"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.chdir(tmp_path)
    assert install_line("onnx") == 'pip install -e ".[onnx]"'


def test_a_missing_library_gives_the_line_that_installs_it():
    with pytest.raises(UserError, match=re.escape(f"x needs the package no_such_module: {install_line('nothing')}")):
        require_extras(["json", "no_such_module"], "nothing", "x")


def test_the_name_in_the_code_is_the_one_in_the_metadata():
    assert PROJECT["name"] == DISTRIBUTION == importlib.metadata.metadata(DISTRIBUTION)["Name"]
    assert importlib.metadata.version(DISTRIBUTION) == dltrain.__version__
    assert dict(PROJECT["scripts"]) == {"dltrain": "dltrain.cli:command"}


def test_all_is_every_extra_but_those_for_development():
    optional = PROJECT["optional-dependencies"]
    (line,) = optional["all"]
    name, _, listed = line.rstrip("]").partition("[")
    assert (name, set(listed.split(","))) == (DISTRIBUTION, set(optional) - {"all", "bench", "dev", "test"})


def test_no_text_installs_a_stranger():
    """Every line that installs dltrain, anywhere, names this package or the checkout."""
    places = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("dltrain/**/*.py")]
    lines = [(path.name, line) for path in places for line in path.read_text(encoding="utf-8").splitlines()]
    wrong = [(name, line) for name, line in lines if re.search(r"\bdltrain\[|pip install\W+dltrain(?!-cli)", line)]
    named = [line for _, line in lines if "dltrain-cli[" in line]
    extras_named = {extra for line in named for extra in re.findall(r"dltrain-cli\[([a-z,]+)\]", line)}
    assert wrong == []
    assert extras_named and extras_named <= set(PROJECT["optional-dependencies"])


def test_files_of_the_other_project_in_the_same_folder_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "dltrain" / "system" / "extras.py"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "nothing")])
    assert overwritten_files() == []
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    files = ("dltrain/__init__.py", "dltrain/train.py", "bin/dltrain", "other.py")
    for file in files:  # some readers of metadata pass over files that are not there
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    installed(tmp_path, "dltrain", files=files)
    assert overwritten_files() == ["__init__.py", "train.py"]


def test_check_and_the_run_say_whose_files_lie_over_these(verb, monkeypatch):
    for place in ("dltrain.commands.check", "dltrain.runs.folder"):
        monkeypatch.setattr(f"{place}.overwritten_files", lambda: ["__init__.py"])
    assert verb("check").result["overwritten_files"] == ["__init__.py"]
    done = verb("trainer.epochs=1", "dataset.limit=20", "report=false")
    environment = json.loads((done.folder / "environment.json").read_text())
    assert environment["overwritten_files"] == ["__init__.py"]
