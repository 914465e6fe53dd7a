"""Kills runs at random moments, resumes them until they end, and compares them with runs that nobody disturbed.

Each run is the pattern for preemptible machines: one command, ``resume=auto`` in a fixed folder, given again and again.
A moment is drawn uniformly over the duration of the undisturbed run, so that starting up, the checkpoint being written
and the final test are hit as well. Where there are images to decode or shards to index, every other kill comes while
the cache is being written. Behind each kill no process of the run may be left, and no run may hang.
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

import numpy as np
import torch
from PIL import Image

from dltrain.data.shard_files.writing import write_shards

_MOST_KILLS = 6  # of a run: what takes longer than the undisturbed one, as on a busy machine, would never end
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
    "decoding": ["dataset=image_folder", "dataset.root={data}/images", "trainer.epochs=2", "model.dropout=0.1"],
    "reading": ["dataset=image_folder", "dataset.root={data}/images", "trainer.epochs=2", "dataset.cache=none"],
    "indexing": ["dataset=shards", "dataset.root={data}/shards", "trainer.epochs=2", "model.dropout=0.1"],
    "processes": ["trainer.devices=2", "device=cpu", "trainer.epochs=30", "model.dropout=0.1"],
    "sweep": ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2", "trainer.epochs=15", "seed=1,2,3"],
}
_VARYING = {"seconds", "run_id"}  # what a state says that is not the same in two equal runs
_SECONDS_TO_END = 10.0  # for the processes of a run that was killed
_TOKEN = "DLTRAIN_TORTURE"  # in the environment of all processes of a run


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


def torture(arguments: Sequence[str], kills: int, folder: Path, seed: int = 0) -> Outcome:
    """Disturb runs of ``arguments`` until there were ``kills`` kills, and compare each with an undisturbed one.

    ``{data}`` in ``arguments`` is a folder with data, which are decoded or indexed anew for each run.

    Raises:
        RuntimeError: a run failed or hung, or left a process behind.
    """
    draw = random.Random(seed)
    if has_data := any("{data}" in word for word in arguments):
        write_data(folder / "data")
        arguments = [word.format(data=folder / "data") for word in arguments]
    began = time.monotonic()
    finish(start(folder / "undisturbed", arguments))
    duration = time.monotonic() - began
    outcome = Outcome()
    while outcome.kills < kills:
        run, most = folder / f"run{outcome.runs}", outcome.kills + _MOST_KILLS
        while True:
            in_cache = has_data and outcome.kills % 2 == 0
            killed_after = draw.uniform(0, 0.5 if in_cache else duration) if outcome.kills < most else None
            process = start(run, arguments, killed_after, in_cache, most=60 + 20 * duration)
            if process.finished:
                break
            outcome.kills += 1
            outcome.kills_before_training += not process.trained
        outcome.runs += 1
        outcome.differing += [f"{run.name}: {line}" for line in all_differences(folder / "undisturbed", run)]
    return outcome


def write_data(folder: Path, images: int = 1200) -> None:
    """Images of two classes, as many as are decoded by several processes, and the same in as many tar shards."""
    pixels = np.random.default_rng(0).integers(0, 256, (images, 96, 96, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        place = folder / "images" / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    write_shards(folder / "images", folder / "shards", "tar", samples=images // 12, seed=0)


@dataclass
class Process:
    """A process of a run that has ended: whether by itself, and whether it came as far as to train."""

    finished: bool
    trained: bool


def start(
    run: Path, arguments: Sequence[str], killed_after: float | None = None, in_cache: bool = False, most: float = 600
) -> Process:
    """Give the command for ``run`` and wait until it ends, or kill it after so many seconds.

    With ``in_cache`` these count from when it begins to write to its cache, if it does; then it finds an empty one.

    Raises:
        RuntimeError: it ended by itself, but not well; or not within ``most`` seconds; or left a process behind.
    """
    place = "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
    command = [sys.executable, "-m", "dltrain", *arguments, "resume=auto", "report=false", f"{place}={run}"]
    cache, token = run.with_name(f"{run.name}-cache"), token_hex(8)
    for path in cache.glob("*.npy") if in_cache else ():
        path.unlink()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DLTRAIN_CACHE": str(cache), _TOKEN: token}
    began = time.time()
    with tempfile.TemporaryFile("w+") as said:  # no pipe, which would be waited for as long as one left behind has it
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=said)
        while in_cache and process.poll() is None and not any(cache.glob("*.tmp")) and time.time() < began + most:
            time.sleep(0.005)
        hangs = False
        try:
            process.wait(most if killed_after is None else killed_after)
        except subprocess.TimeoutExpired:
            hangs = killed_after is None
            process.kill()
            process.wait()
        said.seek(0)
        stderr = said.read()
    if hangs:
        raise RuntimeError(f"{' '.join(command)} hangs:\n{stderr}")
    if process.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{stderr}")
    if orphans := left_behind(token):
        raise RuntimeError(f"{' '.join(command)} was killed and has left processes behind: {orphans}")
    results = [path for path in run.rglob("result.json") if path.stat().st_mtime >= began]  # new right before training
    return Process(process.returncode == 0, bool(results))


def left_behind(token: str, seconds: float = _SECONDS_TO_END) -> list[int]:
    """The processes of a run, which has ``token`` in its environment, that are still there after so many seconds."""
    until = time.monotonic() + seconds
    while (found := list(processes_with(token))) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def processes_with(token: str) -> Iterator[int]:
    """Linux's processes with ``token`` in their environment; one that has ended and is not yet waited for has none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if token.encode() in (folder / "environ").read_bytes():
                yield int(folder.name)
        except OSError:  # another user's, or it has ended meanwhile
            continue


def finish(process: Process) -> None:
    if not process.finished:
        raise RuntimeError("the undisturbed run was killed by somebody else")


def all_differences(one: Path, other: Path) -> Iterator[str]:
    """:func:`differences` of two runs, or of each job of two sweeps."""
    jobs = sorted(path.parent.parent.relative_to(one) for path in one.rglob("checkpoints/last.pt"))
    for job in jobs:
        yield from differences(one / job, other / job)


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
