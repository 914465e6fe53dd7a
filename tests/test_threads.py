"""How many threads compute a run, and what they do to their neighbours."""

import json
import logging
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dltrain.models import CNN, GRU, LSTM, MLP
from dltrain.sweep import pool
from dltrain.system import device, machine
from dltrain.system.device import available_threads, pick_threads, process_state, threads_of_run
from dltrain.system.machine import CoreWatch
from dltrain.training.shapes import _multiply_adds

CPU = torch.device("cpu")


@pytest.fixture
def four_cores(monkeypatch):
    monkeypatch.setattr(device, "core_count", lambda: 4)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def multiply_adds(model: nn.Module, *shape: int) -> int:
    with _multiply_adds(model.eval()) as counts, torch.no_grad():
        model(torch.zeros(2, *shape))
    return sum(counts) // 2


def test_the_work_of_a_network_is_counted_by_its_weights():
    assert multiply_adds(nn.Sequential(nn.Linear(10, 7), nn.ReLU(), nn.Linear(7, 3)), 10) == 10 * 7 + 7 * 3
    assert multiply_adds(nn.Conv2d(3, 8, 5, padding=2, bias=False), 3, 6, 6) == 5 * 5 * 3 * 8 * 36
    assert multiply_adds(nn.Conv1d(4, 4, 3, groups=4), 4, 9) == 3 * 4 * 7
    steps, hidden = 12, 5
    recurrent = steps * 4 * (hidden * 2 + hidden * hidden) // 2  # counted by half
    assert multiply_adds(LSTM((steps, 2), 3, hidden_size=hidden), steps, 2) == recurrent + hidden * 3
    assert multiply_adds(GRU((steps, 2), 3, hidden_size=hidden), steps, 2) == recurrent * 3 // 4 + hidden * 3


def test_looking_a_word_up_is_no_work():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(1000, 4), nn.Linear(4, 2)

        def forward(self, inputs):
            return self.head(self.words(inputs.long()).mean(1))

    assert multiply_adds(Words(), 6) == 4 * 2


@pytest.mark.parametrize(
    ("work", "threads"), [(0, 1), (2**25 - 1, 1), (2**25, 2), (2 * 2**25, 3), (3 * 2**25, 4), (2**40, 4)]
)
def test_auto_takes_a_thread_more_for_so_much_work_and_no_more_than_there_are_cores(four_cores, work, threads):
    assert pick_threads("auto", work, CPU) == threads
    assert pick_threads("auto", work, torch.device("cuda")) == 4
    assert pick_threads(7, work, CPU) == 7


def test_omp_num_threads_is_an_upper_limit_for_auto(four_cores, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert (available_threads(), pick_threads("auto", 2**40, CPU), pick_threads("auto", 0, CPU)) == (3, 3, 1)
    assert pick_threads(4, 0, CPU) == 4
    for nonsense in ("", "0", "many"):
        monkeypatch.setenv("OMP_NUM_THREADS", nonsense)
        assert available_threads() == 4


def test_processes_that_share_a_run_share_the_cores(four_cores, monkeypatch):
    together = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in (together | {"LOCAL_WORLD_SIZE": "3"}).items():
        monkeypatch.setenv(name, value)
    assert available_threads() == 1


def test_what_a_run_has_recorded_holds_as_far_as_the_threads_are_there(four_cores):
    assert [threads_of_run(recorded) for recorded in (1, 3, 9, "auto")] == [1, 3, 4, 4]


def test_the_threads_of_the_process_come_back():
    before = torch.get_num_threads()
    with process_state(1, False, threads=before + 2):
        assert torch.get_num_threads() == before + 2
    with process_state(1, False):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b\n"}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, float("inf")),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
                "sys/fs/cgroup/a/cpu.max": "200000 100000\n",
            },
            2.0,
        ),
        ({"proc/self/cgroup": "0::/outside/x\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"}, 1.0),  # in a container
        (
            {
                "proc/self/cgroup": "3:memory:/a\n2:cpu,cpuacct:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            {
                "proc/self/cgroup": "2:cpu:/a\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
            },
            float("inf"),
        ),
    ],
)
def test_the_time_that_a_control_group_grants_counts(tmp_path, monkeypatch, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine._core_quota(tmp_path) == cores
    monkeypatch.setattr(machine, "_core_quota", lambda: cores)
    bound = len(os.sched_getaffinity(0))
    assert machine.core_count() == max(1, int(min(bound, cores)))


def test_a_run_that_is_interrupted_all_the_time_says_once_what_to_type(monkeypatch, caplog):
    clock, counts = iter([0.0, 1.0, 3.0, 6.0, 9.0, 12.0]), iter([0, 900, 1900, 4900])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine, "interruptions", lambda: next(counts))
    watch = CoreWatch(2)
    with caplog.at_level(logging.WARNING):
        watch.after_step()  # too soon to look
        watch.after_step()  # 300 a second are fewer than 2 × 250
        assert caplog.messages == []
        watch.after_step()  # 333
        assert caplog.messages == []
        watch.after_step()  # 1,000
        watch.after_step()
    (message,) = caplog.messages
    assert "2 threads" in message and "1,000 interruptions a second" in message and "trainer.threads=1" in message


def test_interruptions_are_counted_by_the_system():
    code = (
        "import os; from dltrain.system.machine import interruptions as i; os.nice(19); b = i()\nwhile i() == b: pass"
    )
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    try:
        counted = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert counted.returncode == 0, counted.stderr


@pytest.mark.parametrize(
    ("given", "spin"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)],
)
def test_threads_wait_briefly_unless_the_user_says_how_long(monkeypatch, given, spin):
    monkeypatch.setattr(os, "environ", environment := dict(given))
    machine.shorten_spin()
    assert environment.get("GOMP_SPINCOUNT") == spin


def test_threads_of_a_job_on_another_machine_wait_briefly_as_well(monkeypatch):
    monkeypatch.setattr(os, "environ", {})  # Ray's workers have that of their own machine
    task = SimpleNamespace(run=lambda *_: os.environ["GOMP_SPINCOUNT"])
    assert pool.perform(None, task, None).value == machine.SPIN


def run_folder(outcome):
    assert outcome.code == 0, outcome.stderr
    return outcome.folder


def test_threads_are_recorded_and_kept_by_resume_and_evaluate(dltrain, verb, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "core_count", lambda: 2)
    small = ("trainer.epochs=1", "dataset.limit=64")
    alone = run_folder(dltrain(*small))
    large = run_folder(dltrain(*small, "dataset.batch_size=64", "model.channels=[64,64]"))
    given = run_folder(dltrain(*small, "trainer.threads=2"))
    recorded = [json.loads((folder / "environment.json").read_text())["threads"] for folder in (alone, large, given)]
    assert recorded == [1, 2, 2]
    assert "\n  threads: 1\n" in (alone / "config.yaml").read_text()

    used: list[int] = []
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda count: (used.append(count), set_threads(count)))
    assert verb("resume", str(given), "trainer.epochs=2").code == 0
    assert json.loads((given / "environment.json").read_text())["resumed"][0]["threads"] == 2
    used.clear()
    assert verb("evaluate", str(given)).code == 0
    assert used[0] == 2


def test_check_says_how_many_threads_compute(verb, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(device, "core_count", lambda: 2)
    assert verb("check").result["threads"] == 1
    assert verb("check", "model.channels=[128,128]").result["threads"] == 2


def test_the_sizes_of_the_packaged_networks_fall_on_the_measured_side():
    """digits, sunspots and LeNet by fours stay with one thread; LeNet by 64 and the large LSTM have work for two."""
    images, series = (1, 8, 8), (48, 1)
    assert 32 * multiply_adds(CNN(images, 10), *images) < 2**25
    assert 64 * multiply_adds(LSTM(series, 12), *series) < 2**25
    assert 64 * multiply_adds(LSTM((96, 1), 24, num_layers=2), 96, 1) > 2**25
    assert 32 * multiply_adds(MLP((10,), 1), 10) < 2**25
