"""Files that are written whole or not at all, and what else than a file may lie where one is wanted."""

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from made import write_images, write_table

from dltrain.cli import main
from dltrain.commands.predict import writing
from dltrain.system.files import kind_of, remove_unfinished, write_text, written_whole
from dltrain.system.machine import Lock

WRITES = {
    **{f"export {suffix}": ("export", "{run}", f"out={{disk}}/m{suffix}") for suffix in (".onnx", ".pt2", ".pt")},
    "export .safetensors": ("export", "{run}", "out={disk}/m.safetensors"),
    "predict .csv": ("predict", "{run}", "photos", "out={disk}/p.csv"),
    "predict .parquet": ("predict", "{run}", "photos", "out={disk}/p.parquet"),
    "explain": ("explain", "{run}", "photos/train/dark/00.png", "out={disk}/explained"),
    "report": ("report", "{run}", "out={disk}/page.html"),
    "compare": ("compare", "{run}", "{run}", "out={disk}/page.html"),
    "shards tar": ("shards", "photos", "{disk}/shards"),
    "shards parquet": ("shards", "photos", "{disk}/shards", "format=parquet"),
}


# On a full disk webdataset leaves a file of a shard open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("state", ["full", "read-only"])
@pytest.mark.parametrize("words", WRITES.values(), ids=WRITES)
def test_a_disk_that_takes_no_file_is_one_message_and_no_half_file(
    verb, finished_runs, tmp_path, small_disk, words, state
):
    write_images(tmp_path / "photos", count=20 if words[0] in ("predict", "shards") else 2)
    filler = small_disk / "filler"
    filler.write_bytes(bytes((1 << 20) - (4096 if state == "full" else 1 << 19)))
    if words[0] == "predict" and state == "full":
        with open(filler, "ab") as file:  # a table is small
            file.write(bytes(4096))
    if state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    ended = verb(*(word.format(run=finished_runs["digits"], disk=small_disk) for word in words))
    assert (ended.code, ended.stderr.count("dltrain: "), "Traceback" in ended.stderr) == (2, 1, False), ended.stderr
    assert "cannot be written" in ended.stderr
    gc.collect()
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["filler"]


def test_of_two_that_write_the_same_file_the_later_one_leaves_its_own(tmp_path):
    for suffix in (".csv", ".jsonl", ".parquet"):
        path = tmp_path / f"p{suffix}"
        with writing(path, {"a": int, "b": str}) as first:
            first([1, "first"])
            with writing(path, {"a": int, "b": str}) as second:
                second([2, "second"])
                first([1, "first"])
            assert "second" in str(_read(path)) and "first" not in str(_read(path))
        assert _read(path).rows() == [(1, "first"), (1, "first")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.jsonl", "p.parquet"]


def _read(path: Path) -> pl.DataFrame:
    return {".csv": pl.read_csv, ".jsonl": pl.read_ndjson, ".parquet": pl.read_parquet}[path.suffix](path)


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    write_text(path, "before")
    with pytest.raises(KeyboardInterrupt), written_whole(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("page.html", "before")]


def test_what_is_no_file_is_not_replaced(verb, finished_runs, tmp_path):
    (tmp_path / "null").symlink_to(os.devnull)
    os.mkfifo(tmp_path / "page.html")
    for out in ("null", "page.html"):
        refused = verb("report", str(finished_runs["sunspots"]), f"out={out}")
        assert refused.code == 2 and f"'{out}' cannot be written: there is a " in refused.stderr
    assert kind_of(tmp_path / "null") == "a device" and kind_of(tmp_path / "page.html") == "a pipe"


def test_what_a_killed_process_has_left_is_removed_as_the_run_begins_again(tmp_path):
    for name in ("last.pt.0a1b2c3d.tmp", "notes.tmp", "last.pt"):
        (tmp_path / name).touch()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.pt", "notes.tmp"]


def test_two_explanations_into_one_folder_are_refused(verb, finished_runs, tmp_path):
    write_images(tmp_path / "photos", count=1)
    (tmp_path / "explained").mkdir()
    lock = Lock(tmp_path / "explained")
    lock.take()
    words = ("explain", str(finished_runs["digits"]), "photos/train/dark/00.png", "out=explained")
    refused = verb(*words)
    assert refused.code == 2 and "another process writes to 'explained'" in refused.stderr
    assert list((tmp_path / "explained").iterdir()) == []
    lock.release()
    assert verb(*words).code == 0


GONE = [
    [],
    ["-m", "seed=1,2"],
    ["list", "optim"],
    *([name, "run"] for name in ("check", "evaluate", "predict", "explain", "export", "resume", "report", "compare")),
    ["shards", "photos", "out"],
    ["cache"],
]


def test_a_deleted_working_directory_is_one_message_of_every_verb(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for arguments in GONE:
        assert main(arguments) == 2
        assert capsys.readouterr().err == ("dltrain: the working directory was deleted; go to another: cd FOLDER\n")
    assert main(["--version"]) == 0


def test_a_deleted_working_directory_is_told_by_the_module_as_well(tmp_path):
    script = 'mkdir gone; cd gone; rmdir ../gone; exec "$0" -m dltrain evaluate run'
    ended = subprocess.run(["sh", "-c", script, sys.executable], cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, "the working directory was deleted" in ended.stderr) == (2, True), ended.stderr


PIPES = {
    ("evaluate", "pipe.pt"): "'pipe.pt' is a pipe, no run",
    ("evaluate", "best"): "best.pt' is a pipe, no file",
    ("resume", "environment"): "environment.json' cannot be read: it is a pipe, no file",
    ("report", "config"): "config.yaml' cannot be read: it is a pipe, no file",
    ("report", "metrics"): "metrics.csv' cannot be read: it is a pipe, no file",
    ("compare", "result", "result"): "result.json' cannot be read: it is a pipe, no file",
    ("predict", "{tables}", "pipe.csv"): "'pipe.csv' is a pipe, no file; a table may come through /dev/stdin",
    ("predict", "{digits}", "pipe.png"): "'pipe.png' is a pipe, no file",
    ("predict", "{tables}", "/dev/zero"): "'/dev/zero' is a device, no file",
    ("check", "dataset=table", "dataset.path=pipe.csv", "dataset.target=x"): "that is a pipe; it must be a CSV",
    ("dataset=shards", "dataset.root=tars"): "0.tar is left out: it is a pipe, no file",
    ("dataset=image_folder", "dataset.root=images"): "1 .png that is a pipe",
}


@pytest.fixture(scope="module")
def pipes(tmp_path_factory, finished_runs) -> Path:
    """Pipes that nobody writes to, where files are wanted."""
    top = tmp_path_factory.mktemp("pipes")
    inside = {
        **dict.fromkeys(["best"], "checkpoints/best.pt"),
        **{name: f"{name}.json" for name in ("result", "environment")},
        "config": "config.yaml",
        "metrics": "metrics.csv",
    }
    for name, file in inside.items():
        shutil.copytree(finished_runs["digits"], top / name)
        (top / name / file).unlink()
        os.mkfifo(top / name / file)
    for folder in ("tars/train", "images/train/a", "images/train/b"):
        (top / folder).mkdir(parents=True)
    for name in ("pipe.pt", "pipe.csv", "pipe.png", "tars/train/0.tar", "images/train/a/0.png"):
        os.mkfifo(top / name)
    return top


@pytest.mark.parametrize(("words", "message"), PIPES.items(), ids=map(" ".join, PIPES))
def test_a_pipe_where_a_file_is_wanted_is_named_and_not_waited_for(
    verb, pipes, finished_runs, monkeypatch, words, message
):
    monkeypatch.chdir(pipes)
    runs = {"digits": finished_runs["digits"], "tables": finished_runs["diabetes"]}
    ended = verb(*(word.format(**runs) for word in words))
    assert message in ended.stderr and ended.code == 2 and "Traceback" not in ended.stderr, ended.stderr


@pytest.mark.parametrize("how", ["cat t.csv | {} /dev/stdin", "{} /dev/stdin <t.csv", "{} <(cat t.csv)"])
def test_a_table_may_come_through_a_pipe_that_is_asked_for(dltrain, tmp_path, how):
    write_table(tmp_path / "t.csv", rows=20)
    words = ("dataset=table", "dataset.path=t.csv", "dataset.target=kind", "trainer.epochs=1", "hydra.run.dir=run")
    assert dltrain(*words).code == 0
    command = f"'{sys.executable}' -m dltrain predict run"
    ended = subprocess.run(["bash", "-c", how.format(command)], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 21
