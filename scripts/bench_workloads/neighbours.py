"""(g) A training alone on the machine, and two of it at once: whole processes, from the first start to the last end."""

import os
import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

_COMMAND = str(Path(sys.executable).with_name("dltrain"))
_SUNSPOTS = ("dataset=sunspots", "trainer.epochs=6")


def digits(**_: Any) -> dict[str, float]:
    return _dltrain(1)


def digits_two(**_: Any) -> dict[str, float]:
    return _dltrain(2)


def digits_all_cores(**_: Any) -> dict[str, float]:
    return _dltrain(1, _all_cores())


def sunspots(**_: Any) -> dict[str, float]:
    return _dltrain(1, *_SUNSPOTS)


def sunspots_two(**_: Any) -> dict[str, float]:
    return _dltrain(2, *_SUNSPOTS)


def sunspots_all_cores(**_: Any) -> dict[str, float]:
    return _dltrain(1, *_SUNSPOTS, _all_cores())


def lenet(**given: Any) -> dict[str, float]:
    """The tutorial's LeNet by batches of 4, on images that were decoded before."""
    return _dltrain(1, *_lenet(4, **given))


def lenet_two(**given: Any) -> dict[str, float]:
    return _dltrain(2, *_lenet(4, **given))


def lenet_all_cores(**given: Any) -> dict[str, float]:
    return _dltrain(1, *_lenet(4, **given), _all_cores())


def lenet_64(**given: Any) -> dict[str, float]:
    """LeNet by batches of 64, which have work for two threads."""
    return _dltrain(1, *_lenet(64, **given))


def lenet_64_two(**given: Any) -> dict[str, float]:
    return _dltrain(2, *_lenet(64, **given))


def plain(**_: Any) -> dict[str, float]:
    """The script by hand of (d), which leaves the threads to torch."""
    return _script(1)


def plain_two(**_: Any) -> dict[str, float]:
    return _script(2)


def _lenet(batch_size: int, folder: str, cache: str, **_: Any) -> list[str]:
    os.environ["DLTRAIN_CACHE"] = cache
    data = ["experiment=cifar10_lenet", "dataset=image_folder", f"dataset.root={folder}"]
    return [*data, f"dataset.batch_size={batch_size}", "trainer.epochs=1"]


def _all_cores() -> str:
    """A thread for each core, and OpenMP's usual patience: what torch does by itself."""
    os.environ["GOMP_SPINCOUNT"] = "300000"
    return f"trainer.threads={len(os.sched_getaffinity(0))}"


def _dltrain(copies: int, *overrides: str) -> dict[str, float]:
    return _timed([_COMMAND, *overrides], copies)


def _script(copies: int) -> dict[str, float]:
    with as_file(files("dltrain.data") / "files" / "digits.npz") as data:
        return _timed([sys.executable, str(Path(__file__).with_name("digits_script.py")), str(data)], copies)


def _timed(command: list[str], copies: int) -> dict[str, float]:
    """Seconds until the last of so many copies of ``command``, started together, has ended."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = [Path(scratch, str(number)) for number in range(copies)]
        for folder in folders:
            folder.mkdir()
        began = time.perf_counter()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        codes = [process.wait() for process in [subprocess.Popen(command, cwd=folder, **quiet) for folder in folders]]
        seconds = time.perf_counter() - began
    if any(codes):
        raise SystemExit(f"{' '.join(command)} ended with {codes}")
    return {"seconds": seconds}
