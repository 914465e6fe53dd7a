"""Kills runs at random moments, resumes them until they end, and compares them with runs that nobody disturbed.

Each run is the pattern for preemptible machines: one command, ``resume=auto`` in a fixed folder, given again and again.
A moment is drawn uniformly over the duration of the undisturbed run, so that starting up, the checkpoint being written
and the final test are hit as well.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

CONFIGS = {
    "cnn": ["trainer.epochs=50", "model.dropout=0.2", "dataset.augment={crop:1,flip:true}"],
    "lstm": [
        *("dataset=sunspots", "model.hidden_size=32", "optim.lr=0.05", "trainer.epochs=200"),
        *("scheduler=plateau", "scheduler.patience=1", "scheduler.factor=0.5", "trainer.early_stopping.patience=12"),
    ],
    "accumulate": [
        *("trainer.epochs=25", "trainer.accumulate=4", "trainer.ema_decay=0.98", "model.dropout=0.1"),
        *("trainer.checkpoint.every_n_steps=7", "trainer.checkpoint.every_n_epochs=null", "trainer.checkpoint.keep=2"),
    ],
}
_VARYING = {"seconds"}  # what a state says that is not the same in two equal runs


@dataclass
class Outcome:
    """What was done, and what differs in which run."""

    kills: int = 0
    kills_before_training: int = 0
    runs: int = 0
    differing: list[str] = field(default_factory=list)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="at least so many kills a configuration")
    parser.add_argument("--config", choices=[*CONFIGS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    names = list(CONFIGS) if options.config == "all" else [options.config]
    print("| configuration | kills | before training | in training or behind it | runs | runs that differ |")
    print("|---|---|---|---|---|---|", flush=True)
    differing: list[str] = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            outcome = torture(CONFIGS[name], options.kills, Path(folder), options.seed)
        different = len({line.split(":")[0] for line in outcome.differing})
        kills = f"{outcome.kills} | {outcome.kills_before_training} | {outcome.kills - outcome.kills_before_training}"
        print(f"| {name} | {kills} | {outcome.runs} | {different} |", flush=True)
        differing += [f"{name} {line}" for line in outcome.differing]
    print(*differing, sep="\n", file=sys.stderr)
    return 1 if differing else 0


def torture(arguments: list[str], kills: int, folder: Path, seed: int = 0) -> Outcome:
    """Disturb runs of ``arguments`` until there were ``kills`` kills, and compare each with an undisturbed one."""
    draw = random.Random(seed)
    began = time.monotonic()
    finish(start(folder / "undisturbed", arguments))
    duration = time.monotonic() - began
    outcome = Outcome()
    while outcome.kills < kills:
        run = folder / f"run{outcome.runs}"
        while not (process := start(run, arguments, killed_after=draw.uniform(0, duration))).finished:
            outcome.kills += 1
            outcome.kills_before_training += not process.trained
        outcome.runs += 1
        outcome.differing += [f"{run.name}: {line}" for line in differences(folder / "undisturbed", run)]
    return outcome


@dataclass
class Process:
    """A process of a run that has ended: whether by itself, and whether it came as far as to train."""

    finished: bool
    trained: bool
    stderr: str


def start(run: Path, arguments: list[str], killed_after: float | None = None) -> Process:
    """Give the command for ``run`` and wait until it ends, or kill it after so many seconds.

    Raises:
        RuntimeError: it ended by itself, but not well.
    """
    command = [sys.executable, "-m", "dltrain", *arguments, "resume=auto", "report=false", f"hydra.run.dir={run}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    began = time.time()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        _, stderr = process.communicate(timeout=killed_after)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        _, stderr = process.communicate()
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{stderr}")
    result = run / "result.json"  # written anew right before training
    trained = result.exists() and result.stat().st_mtime >= began
    return Process(process.returncode == 0, trained, stderr)


def finish(process: Process) -> None:
    if not process.finished:
        raise RuntimeError("the undisturbed run was killed by somebody else")


def differences(one: Path, other: Path) -> Iterator[str]:
    """What two run folders do not have in common that two equal runs would: weights, states, metrics, result."""
    for name in ("last.pt", "best.pt"):
        states = [torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other)]
        yield from differing(*states, name)
    tables = [(run / "metrics.csv").read_bytes() for run in (one, other)]
    yield from differing(*tables, "metrics.csv")
    results = [json.loads((run / "result.json").read_text()) for run in (one, other)]
    for key in ("status", "best", "test", "epochs"):
        yield from differing(results[0][key], results[1][key], f"result.json {key}")


def differing(one: Any, other: Any, name: str) -> Iterator[str]:
    """Names of the parts, at any depth, that are not equal bit for bit."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        for key in one.keys() - _VARYING:
            yield from differing(one[key], other[key], f"{name} {key}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for index, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differing(left, right, f"{name} {index}")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield name
    elif one != other and not (one != one and other != other):
        yield name


if __name__ == "__main__":
    sys.exit(main())
