"""(f) Several processes that share a run, on the workload of (b) and on a larger network with larger batches.

One process under a launcher trains through DistributedDataParallel like several, but has nobody to wait for.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_workloads import digits

_COMMAND = str(Path(sys.executable).with_name("dltrain"))
_LARGE = ["model.channels=[64,128]", "dataset.batch_size=128", "trainer.epochs=5", "report=false"]


def one(device: str, **_: Any) -> dict[str, Any]:
    """(b) under a launcher that has started one process."""
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    os.environ.update({**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29513"})
    return digits.dltrain(device)


def two(device: str, **_: Any) -> dict[str, Any]:
    """(b) in two processes."""
    settings = [f"dataset.batch_size={digits.BATCH}", f"trainer.epochs={digits.EPOCHS}", "report=false"]
    return _run(*settings, f"device={device}", "trainer.devices=2")


def large_alone(device: str, **_: Any) -> dict[str, Any]:
    return _run(*_LARGE, f"device={device}")


def large_two(device: str, **_: Any) -> dict[str, Any]:
    return _run(*_LARGE, f"device={device}", "trainer.devices=2")


def large_two_own_norms(device: str, **_: Any) -> dict[str, Any]:
    """Batch norm of each process over its own samples."""
    return _run(*_LARGE, f"device={device}", "trainer.devices=2", "trainer.sync_batchnorm=false")


def _run(*arguments: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([_COMMAND, *arguments, f"hydra.run.dir={folder}/run"], check=True, capture_output=True)
        result = json.loads(Path(folder, "run", "result.json").read_text(encoding="utf-8"))
    return {"fit": result["timings"]["train"], "val_loss": result["best"]["val"]["loss"]}
