"""Count the epochs until a search with pruning reaches the best validation accuracy of an exhaustive grid, on digits.

The grid and, for each seed of the sampler, a search over the same ranges run as sweeps of their own, with one thread.
Epochs are those that the jobs trained, one job after the other; a search has reached the grid's accuracy with the epoch
whose validation accuracy is at least the best one of all epochs of the grid.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

EPOCHS = 10  # of a whole job
METRIC = "val/accuracy"
COMMON = (
    *("dataset=digits", "model=cnn", "dataset.val_fraction=0.5", f"trainer.epochs={EPOCHS}", "seed=1"),
    *(f"trainer.checkpoint.monitor={METRIC}", "trainer.checkpoint.every_n_epochs=null", "report=false"),
)
GRID = (
    "optim.lr=0.001,0.01,0.1",
    "optim.momentum=0.0,0.5,0.9",
    "dataset.batch_size=16,32,64",
    "model.channels=[8,16],[16,32]",
)
RANGES = (
    "optim.lr=tag(log, interval(0.001, 0.1))",
    "optim.momentum=interval(0.0, 0.9)",
    "dataset.batch_size=choice(16,32,64)",
    "model.channels=choice([8,16],[16,32])",
)
SHARE = 0.5  # of the grid's epochs, at most


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="dltrain-bench-search-") as scratch:
        folder = Path(options.folder or scratch).absolute()
        grid = list(curves(sweep(folder / "grid", *GRID)))
        best, epochs = max(map(max, grid)), sum(map(len, grid))
        print(f"grid: {len(grid)} jobs, {epochs} epochs, best {METRIC} {best:.4f}", file=sys.stderr, flush=True)
        missed = table(folder, options, best, epochs, len(grid))
    sys.exit(missed > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench_search", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="of the sampler (default: 5)")
    parser.add_argument("--pruner", default="median", help="an option of the group (default: median)")
    parser.add_argument("--folder", help="where the sweeps stay, and are gone on with; removed at the end without it")
    parser.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="further overrides of the searches")
    return parser.parse_args()


def table(folder: Path, options: argparse.Namespace, best: float, epochs: int, jobs: int) -> int:
    """Search with each seed, print the rows, and return how many took more than their share of ``epochs``."""
    print("| seed of the sampler | epochs until the grid's best | share | job | epochs in all | best in all |")
    print("| --- | --- | --- | --- | --- | --- |")
    missed = 0
    for seed in range(1, options.seeds + 1):
        chosen = (f"pruner={options.pruner}", "hydra/sweeper=optuna", f"hydra.sweeper.metrics={METRIC}")
        counts = (f"hydra.sweeper.n_trials={jobs}", f"hydra.sweeper.seed={seed}")
        found = list(curves(sweep(folder / f"search-{seed}", *RANGES, *chosen, *counts, *options.overrides)))
        needed, job = reached(found, best)
        missed += not needed or needed > SHARE * epochs
        shown = (f"{needed}", f"{needed / epochs:.0%}", f"{job}") if needed else ("never", "–", "–")
        total = f"{sum(map(len, found))} | {max(map(max, found)):.4f}"
        print(f"| {seed} | {' | '.join(shown)} | {total} |", flush=True)
    print(f"\ngrid: {jobs} jobs, {epochs} epochs, best {METRIC} {best:.4f}; {missed} of {options.seeds} seeds missed")
    return missed


def sweep(folder: Path, *overrides: str) -> Path:
    """Run a sweep, or what is missing of it."""
    command = [sys.executable, "-m", "dltrain", "-m", *COMMON, *overrides, f'hydra.sweep.dir="{folder}"']
    run = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"{' '.join(command)}\nended with {run.returncode}:\n{run.stderr[-2000:]}")
    return folder


def curves(folder: Path) -> Iterator[list[float]]:
    """The metric of each epoch of each job, in the order of the jobs."""
    for number in count():
        file = folder / str(number) / "metrics.csv"
        if not file.exists():
            return
        with open(file, encoding="utf-8", newline="") as lines:
            yield [float(row[METRIC]) for row in csv.DictReader(lines)]


def reached(found: list[list[float]], best: float) -> tuple[int, int]:
    """After how many epochs, and in which job from 1 on, ``best`` is reached; zeros where it is not."""
    epochs = 0
    for number, curve in enumerate(found, 1):
        for value in curve:
            epochs += 1
            if value >= best:
                return epochs, number
    return 0, 0


if __name__ == "__main__":
    main()
