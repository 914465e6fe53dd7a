"""``trainer.profile``: what it writes, and that it changes nothing."""

import json
from collections import Counter

import pytest
import torch
from omegaconf import DictConfig

from dltrain.config.earlier import of_run
from dltrain.runs import checkpoint
from dltrain.training import profiling
from dltrain.training.profiling import PHASES, Profile

RUN = ("dataset.limit=160", "dataset.batch_size=10", "trainer.epochs=3")  # 48 steps
FULL = ("trainer.clip_norm=1", "trainer.ema_decay=0.9", "penalty.l2=1e-4", "trainer.accumulate=2")


class Clock:
    """Moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def test_every_moment_counts_once_in_the_innermost_phase(monkeypatch, tmp_path):
    clock = Clock()
    monkeypatch.setattr(profiling, "time", clock)
    phases = Profile(torch.device("cpu"), 1, tmp_path)
    clock.now = 1
    with phases.phase("backward"):
        clock.now = 3
        with phases.phase("forward"):
            clock.now = 7
        clock.now = 15
    with phases.phase("validation"), phases.phase("forward"):  # validation is told as one
        clock.now = 31
    with phases.phase("profiler"):
        clock.now = 63
    clock.now = 127
    assert phases.finish() == dict.fromkeys(PHASES, 0) | {"rest": 65, "backward": 10, "forward": 4, "validation": 16}


@pytest.mark.parametrize("options", [(), FULL], ids=["plain", "all that a step may do"])
def test_a_profiled_run_has_a_trace_a_table_and_the_weights_of_any_other(dltrain, options):
    plain, profiled = dltrain(*RUN, *options), dltrain(*RUN, *options, "trainer.profile=true")
    assert profiled.code == 0, profiled.stderr
    best = [checkpoint.load(outcome.folder / "checkpoints/best.pt")["model"] for outcome in (plain, profiled)]
    assert all(torch.equal(best[0][name], best[1][name]) for name in best[0])
    assert plain.result["test"] == profiled.result["test"]

    trace = json.loads((profiled.folder / "profile/trace.json").read_text())
    events = Counter(event["name"] for event in trace["traceEvents"] if event.get("cat") == "user_annotation")
    per_step = 2 if options else 1
    assert events["dltrain: forward"] == events["dltrain: backward"] == 20 * per_step
    assert events["dltrain: optimizer"] == 20 * (3 if options else 1)  # clip, step, average

    seconds = json.loads((profiled.folder / "result.json").read_text())["timings"]["profile"]
    assert set(seconds) == set(PHASES)
    assert all(seconds[name] > 0 for name in PHASES)
    assert json.loads((profiled.folder / "profile/timings.json").read_text()) == {"steps": 48, "seconds": seconds}
    assert "where the time of 48 steps went" in profiled.stderr
    assert all(f"  {name} " in profiled.stderr for name in PHASES)


def test_a_run_that_is_not_profiled_has_no_trace_and_no_timings_of_phases(dltrain):
    outcome = dltrain(*RUN)
    assert not (outcome.folder / "profile").exists()
    assert set(json.loads((outcome.folder / "result.json").read_text())["timings"]) == {"train", "test"}


@pytest.mark.parametrize("limit", [8, 30], ids=["one step", "three steps"])
def test_a_run_shorter_than_the_window_has_a_trace_of_what_there_is(dltrain, limit):
    outcome = dltrain(f"dataset.limit={limit}", "dataset.batch_size=10", "trainer.epochs=1", "trainer.profile=true")
    assert outcome.code == 0, outcome.stderr
    assert "dltrain: forward" in (outcome.folder / "profile/trace.json").read_text()


def test_a_configuration_from_before_there_was_the_key_has_its_default():
    cfg = of_run(DictConfig({"seed": 1, "trainer": {"epochs": 3, "checkpoint": {"keep": 2}}}), ["trainer.profile=true"])
    assert (cfg.trainer.epochs, cfg.trainer.checkpoint.keep, cfg.trainer.profile) == (3, 2, True)
    assert of_run(DictConfig({"seed": 1, "trainer": {"epochs": 3}}), []).trainer.profile is False


def test_the_timings_of_a_run_that_fails_are_written(tmp_path):
    with pytest.raises(ZeroDivisionError), Profile(torch.device("cpu"), 8, tmp_path / "profile"):
        raise ZeroDivisionError
    assert (tmp_path / "profile/timings.json").exists()


def test_a_profiled_run_has_its_page(dltrain, tmp_path):
    run = dltrain("trainer.epochs=1", "dataset.limit=64", "trainer.profile=true", "hydra.run.dir=run", report=True)
    assert run.code == 0 and "report.html was not written" not in run.stderr
    assert (tmp_path / "run" / "report.html").exists()
