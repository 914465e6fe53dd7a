"""A folder that is another's is as it was, to the byte: whatever refuses, refuses before anything is written."""

import os
import shutil
from pathlib import Path

import pytest
from made import write_images

from dltrain.system.machine import Lock

SHORT = ("trainer.epochs=1", "dataset.limit=40", "model=mlp")
RUN, SWEEP = ("hydra.run.dir=place", "optim=adam"), ("-m", "seed=1,2", "hydra.sweep.dir=place")
BASIC = ("hydra/launcher=basic", "hydra/sweeper=basic")


def bytes_of(folder):
    """Every file in ``folder`` with what it holds, and every folder in it."""
    return {path: path.read_bytes() if path.is_file() else None for path in Path(folder).rglob("*")}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The folders of a run and of a sweep that are done."""
    from dltrain import cli

    root = tmp_path_factory.mktemp("places")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert cli.main([*SHORT, "report=false", "hydra.run.dir=run"]) == 0
    (root / "sweep").mkdir()
    (root / "sweep" / "sweep.json").write_text('{"format": 1, "jobs": []}')
    (root / "other_sweep").mkdir()
    (root / "other_sweep" / "multirun.yaml").write_text("seed: 1\n")
    return root


@pytest.mark.parametrize(
    ("place", "command", "told"),
    [
        ("run", RUN, "holds the checkpoints of an older run"),
        ("run", (*RUN, "resume=auto", "model.hidden_sizes=[3]"), "model.hidden_sizes"),
        ("run", SWEEP, "is the folder of a run"),
        ("run", (*SWEEP, *BASIC), "is the folder of a run"),
        ("run", (*SWEEP, "hydra/launcher=parallel"), "is the folder of a run"),
        ("sweep", RUN, "is the folder of a sweep"),
        ("sweep", (*RUN, "resume=auto"), "is the folder of a sweep"),
        ("other_sweep", RUN, "is the folder of a sweep"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_what_refuses_leaves_the_folder_of_another_as_it_was(dltrain, tmp_path, places, place, command, told):
    shutil.copytree(places / place, tmp_path / "place")
    before = bytes_of(tmp_path)
    refused = dltrain(*command[:1], *SHORT, *command[1:])
    assert refused.code == 2 and told in refused.stderr
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("command", [RUN, SWEEP, (*SWEEP, *BASIC)], ids=" ".join)
@pytest.mark.parametrize("place", ["run", "sweep", "nothing"])
def test_a_folder_in_which_another_process_runs_stays_as_it_was(dltrain, tmp_path, places, place, command):
    if place == "nothing":
        (tmp_path / "place").mkdir()
    else:
        shutil.copytree(places / place, tmp_path / "place")
    before = bytes_of(tmp_path)
    lock = Lock(tmp_path / "place")
    lock.take()
    try:
        refused = dltrain(*command[:1], *SHORT, *command[1:])
    finally:
        lock.release()
    assert refused.code == 2 and "another process runs in" in refused.stderr
    assert bytes_of(tmp_path) == before


def test_a_run_that_is_done_already_stays_as_it_was(dltrain, tmp_path, places):
    shutil.copytree(places / "run", tmp_path / "place")
    before = bytes_of(tmp_path)
    assert dltrain(*SHORT, "hydra.run.dir=place", "resume=auto", "logger=none").code == 0
    assert bytes_of(tmp_path) == before


def test_a_sweep_that_cannot_begin_leaves_no_folder(dltrain, tmp_path):
    refused = dltrain(*SWEEP[:1], *SHORT, *SWEEP[1:], "hydra/sweeper=optuna", "hydra.sweeper.sampler=nope")
    assert refused.code == 2
    assert bytes_of(tmp_path) == {}


def test_a_job_does_not_run_where_a_link_in_its_sweep_leads(dltrain, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "1").symlink_to(tmp_path / "elsewhere")
    refused = dltrain(*SWEEP[:1], *SHORT, *SWEEP[1:])
    assert refused.code == 2 and "job 1 would run in" in refused.stderr and "outside of the sweep" in refused.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


# What a run writes, or may: files, folders, and files within these.
WRITTEN = (
    *("config.yaml", "environment.json", "metrics.csv", "result.json", "train.log", "report.html", "curves.png"),
    *(".hydra", ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "multirun.yaml"),
    *("checkpoints", "checkpoints/last.pt", "checkpoints/best.pt", "checkpoints/last-1.pt"),
    *("checkpoints/best-2", "checkpoints/best-2/.metadata"),
    *(
        "logs",
        "logs/rank-1.log",
        "profile",
        "tensorboard",
        "wandb",
        "wandb/run_id",
        "explain",
        "checkpoints/best-2/.metadata",
    ),
)


def link_out(run, name):
    """Move what is in ``run`` at ``name`` out of it, and leave a link in its place."""
    place = run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    target = run.parent / "elsewhere" / place.name
    target.parent.mkdir()
    if place.exists():
        place.rename(target)
    place.symlink_to(target)


@pytest.mark.parametrize("command", [("resume", "place"), (*RUN[:1], "resume=auto")], ids=" ".join)
@pytest.mark.parametrize("name", WRITTEN)
def test_a_link_that_leads_out_of_a_run_is_refused(dltrain, tmp_path, places, name, command):
    shutil.copytree(places / "run", tmp_path / "place")
    link_out(tmp_path / "place", name)
    before = bytes_of(tmp_path)
    refused = dltrain(*command, *(SHORT[1:] if command[0] != "resume" else ()), "trainer.epochs=2")
    assert refused.code == 2, refused.stderr
    assert f"{name}' is a link to '{tmp_path / 'elsewhere'}" in refused.stderr and "remove the link" in refused.stderr
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("name", ["result.json", "report.html", "checkpoints", "model.pt", "model.pt.json"])
def test_verbs_that_read_a_run_write_nothing_where_a_link_leads(verb, tmp_path, places, name):
    shutil.copytree(places / "run", tmp_path / "place")
    link_out(tmp_path / "place", name)
    before = bytes_of(tmp_path / "elsewhere")
    for arguments in (["report", "place"], ["evaluate", "place"], ["export", "place", "format=state_dict"]):
        outcome = verb(*arguments)
        assert outcome.code == 0, outcome.stderr
    assert bytes_of(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("name", ["explain", "explain/attributions.jsonl"])
def test_an_explanation_is_not_written_where_a_link_leads(verb, finished_runs, tmp_path, name):
    pytest.importorskip("captum")
    write_images(tmp_path / "photos", count=1)
    shutil.copytree(finished_runs["digits"], tmp_path / "place")
    link_out(tmp_path / "place", name)
    before = bytes_of(tmp_path)
    refused = verb("explain", "place", "photos/train/dark/00.png")
    assert refused.code == 2 and f"{name}' is a link to '" in refused.stderr
    assert bytes_of(tmp_path) == before


def test_a_run_goes_on_with_links_to_its_folder_within_it_and_of_wandb(dltrain, tmp_path, places):
    shutil.copytree(places / "run", tmp_path / "elsewhere")
    (tmp_path / "place").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "train.log").rename(tmp_path / "elsewhere" / "older.log")
    (tmp_path / "elsewhere" / "train.log").symlink_to("older.log")
    (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "place")
    (tmp_path / "elsewhere" / "data").symlink_to(tmp_path)  # which is not written
    (tmp_path / "elsewhere" / "wandb" / "offline-run-1" / "logs").mkdir(parents=True)
    (tmp_path / "elsewhere" / "wandb" / "offline-run-1" / "logs" / "debug-core.log").symlink_to(tmp_path / "core.log")
    assert dltrain("resume", "place", "trainer.epochs=2").code == 0
    assert "after step" in (tmp_path / "elsewhere" / "older.log").read_text()


@pytest.mark.parametrize("name", ["multirun.yaml", "sweep.csv", ".submitit", "1/train.log"])
@pytest.mark.parametrize("launcher", [(), BASIC], ids=["dltrain's", "Hydra's"])
def test_a_link_that_leads_out_of_a_sweep_is_refused(dltrain, tmp_path, name, launcher):
    (tmp_path / "place").mkdir()
    link_out(tmp_path / "place", name)
    before = bytes_of(tmp_path)
    refused = dltrain(*SWEEP[:1], *SHORT, *SWEEP[1:], *launcher)
    assert refused.code == 2 and f"{name}' is a link to '" in refused.stderr
    assert bytes_of(tmp_path) == before


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize(
    "name", ["config.yaml", "metrics.csv", "train.log", ".hydra/config.yaml", "checkpoints/best.pt"]
)
def test_a_run_whose_files_cannot_be_written_does_not_go_on(dltrain, tmp_path, places, name, make):
    run = tmp_path / "place"
    shutil.copytree(places / "run", run)
    (run / name).unlink(missing_ok=True)
    make(run / name)
    refused = dltrain(*RUN[:1], "resume=auto", *SHORT[1:], "trainer.epochs=2")
    assert refused.code == 2 and refused.stderr.count("\n") == 1
    assert f"{name}' must be a file" in refused.stderr or f"{name}' is a pipe" in refused.stderr


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
@pytest.mark.parametrize("name", ["multirun.yaml", "sweep.json", "sweep.csv", "0/train.log"])
def test_a_sweep_whose_files_cannot_be_written_does_not_begin(dltrain, tmp_path, name, make):
    place = tmp_path / "place" / name
    place.parent.mkdir(parents=True)
    make(place)
    refused = dltrain(*SWEEP[:1], *SHORT, *SWEEP[1:])
    assert refused.code == 2 and refused.stderr.count("\n") == 1
    assert f"{name}' must be a file" in refused.stderr or f"{name}' is a pipe" in refused.stderr


def test_no_job_of_another_launcher_runs_where_a_link_leads(dltrain, tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "place" / "1").symlink_to(tmp_path / "elsewhere")
    refused = dltrain(*SWEEP[:1], *SHORT, *SWEEP[1:], *BASIC)
    assert refused.code == 2 and "place/1' is a link to '" in refused.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []
