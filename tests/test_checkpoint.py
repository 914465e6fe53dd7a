"""Checkpoint files: what is read of them, what is recognised as damage, and what a failing disk leaves behind."""

import collections
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dltrain.errors import CheckpointError, TrainingError
from dltrain.runs import checkpoint
from dltrain.runs.writer import Checkpoints, Due

CONTENT = {"epoch": 3, "model": {"weight": torch.arange(6.0).view(2, 3)}, "metrics": {"val/loss": 0.1}}


def saved(folder: Path, **content) -> Path:
    path = folder / "last.pt"
    checkpoint.save(path, {**CONTENT, **content})
    return path


def flipped(content: bytes, position: int, mask: int = 0x01) -> bytes:
    changed = bytearray(content)
    changed[position] ^= mask
    return bytes(changed)


@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mapped"])
def test_plain_torch_reads_the_file(tmp_path, mmap):
    content = torch.load(saved(tmp_path), weights_only=True, mmap=mmap)
    assert content["format"] == checkpoint.FORMAT
    assert torch.equal(content["model"]["weight"], CONTENT["model"]["weight"])


def test_what_is_loaded_equals_what_was_saved(tmp_path):
    content = checkpoint.load(saved(tmp_path))
    assert torch.equal(content.pop("model")["weight"], CONTENT["model"]["weight"])
    assert content == {"format": checkpoint.FORMAT, "epoch": 3, "metrics": {"val/loss": 0.1}}


def test_every_flipped_byte_is_recognised(tmp_path):
    content = saved(tmp_path).read_bytes()
    ends = [*range(200), *range(len(content) - 200, len(content))]
    for position in {*ends, *range(0, len(content), 7)}:
        for mask in (0x01, 0x80):
            (tmp_path / "flipped.pt").write_bytes(flipped(content, position, mask))
            assert checkpoint.find_fault(tmp_path / "flipped.pt"), position


def test_a_file_cut_short_at_any_length_is_recognised(tmp_path):
    content = saved(tmp_path).read_bytes()
    for length in {*range(100), *range(0, len(content), 11), *range(len(content) - 100, len(content))}:
        (tmp_path / "cut.pt").write_bytes(content[:length])
        assert checkpoint.find_fault(tmp_path / "cut.pt"), length


def test_a_file_with_something_behind_it_is_recognised(tmp_path):
    (tmp_path / "longer.pt").write_bytes(saved(tmp_path).read_bytes() + b"\0")
    assert checkpoint.find_fault(tmp_path / "longer.pt")


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


def write_text(path: Path) -> None:
    path.write_text("no checkpoint " * 20)


def write_foreign(path: Path) -> None:
    torch.save({"state_dict": {}}, path)


def write_foreign_with_a_checksum(path: Path) -> None:
    checkpoint.save(path, {"format": "other"})


def write_newer(path: Path) -> None:
    checkpoint.save(path, {"format": checkpoint.FORMAT + 1})


def write_older(path: Path) -> None:
    checkpoint.save(path, {"format": checkpoint.FORMAT - 1})


def write_planted(path: Path) -> None:
    torch.save({"format": checkpoint.FORMAT, "x": Planted(path.with_name("planted"))}, path)


def write_planted_with_a_checksum(path: Path) -> None:
    checkpoint.save(path, {"x": Planted(path.with_name("planted"))})


def write_damaged(path: Path) -> None:
    checkpoint.save(path, CONTENT)
    path.write_bytes(flipped(path.read_bytes(), 300))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, "does not exist"),
        (Path.mkdir, "is a folder, no file"),
        (write_empty, "is empty"),
        (write_text, "is cut short, or no checkpoint of dltrain"),
        (write_foreign, "is cut short, or no checkpoint of dltrain"),
        (write_foreign_with_a_checksum, "is no checkpoint of dltrain"),
        (write_newer, "of a newer dltrain"),
        (write_older, "of an older dltrain"),
        (write_planted, "is cut short, or no checkpoint of dltrain"),
        (write_planted_with_a_checksum, "it holds something else than plain types and tensors$"),
        (write_damaged, "does not match its checksum"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_is_no_whole_checkpoint_is_refused_and_runs_no_code(tmp_path, write, message):
    path = tmp_path / "last.pt"
    write(path)
    with pytest.raises(CheckpointError, match=message) as raised:
        checkpoint.load(path)
    assert str(path) in str(raised.value)
    assert not (tmp_path / "planted").exists()


def test_the_planted_code_would_have_run(tmp_path):
    write_planted(tmp_path / "last.pt")
    torch.load(tmp_path / "last.pt", weights_only=False)
    assert (tmp_path / "planted").is_dir()


@pytest.mark.parametrize("step", ["os.fsync", "os.replace", "dltrain.runs.checkpoint._seal", "torch.save"])
def test_the_checkpoint_before_stays_whatever_fails_while_the_next_is_written(tmp_path, monkeypatch, step):
    path = saved(tmp_path, epoch=1)

    def fail(*arguments):
        raise OSError("no")

    monkeypatch.setattr(step, fail)
    with pytest.raises(OSError, match="no"):
        checkpoint.save(path, {**CONTENT, "epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["epoch"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_a_file_that_the_disk_garbles_does_not_replace_the_one_before(tmp_path, monkeypatch):
    path = saved(tmp_path, epoch=1)
    real = os.fsync

    def garble(descriptor):
        real(descriptor)
        os.pwrite(descriptor, b"?", 300)

    monkeypatch.setattr(os, "fsync", garble)
    with pytest.raises(OSError, match="is the disk failing"):
        checkpoint.save(path, {**CONTENT, "epoch": 2})
    monkeypatch.undo()
    assert checkpoint.load(path)["epoch"] == 1


@pytest.mark.parametrize("keep", [0, 1, 3, 10**9])
def test_as_many_checkpoints_before_the_last_stay_as_asked_for(tmp_path, keep):
    checkpoints = Checkpoints(tmp_path, {}, keep)
    for epoch in range(1, 7):
        checkpoints.save_last({"epoch": epoch})
        checkpoints.wait()
    names = ["last.pt", *(path.name for path in checkpoint.previous(tmp_path))]
    assert names == ["last.pt", *(f"last-{number}.pt" for number in range(1, 6))][: keep + 1]
    assert [checkpoint.load(tmp_path / name)["epoch"] for name in names] == [6, 5, 4, 3, 2, 1][: keep + 1]


def test_shards_that_no_checkpoint_names_go_and_what_a_user_keeps_there_stays(tmp_path):
    for name in ("last-20", "best-3", "mine", "last-good"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"epoch": 1, "shards": {"folder": "last-20", "files": {}}})
    checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["last-20", "last-good", "mine"]


def test_the_ones_before_stay_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def link(*arguments):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", link)
    checkpoints = Checkpoints(tmp_path, {}, 2)
    for epoch in range(1, 5):
        checkpoints.save_last({"epoch": epoch})
        checkpoints.wait()
    names = ["last.pt", "last-1.pt", "last-2.pt"]
    assert [checkpoint.load(tmp_path / name)["epoch"] for name in names] == [4, 3, 2]


def names_and_epochs(folder: Path) -> dict[str, int]:
    return {path.name: checkpoint.load(path)["epoch"] for path in sorted(folder.iterdir())}


def test_the_ones_before_stay_until_the_new_one_is_verified(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, {})
    for epoch in (1, 2):
        checkpoints.save_last({"epoch": epoch})
        checkpoints.wait()

    def fail(*arguments):
        raise OSError("no space")

    monkeypatch.setattr("dltrain.runs.checkpoint._seal", fail)
    checkpoints.save_last({"epoch": 3})
    with pytest.raises(TrainingError, match="no space"):
        checkpoints.wait()
    assert names_and_epochs(tmp_path) == {"last-1.pt": 1, "last.pt": 2}


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_checkpoint_does_not_take_the_place_of_the_one_that_a_run_went_on_from(tmp_path, keep):
    for epoch in (1, 2):
        checkpoints = Checkpoints(tmp_path, {}, keep)
        checkpoints.save_last({"epoch": epoch})
        checkpoints.wait()
    (tmp_path / "last.pt").write_bytes(flipped((tmp_path / "last.pt").read_bytes(), 300))
    resumed = Checkpoints(tmp_path, {}, keep)
    resumed.save_last({"epoch": 3})
    resumed.wait()
    assert names_and_epochs(tmp_path) == {"last-1.pt": 1, "last.pt": 3}
    resumed.save_last({"epoch": 4})
    resumed.wait()
    expected = {"last-1.pt": 3, "last-2.pt": 1, "last.pt": 4}
    assert names_and_epochs(tmp_path) == {name: expected[name] for name in expected if keep == 2 or "2" not in name}


def test_what_is_saved_is_copied_at_once(tmp_path, monkeypatch):
    may_write = threading.Event()
    real = checkpoint.save

    def late(*arguments):
        may_write.wait()
        real(*arguments)

    monkeypatch.setattr(checkpoint, "save", late)
    weight, history = torch.zeros(3), [{"epoch": 1}]
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"model": {"weight": weight}, "history": history})
    weight.fill_(1.0)
    history.append({"epoch": 2})
    may_write.set()
    checkpoints.wait()
    content = checkpoint.load(tmp_path / "last.pt")
    assert content["model"]["weight"].tolist() == [0.0, 0.0, 0.0]
    assert content["history"] == [{"epoch": 1}]


def test_where_the_disk_is_slower_than_training_only_the_newest_is_written(tmp_path, monkeypatch):
    may_write, began = threading.Event(), threading.Event()
    written = []
    real = checkpoint.save

    def late(path, content, make_way):
        began.set()
        may_write.wait()
        written.append(content["epoch"])
        real(path, content, make_way)

    monkeypatch.setattr(checkpoint, "save", late)
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"epoch": 1})
    began.wait()
    for epoch in range(2, 30):
        checkpoints.save_last({"epoch": epoch})
    may_write.set()
    checkpoints.wait()
    assert written == [1, 29]
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 29


def test_best_and_last_are_both_written_and_last_holds_the_best_as_well(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"config": "text"})
    checkpoints.save_best({"epoch": 1, "model": {"weight": torch.ones(2)}})
    checkpoints.save_last({"epoch": 2, "model": {"weight": torch.zeros(2)}})
    checkpoints.wait()
    best, last = checkpoint.load(tmp_path / "best.pt"), checkpoint.load(tmp_path / "last.pt")
    assert (best["epoch"], last["epoch"], last["best"]["epoch"]) == (1, 2, 1)
    assert best["config"] == last["config"] == "text"
    assert last["best"]["model"]["weight"].tolist() == best["model"]["weight"].tolist() == [1.0, 1.0]


def test_tensors_that_share_memory_are_written_once(tmp_path):
    weight = torch.randn(50_000)
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"model": {"weight": weight}, "trainer": {"model": {"one": weight, "tied": weight}}})
    checkpoints.wait()
    assert (tmp_path / "last.pt").stat().st_size < 1.2 * weight.nbytes


def test_a_view_is_written_without_the_tensor_that_it_is_part_of(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"part": torch.randn(1000, 1000)[:2, ::2]})
    checkpoints.wait()
    assert (tmp_path / "last.pt").stat().st_size < 20_000


def test_state_comes_back_with_the_version_of_its_modules_and_with_numpys_numbers(tmp_path):
    milestones = collections.Counter({30: 1, 60: 2})
    checkpoints = Checkpoints(tmp_path, {})
    state = nn.BatchNorm1d(2).state_dict()
    checkpoints.save_last({"model": state, "milestones": milestones, "rate": np.float64(0.5), "draws": np.arange(3)})
    checkpoints.wait()
    content = checkpoint.load(tmp_path / "last.pt")
    assert content["model"]._metadata == state._metadata
    assert content["milestones"] == milestones
    assert type(content["rate"]) is float
    assert content["draws"].tolist() == [0, 1, 2]


def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(TrainingError, match=r"pathlib.*cannot|holds a pathlib"):
        Checkpoints(tmp_path, {}).save_last({"state": [Path("x")]})


def test_an_error_of_the_writer_is_raised_where_the_trainer_looks_and_nothing_is_saved_behind_it(tmp_path):
    checkpoints = Checkpoints(tmp_path / "missing", {})
    checkpoints.save_last({"epoch": 1})
    for call in (checkpoints.wait, lambda: checkpoints.save_last({}), lambda: checkpoints.save_best({})):
        with pytest.raises(TrainingError, match=r"cannot be written to .*missing.*No such file"):
            call()


def test_a_bug_in_the_writer_is_raised_as_it_is(tmp_path, monkeypatch):
    def broken(*arguments):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(checkpoint, "save", broken)
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"epoch": 1})
    with pytest.raises(ZeroDivisionError, match="a bug"):
        checkpoints.wait()


def test_a_full_disk_leaves_the_checkpoint_before_whole(small_disk):
    path = saved(small_disk, epoch=1)
    with pytest.raises(OSError):
        checkpoint.save(path, {"epoch": 2, "model": {"weight": torch.randn(500_000)}})
    assert checkpoint.load(path)["epoch"] == 1
    assert [file.name for file in small_disk.iterdir()] == ["last.pt"]


def assert_failed_with_one_message(run: subprocess.CompletedProcess[str], *fragments: str) -> None:
    assert run.returncode == 1, run.stderr
    assert "Traceback" not in run.stderr and "Exception ignored" not in run.stderr
    (message,) = [line for line in run.stderr.splitlines() if line.startswith("dltrain: ")]
    for fragment in fragments:
        assert fragment in message


# Calls ``spoil()`` behind the third epoch of a run whose arguments follow.
SPOILED = """
import os, shutil, subprocess, sys
from dltrain import cli
from dltrain.training.trainer import Trainer
real = Trainer.end_epoch
def end_epoch(self, metrics):
    if self.epoch == 3:
        self.checkpoints.wait()
        {spoil}
    real(self, metrics)
Trainer.end_epoch = end_epoch
sys.exit(cli.main(sys.argv[1:]))
"""
RUN = ("trainer.epochs=8", "dataset.limit=40", "report=false", "trainer.checkpoint.every_n_steps=1")


def test_a_disk_that_fills_up_while_training_ends_the_run_with_one_message(shell, small_disk):
    spoil = f"print(end='', file=open({str(small_disk / 'filler')!r}, 'wb', 0).write(bytes(1 << 20)) and sys.stdout)"
    run = shell(*RUN, f"hydra.run.dir={small_disk / 'run'}", code=SPOILED.format(spoil=spoil))
    assert_failed_with_one_message(run, "No space left", "go on with dltrain resume")
    (small_disk / "filler").unlink()
    assert checkpoint.load(small_disk / "run" / "checkpoints" / "last.pt")["trainer"]["epoch"] >= 3
    resumed = shell("resume", str(small_disk / "run"), "report=false")
    assert resumed.returncode == 0, resumed.stderr


def test_a_folder_that_becomes_read_only_while_training_ends_the_run_with_one_message(shell, tmp_path):
    # Permissions bind everybody but root, who becomes somebody else.
    spoil = "os.chmod('run/checkpoints', 0o555), os.chmod('run', 0o555), os.geteuid() or os.seteuid(65534)"
    run = shell(*RUN, "hydra.run.dir=run", code=SPOILED.format(spoil=spoil))
    assert_failed_with_one_message(run, "Permission denied")
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["trainer"]["epoch"] == 3


def test_a_read_only_folder_is_refused_before_training(shell, small_disk):
    run = shell(*RUN, "trainer.epochs=1", f"hydra.run.dir={small_disk / 'run'}")
    assert run.returncode == 0, run.stderr
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for arguments in (["resume", str(small_disk / "run")], ["resume=auto", f"hydra.run.dir={small_disk / 'run'}"]):
        refused = shell(*arguments, "trainer.epochs=9", "dataset.limit=40")
        assert refused.returncode == 2, refused.stderr
        assert "Traceback" not in refused.stderr
        assert refused.stderr.count("dltrain: ") == 1 and "Read-only file system" in refused.stderr


def test_a_folder_that_is_deleted_while_training_ends_the_run_with_one_message(shell, tmp_path):
    run = shell(*RUN, "hydra.run.dir=run", code=SPOILED.format(spoil="shutil.rmtree('run')"))
    assert_failed_with_one_message(run, "No such file or directory")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_due_by_epochs_steps_or_minutes_each_of_which_may_be_off(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    due = Due(every_n_epochs=3, every_n_steps=4, every_n_minutes=None, _time=0.0)
    assert [epoch for epoch in range(1, 10) if due.after_epoch(epoch)] == [3, 6, 9]
    assert [step for step in range(1, 10) if due.after_step(step)] == [4, 8]
    timed = Due(every_n_epochs=None, every_n_minutes=2, _time=0.0)
    assert not timed.after_epoch(1)
    now[0] = 119.0
    assert not timed.time_is_up
    now[0] = 120.0
    assert timed.time_is_up
    timed.saved(0, 1)
    assert not timed.time_is_up and not due.time_is_up


def test_the_writer_leaves_no_thread_behind(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_last({"epoch": 1})
    checkpoints.wait()
    assert "checkpoints" not in {thread.name for thread in threading.enumerate()}


def test_the_first_of_each_file_is_written_without_delay(tmp_path, monkeypatch):
    monkeypatch.setattr("dltrain.runs.writer._PAUSE", 1000.0)
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save_best({"epoch": 1})
    checkpoints._writer.join(60)
    checkpoints.save_best({"epoch": 2})  # this one waits
    assert checkpoints._writer.is_alive() and checkpoint.load(checkpoints.best)["epoch"] == 1
    checkpoints.save_last({"epoch": 2})
    checkpoints._writer.join(60)
    written = [path.exists() and checkpoint.load(path)["epoch"] for path in (checkpoints.best, checkpoints.last)]
    checkpoints.wait()
    assert written == [2, 2]


def test_a_process_that_ends_early_still_finishes_what_it_has_begun_to_write(tmp_path):
    code = (
        "import sys; from pathlib import Path; from dltrain.runs.writer import Checkpoints\n"
        "Checkpoints(Path(sys.argv[1]), {}).save_last({'epoch': 7}); raise SystemExit(3)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=120)
    assert run.returncode == 3
    assert checkpoint.load(tmp_path / "last.pt")["epoch"] == 7
