"""(d) Whole processes, from their start to their end."""

import subprocess
import sys
import tempfile
import time
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

_COMMAND = str(Path(sys.executable).with_name("dltrain"))


def dltrain(device: str, **_: Any) -> dict[str, Any]:
    """``dltrain`` on its default data set, with its report."""
    return _timed([_COMMAND, f"device={device}"])


def script(**_: Any) -> dict[str, Any]:
    """A script that does the same, written by hand."""
    with as_file(files("dltrain.data") / "files" / "digits.npz") as data:
        return _timed([sys.executable, str(Path(__file__).with_name("digits_script.py")), str(data)])


def dltrain_help(**_: Any) -> dict[str, Any]:
    return _timed([_COMMAND, "--help"])


def dltrain_error(**_: Any) -> dict[str, Any]:
    """``dltrain`` with a key that there is not."""
    return _timed([_COMMAND, "trainer.epoch=3"], code=2)


def import_torch(**_: Any) -> dict[str, Any]:
    return _timed([sys.executable, "-c", "import torch"])


def _timed(command: list[str], code: int = 0) -> dict[str, Any]:
    """Seconds that ``command`` takes in a folder of its own; it must end with the exit code ``code``."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - began
    if done.returncode != code:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}, not {code}:\n{done.stdout}{done.stderr}")
    return {"seconds": seconds}
