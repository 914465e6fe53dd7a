"""Paths that look like something else: every verb takes them, and what dltrain prints can be typed as it stands."""

import re
import shlex
import shutil

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from dltrain.errors import quoted, to_type

# Hydra's override_dirname first.
NAMES = [
    "optim.lr=0.1,seed=1",
    "out=split=x",
    "-dash",
    "a b",
    'it\'s "it"',
    "[a]{b}*(c)?",
    "$HOME ${x}",
    "back\\slash\\",
    "~a;#&|ü",
]


@pytest.mark.parametrize(
    "text", [*NAMES, "", "5", "1e3", "null", "true", " a ", "a\tb", '\\"', "\\${x}", "a:b", "a\nb"]
)
def test_a_value_is_typed_so_that_it_is_read_as_it_was(text):
    (override,) = OverridesParser.create().parse_overrides([f"key={quoted(text)}"])
    assert OmegaConf.create({"key": override.value()}).key == text
    assert shlex.split(to_type("key", text)) == [f"key={quoted(text)}"]


@pytest.fixture
def named(finished_runs, dltrain, tmp_path):
    """The folder of a finished run under another name."""

    def copy(name):
        shutil.copytree(finished_runs["digits"], tmp_path / name)
        return name

    return copy


@pytest.mark.parametrize("name", NAMES)
def test_what_exists_is_a_path_before_it_is_an_override(named, verb, name):
    run = named(name)
    compared = verb("compare", run, run, "out=page.html")
    assert compared.code == 0, compared.stderr
    assert [one["run"].rpartition("/")[2] for one in compared.result["runs"]] == [name, name]
    told = verb("export", f"{run}/checkpoints/best.pt", "format=state_dict", "out=weights.pt")
    assert told.code == 0, told.stderr


def test_every_verb_takes_a_run_that_looks_like_an_override(named, verb, tmp_path):
    run = named("split=train,seed=1")
    assert verb("evaluate", run, "split=val").result["split"] == "val"
    assert verb("report", run, "out=page.html").code == 0
    assert verb("resume", run, "trainer.epochs=3").folder == tmp_path / run
    (tmp_path / "lr=0.1").mkdir()
    shutil.copy(tmp_path / run / "curves.png", tmp_path / "lr=0.1" / "curves.png")
    assert verb("predict", run, "lr=0.1/*.png", "out=classes.csv", "device=cpu").result["rows"] == 1
    assert verb("predict", run, "lr=0.1", "out=classes.csv").result["rows"] == 1


def test_what_is_no_path_is_an_override_still(verb, named):
    named("run")
    for arguments in (["evaluate", "split=val"], ["resume", "optim.lr=0.1"], ["export", "out=x"]):
        outcome = verb(*arguments)
        assert (outcome.code, "a run folder or a checkpoint comes first" in outcome.stderr) == (2, True)
    assert "no key of this run" in verb("evaluate", "run", "optim.lrr=0.1").stderr


def test_a_run_may_be_made_in_such_a_folder_and_its_hint_can_be_typed(dltrain, verb, tmp_path):
    (word,) = shlex.split(to_type("hydra.run.dir", "runs/optim.lr=0.1, it's"))
    failed = dltrain(word, "trainer.epochs=4", "dataset.limit=40", "optim.lr=1e30", "trainer.on_nonfinite=stop")
    assert failed.code == 1, failed.stderr
    assert (tmp_path / "runs" / "optim.lr=0.1, it's" / "result.json").exists()
    for hint in re.findall(r"to go on: dltrain (.*)", failed.stderr):
        assert "comes first" not in verb(*shlex.split(hint)).stderr


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("dltrain resume optim.lr=0.1 trainer.epo", ["trainer.epochs="]),
        ("dltrain resume 'a b' trainer.epo", ["trainer.epochs="]),
        ("dltrain resume a\\ b trainer.epo", ["trainer.epochs="]),
        ("dltrain evaluate optim.lr=0.1 split=v", ["split=val"]),
        ("dltrain resume a\\ ", []),
        ("dltrain resume 'a b", []),
        ("dltrain name='a b' trainer.epo", ["trainer.epochs="]),
    ],
)
def test_completion_behind_such_a_path(named, verb, monkeypatch, line, offered):
    named("optim.lr=0.1")
    named("a b")
    monkeypatch.setenv("COMP_LINE", line)
    outcome = verb("-sc", "query=bash")
    assert (outcome.code, outcome.stdout.split()) == (0, offered), outcome.stderr


def folder_of_classes(root):
    from PIL import Image

    for name in ("a", "b"):
        (root / "data" / "train" / name).mkdir(parents=True)
        for number in range(6):
            Image.new("L", (8, 8), 40 * number).save(root / "data" / "train" / name / f"{number}.png")


def test_a_path_may_begin_where_the_command_was_typed(dltrain, verb, tmp_path, monkeypatch):
    folder_of_classes(tmp_path)
    typed = ("dataset=image_folder", "dataset.root=${hydra:runtime.cwd}/data", "trainer.epochs=1", "model=mlp")
    assert verb("check", *typed).code == 0
    run = dltrain(*typed, "hydra.run.dir=run")
    assert run.code == 0, run.stderr
    root = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["dataset"]["root"]
    assert root == f"{tmp_path}/data"
    assert verb("evaluate", "run").code == 0
    assert verb("resume", "run", "trainer.epochs=2").code == 0
    sweep = dltrain("-m", *typed, "seed=1,2", "hydra.sweep.dir=sweep")
    assert sweep.code == 0, sweep.stderr
    assert "no such folder" in verb("check", *typed, "dataset.root=${hydra:runtime.cwd}/nowhere").stderr


def test_what_hydra_knows_later_is_no_mistake(dltrain, tmp_path):
    outcome = dltrain("-m", "seed=${hydra:job.num}", "optim.lr=0.1,0.2", "trainer.epochs=1", "dataset.limit=8")
    assert outcome.code == 0, outcome.stderr
    found = [yaml.safe_load(path.read_text())["seed"] for path in sorted(tmp_path.glob("multirun/*/*/*/config.yaml"))]
    assert found == [0, 1]
