"""SIGINT, SIGTERM, SIGUSR1 and SIGHUP: a run leaves at its next step, says how to go on, and can."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dltrain.data import bundled
from dltrain.errors import Interrupted
from dltrain.runs import checkpoint
from dltrain.system.process import signals_handled
from dltrain.training.progress import View

SHORT = ("trainer.epochs=4", "dataset.limit=100", "hydra.run.dir=run")  # 4 steps an epoch
CODES = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138), (signal.SIGHUP, 129)]
NAMES = [number.name for number, _ in CODES]


@pytest.fixture
def at_step(monkeypatch) -> Callable[..., None]:
    """Has signals come behind a step, one after the other."""

    def arm(step: int, *numbers: int) -> None:
        real, taken = View.step, []

        def watched(self, total):
            real(self, total)
            taken.append(1)
            if len(taken) == step:
                for number in numbers:
                    os.kill(os.getpid(), number)

        monkeypatch.setattr(View, "step", watched)

    return arm


@pytest.mark.parametrize(("number", "code"), CODES, ids=NAMES)
def test_a_signal_in_mid_epoch_ends_the_run_at_that_step_and_it_says_how_to_go_on(dltrain, at_step, number, code):
    at_step(6, number)
    outcome = dltrain(*SHORT)
    assert outcome.code == code
    assert "Traceback" not in outcome.stderr
    assert f"interrupted after 1 epochs; to go on: dltrain resume {Path('run').resolve()}" in outcome.stderr
    assert outcome.result["status"] == "interrupted"
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    state = checkpoint.load(Path("run/checkpoints/last.pt"))["trainer"]
    assert (state["epoch"], state["step"], state["batch"]) == (1, 6, 2)


def test_what_the_message_says_works(dltrain, at_step, monkeypatch):
    at_step(6, signal.SIGTERM)
    (line,) = [line for line in dltrain(*SHORT).stderr.splitlines() if "to go on: " in line]
    arguments = line.rpartition("to go on: dltrain ")[2].split()
    outcome = dltrain(*arguments)
    assert outcome.code == 0
    assert outcome.result["status"] == "done"


def test_a_run_that_stops_before_it_has_saved_anything_does_not_advise_to_resume(dltrain):
    outcome = dltrain(*SHORT, "optim.lr=1e30")
    assert outcome.code == 1
    assert "to go on" not in outcome.stderr


def test_signals_that_come_again_do_not_keep_the_state_from_being_saved(dltrain, at_step):
    at_step(6, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1)
    assert dltrain(*SHORT).code == 143
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    assert checkpoint.load(Path("run/checkpoints/last.pt"))["trainer"]["step"] == 6


def test_a_second_ctrl_c_leaves_at_once(dltrain, at_step):
    at_step(6, signal.SIGINT, signal.SIGINT)
    outcome = dltrain(*SHORT)
    assert outcome.code == 130
    assert outcome.result["status"] == "interrupted"
    # That of the epoch before: the one of this step was not waited for.
    assert checkpoint.load(Path("run/checkpoints/last.pt"))["trainer"]["step"] == 4


def test_a_signal_behind_the_last_step_still_leaves_weights_of_the_last_epoch_in_the_state(dltrain, monkeypatch):
    assert dltrain(*SHORT[:2], "hydra.run.dir=whole").code == 0
    real = View.epoch

    def last(self, row, best):
        real(self, row, best)
        if row["epoch"] == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(View, "epoch", last)
        assert dltrain(*SHORT).code == 143
    states = [checkpoint.load(Path(run, "checkpoints/last.pt"))["trainer"]["model"] for run in ("whole", "run")]
    assert all(bool((states[0][name] == states[1][name]).all()) for name in states[0])
    assert dltrain("resume", "run").result["test"] == json.loads(Path("whole/result.json").read_text())["test"]


def test_a_signal_in_the_test_leaves_at_once_and_the_test_is_done_when_the_run_goes_on(dltrain, monkeypatch):
    import dltrain.trained.train as command

    real = command._test

    def interrupted(parts):
        os.kill(os.getpid(), signal.SIGTERM)
        return real(parts)

    with monkeypatch.context() as patch:
        patch.setattr(command, "_test", interrupted)
        assert dltrain(*SHORT).code == 143
    assert json.loads(Path("run/result.json").read_text())["status"] == "interrupted"
    outcome = dltrain("resume", "run")
    assert outcome.code == 0
    assert "accuracy" in outcome.result["test"]


@pytest.mark.parametrize(("number", "code"), CODES, ids=NAMES)
def test_a_signal_while_data_load_leaves_no_folder(dltrain, monkeypatch, tmp_path, number, code):
    def slow(*arguments, **keywords):
        os.kill(os.getpid(), number)
        raise AssertionError("the signal came first")

    monkeypatch.setattr(bundled, "digits", slow)
    outcome = dltrain(*SHORT)
    assert outcome.code == code
    assert outcome.result == {"status": "interrupted"} and "Traceback" not in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_handlers_come_back():
    before = [signal.getsignal(number) for number, _ in CODES]
    with signals_handled():
        assert [signal.getsignal(number) for number, _ in CODES] != before
    assert [signal.getsignal(number) for number, _ in CODES] == before


def test_a_run_that_ignores_hangups_goes_on_doing_so(dltrain, at_step):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        at_step(6, signal.SIGHUP)
        assert dltrain(*SHORT).result["status"] == "done"
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_is_closed_saves_its_state(tmp_path):
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "dltrain", "trainer.epochs=100000", "report=false", "hydra.run.dir=run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, start_new_session=True, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
        if select.select([ours], [], [], 0.05)[0]:
            os.read(ours, 65536)
        assert process.poll() is None and time.monotonic() < deadline
    os.close(ours)  # so that all it writes is an error
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=120) == 129
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "interrupted"


def test_outside_of_a_step_a_signal_raises_at_once_and_within_it_does_not():
    with pytest.raises(Interrupted, match="signal 15"), signals_handled():
        os.kill(os.getpid(), signal.SIGTERM)
    with signals_handled() as request:
        with request.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert request.requested
        with pytest.raises(Interrupted):
            request.check()


@pytest.fixture
def pictures(tmp_path) -> None:
    generator = np.random.default_rng(0)
    for number in range(40):
        folder = tmp_path / "images" / "train" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / f"{number}.png")


@pytest.fixture
def long_run(tmp_path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a run that would not end by itself, in a process group of its own, and waits until it trains."""
    started = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dltrain", "trainer.epochs=100000", "report=false", "hydra.run.dir=run"]
        process = subprocess.Popen(
            [*command, *arguments], cwd=tmp_path, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "checkpoints" / "last.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        return process

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(("number", "code"), CODES[:2], ids=NAMES[:2])
def test_a_signal_to_the_workers_as_well_ends_the_run_as_well_as_one_to_it_alone(
    pictures, long_run, tmp_path, number, code
):
    """As a terminal sends Ctrl-C, and a batch system SIGTERM: to every process of the run."""
    images = ("dataset=image_folder", "dataset.root=images", "dataset.cache=none", "dataset.image_size=8")
    process = long_run(*images, "dataset.batch_size=8")
    os.killpg(process.pid, number)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert json.loads(stdout)["status"] == "interrupted"
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["trainer"]["epoch"] >= 1
