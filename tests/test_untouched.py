"""A folder that is another's is as it was, to the byte: whatever refuses, refuses before anything is written."""

import shutil
from pathlib import Path

import pytest

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
