"""Sample the memory of the process that runs the jobs of a sweep one after the other, behind each job (Linux)."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SETTLED = 5  # jobs after which everything has been loaded
GROWTH = 20_000  # bytes a job, at most: a row of the ledger is less, a model or a data set is more


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/sweep_memory", description=__doc__)
    parser.add_argument("--jobs", type=int, default=50, metavar="N", help="of digits, one epoch each (default: 50)")
    jobs = parser.parse_args().jobs
    with tempfile.TemporaryDirectory(prefix="dltrain-sweep-memory-") as scratch:
        sizes = list(sampled(Path(scratch), jobs))
    print("| behind job | memory of the sweep's process |")
    print("| --- | --- |")
    for number in sorted({1, SETTLED, *range(10, jobs, 10), jobs}):
        print(f"| {number} | {sizes[number - 1] / 2**20:.2f} MiB |")
    growth = (sizes[-1] - sizes[SETTLED - 1]) / (jobs - SETTLED)
    print(f"\nfrom job {SETTLED} to job {jobs}: {growth:+.0f} bytes a job")
    sys.exit(growth > GROWTH)


def sampled(folder: Path, jobs: int) -> Iterator[int]:
    """Bytes resident behind each job, when it has said on stderr what became of it."""
    command = [sys.executable, "-m", "dltrain", "-m", f"seed=range(1,{jobs + 1})", "trainer.epochs=1", "report=false"]
    process = subprocess.Popen(
        [*command, f'hydra.sweep.dir="{folder}"'],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if " done in " in line:
            yield resident(process.pid)
    if process.wait():
        sys.exit(f"the sweep ended with {process.returncode}")


def resident(pid: int) -> int:
    """Bytes of main memory that belong to a process alone, which pages shared with its jobs do not."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


if __name__ == "__main__":
    main()
