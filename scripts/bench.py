"""Measure each workload beside its rivals, in turn and over several rounds, and print the result as Markdown.

Each measurement runs in a process of its own, which prints one JSON line. This process imports no torch: a child's
peak memory starts from that of its parent.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_workloads import made_data, table
from bench_workloads.table import Comparison

from dltrain.system.machine import SPIN

COMPARISONS = [
    Comparison("a", "steady epoch", "epoch", "images.dltrain", "images.usual", 1 / 4),
    Comparison("a", "steady epoch", "epoch", "images.dltrain", "images.in_memory", 1.10),
    Comparison("a", "first epoch, nothing decoded yet", "first", "images.dltrain_first", "images.usual", 1.0),
    Comparison("b", "fit of 20 epochs", "fit", "digits.dltrain", "digits.plain", 1.0),
    Comparison("b", "fit of 20 epochs", "fit", "digits.dltrain", "digits.lightning", 1 / 1.8),
    Comparison("b", "fit of 20 epochs", "fit", "digits.dltrain", "digits.lightning_bare", 1 / 1.8),
    Comparison("b", "fit of 20 epochs", "fit", "digits.dltrain", "digits.lightning_defaults", 1 / 1.8),
    Comparison("b", "fit of 20 epochs", "fit", "digits.dltrain", "digits.plain_channels_last"),
    Comparison("b", "fit of 20 epochs", "fit", "digits.dltrain", "digits.lightning_channels_last"),
    Comparison("b", "checkpoint each epoch", "fit", "digits.dltrain", "digits.dltrain_without_checkpoints", 1.05),
    Comparison("c", "steady epoch", "epoch", "series.dltrain", "series.plain", 1.0),
    Comparison("c", "steady epoch", "epoch", "series.dltrain", "series.precomputed"),
    Comparison("d", "`dltrain` on digits", "seconds", "commands.dltrain", "commands.script", 1.1),
    Comparison("d", "`dltrain --help`", "seconds", "commands.dltrain_help", "commands.import_torch", 0.5),
    Comparison("d", "`dltrain trainer.epoch=3`", "seconds", "commands.dltrain_error", "commands.import_torch", 0.5),
    Comparison("f", "(b) through DDP, one process", "fit", "processes.one", "digits.dltrain", 1.1),
    Comparison("f", "(b) in two processes", "fit", "processes.two", "digits.dltrain"),
    Comparison("f", "larger network in two processes", "fit", "processes.large_two", "processes.large_alone"),
    Comparison("f", "the same, batch norm apart", "fit", "processes.large_two_own_norms", "processes.large_alone"),
    Comparison("g", "digits, two at once", "seconds", "neighbours.digits_two", "neighbours.digits", 2.3),
    Comparison("g", "sunspots, two at once", "seconds", "neighbours.sunspots_two", "neighbours.sunspots", 2.3),
    Comparison("g", "LeNet by 4, two at once", "seconds", "neighbours.lenet_two", "neighbours.lenet", 2.3),
    Comparison("g", "LeNet by 64, two at once", "seconds", "neighbours.lenet_64_two", "neighbours.lenet_64"),
    Comparison("g", "the script of (d), two at once", "seconds", "neighbours.plain_two", "neighbours.plain"),
    Comparison("g", "digits alone", "seconds", "neighbours.digits", "neighbours.digits_all_cores", 1.15),
    Comparison("g", "sunspots alone", "seconds", "neighbours.sunspots", "neighbours.sunspots_all_cores", 1.15),
    Comparison("g", "LeNet by 4 alone", "seconds", "neighbours.lenet", "neighbours.lenet_all_cores", 1.15),
    Comparison("e", "memory of (a)", "peak_mb", "images.dltrain", "images.usual", 1.1),
    Comparison("e", "memory of (a), first run", "peak_mb", "images.dltrain_first", "images.usual", 1.1),
    Comparison("e", "memory of (b)", "peak_mb", "digits.dltrain", "digits.plain", 1.1),
    Comparison("e", "memory of (c)", "peak_mb", "series.dltrain", "series.plain", 1.1),
]
CUDA = [
    Comparison("a", "steady epoch, CUDA", "epoch", "images.dltrain", "images.usual", 1 / 5, device="cuda"),
    Comparison("a", "steady epoch, CUDA", "epoch", "images.dltrain", "images.in_memory", seconds=1.0, device="cuda"),
    Comparison("b", "fit of 20 epochs, CUDA", "fit", "digits.dltrain", "digits.plain", 1 / 5, device="cuda"),
]
RIVALS = """\
Figures are medians of {rounds} rounds{spread}; a ratio is dltrain's median divided by the rival's. Rivals take turns
within a round, in the opposite order every other round. All rivals of a workload train the same network on the same
samples and validate on the same ones after each epoch, in batches of 256.

- dltrain is its command line with its defaults, so it writes a row of metrics.csv and a checkpoint or two each epoch,
  which the loops beside it in (a), (b) and (c) do not. Its optimizers are torch's with `fused=True`.
- usual, plain: a loop over a `DataLoader(shuffle=True)`, with torch's defaults for the optimizer and `loss.item()`
  after each step. In (a) over `ImageFolder` with `ToTensor` and `Normalize`, with the best number of workers{workers}.
- in memory: decoded uint8 tensors, batches by index, normalised a batch at a time, SGD with `fused=True`: the limit.
- lightning: with a CSV log and checkpoints, as dltrain; bare: everything off; defaults: as it comes.
- channels last in (b): dltrain's cnn lies so in memory, which makes its convolutions faster. The other rivals have the
  layout that torch gives a network by default.
- plain in (c) cuts each window when it is asked for, precomputed has cut all of them before.
- script: one file by hand that leaves what `dltrain` leaves: metrics, the last and the best checkpoint, curves.
- The first epoch counts from the command line on, imports of torch aside: reading the configuration, listing the
  files, decoding and starting workers belong to it.
- (g): two of the same beside one alone, in seconds from the first start to the last end; and one alone with the threads
  that dltrain picks beside one with a thread for each core, which wait as long as OpenMP has them wait by default.
- Memory is the maximum resident set of the training process, without its workers.
"""


def main() -> None:
    options = _options()
    if options.measure:
        module, _, name = options.measure.partition(".")
        function = getattr(importlib.import_module(f"bench_workloads.{module}"), name)
        print(json.dumps(function(**json.loads(options.given))), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="dltrain-bench-") as scratch:
        Bench(options, Path(scratch)).run()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument(
        "folder", metavar="FOLDER", nargs="?", help="train/<class>/*.jpg and test/; made where none is given"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="of each measurement (default: 3)")
    parser.add_argument("--only", default="a,b,c,d,e,f,g", metavar="a,b,c,d,e,f,g", help="the workloads to measure")
    parser.add_argument("--threads", type=int, metavar="N", help="of torch (default: its own choice)")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--given", default="{}", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.letters = options.only.split(",")
    if not set(options.letters) <= set("abcdefg"):
        parser.error(f"--only takes letters from a to g with commas between them, not '{options.only}'")
    if options.rounds < 1 or (options.threads or 1) < 1:
        parser.error("--rounds and --threads must be at least 1")
    if options.folder and not Path(options.folder, "train").is_dir():
        parser.error(f"there is no folder '{options.folder}/train'")
    return options


class Bench:
    """One run of the benchmark; ``scratch`` is removed at its end."""

    def __init__(self, options: argparse.Namespace, scratch: Path):
        self.options = options
        self.environment = dict(os.environ)
        if options.threads:
            self.environment["OMP_NUM_THREADS"] = str(options.threads)
        self.machine = self.measure("machine.describe")
        known = COMPARISONS if self.machine["GPU"] == "none" else COMPARISONS + CUDA
        self.chosen = [one for one in known if one.letter in options.letters]
        self.keys = list(dict.fromkeys(key for one in self.chosen for key in one.keys))
        self.given = {"cache": str(scratch / "cache"), "decoded": str(scratch / "decoded.pt")}
        self.workers: dict[str, int] = {}

    def run(self) -> None:
        self.prepare()
        found: dict[str, list[dict[str, float]]] = {key: [] for key in self.keys}
        for number in range(self.options.rounds):
            for key in self.keys if number % 2 == 0 else reversed(self.keys):
                print(f"round {number + 1} of {self.options.rounds}: {key}", file=sys.stderr)
                device, _, name = key.partition(" ")
                found[key].append(self.measure(name, device=device, workers=self.workers.get(device), **self.given))
        self.report(found)

    def prepare(self) -> None:
        """Make or find the data, and pay before the clock starts for what is paid once."""
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dltrain-bench"
        if any("images." in key or "lenet" in key for key in self.keys):
            folder = self.options.folder or made_data.image_folder(cache)
            self.given["folder"] = str(Path(folder).resolve())
            print("decoding the images, and choosing the number of workers of the usual loop", file=sys.stderr)
            self.measure("images.dltrain", device="cpu", epochs=1, **self.given)
            devices = dict.fromkeys(key.split()[0] for key in self.keys if "images.usual" in key)
            self.workers = {device: self.best_workers(device) for device in devices}
        if any("series." in key for key in self.keys):
            self.given["series"] = str(made_data.series(cache))
        for key in self.keys:
            if "commands." in key:  # so that all that they import is compiled and in the system's memory
                self.measure(key.split()[1], device="cpu")

    def best_workers(self, device: str) -> int:
        """The number of DataLoader workers, of 0, 1, 2, 4, ... up to the cores, whose epoch is the shortest."""
        cores = os.cpu_count() or 1
        counts = [0, *(2**power for power in range(cores.bit_length()))]
        epochs = {
            count: self.measure("images.usual_probe", device=device, workers=count, **self.given)["epoch"]
            for count in counts
        }
        print(f"seconds of an epoch by workers, {device}: {epochs}", file=sys.stderr)
        return min(epochs, key=lambda count: epochs[count])

    def measure(self, name: str, **given: Any) -> dict[str, Any]:
        """Run one measurement in a process of its own."""
        command = [sys.executable, __file__, "--measure", name, "--given", json.dumps(given)]
        environment = dict(self.environment)
        if ".dltrain" in name:  # which sets it before it loads torch, as the measurement cannot
            environment.setdefault("GOMP_SPINCOUNT", SPIN)
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{name} failed:\n{done.stdout}{done.stderr}")
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def report(self, found: table.Found) -> None:
        for name, value in self.machine.items():
            print(f"- {name}: {value}")
        data = "as given" if self.options.folder else "made, of CIFAR-10's shape"
        print(f"- images: {data}\n")
        print(table.comparisons(self.chosen, found), end="\n\n")
        if self.machine["GPU"] == "none":
            print("No GPU was there: the marks for CUDA were not measured.\n")
        workers = ", ".join(f"{count} on {device}" for device, count in self.workers.items())
        spread = " (the smallest to the largest)" if self.options.rounds > 1 else ""
        print(RIVALS.format(rounds=self.options.rounds, spread=spread, workers=f" ({workers})" if workers else ""))
        print(table.measurements(found))


if __name__ == "__main__":
    main()
