"""The run folder: what is written when, and the result in the shape that files and stdout share."""

import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dltrain import __version__

_PACKAGES = ("torch", "torchvision", "numpy", "hydra-core", "omegaconf", "polars", "pillow")


class RunFolder:
    """The folder of one run; Hydra has made it, with ``.hydra/`` and ``train.log`` in it."""

    def __init__(self, path: Path, command: str):
        self.path = path
        self.command = command
        self.started = time.time()
        self._begun = time.perf_counter()
        self.result: dict[str, Any] = {}

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def begin(self, config_text: str, environment: Mapping[str, Any]) -> None:
        """Write what is known before the first epoch; from here on the folder is a run, with status ``running``."""
        self.checkpoints.mkdir(exist_ok=True)
        (self.path / "config.yaml").write_text(config_text, encoding="utf-8")
        write_json(self.path / "environment.json", {"command": self.command, **environment, **_environment()})
        self.write_result("running")

    def write_result(self, status: str, **entries: Any) -> dict[str, Any]:
        """Write ``result.json``: ``status`` is running, done, failed or interrupted; returns what was written."""
        self.result = {
            "status": status,
            "run": str(self.path),
            **entries,
            "seconds": round(time.perf_counter() - self._begun, 3),
            "command": self.command,
        }
        write_json(self.path / "result.json", self.result)
        return self.result

    def discard(self) -> None:
        """Remove what Hydra wrote for a run that never began, and the folders made for it that hold nothing else."""
        if (self.path / "result.json").exists():  # an older run lives in this folder
            return
        shutil.rmtree(self.path / ".hydra", ignore_errors=True)
        (self.path / "train.log").unlink(missing_ok=True)
        for folder in (self.path, *list(self.path.parents)[:2]):
            if folder == Path.cwd() or any(folder.iterdir()):
                break
            folder.rmdir()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON by way of a temporary file; a number that is not finite becomes null, as JSON has none."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(finite(content), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def finite(content: Any) -> Any:
    """``content`` with NaN and infinities, at any depth, as ``None``."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _environment() -> dict[str, Any]:
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "working_directory": os.getcwd(),
        "host": platform.node(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "versions": {"dltrain": __version__} | {name: _version(name) for name in _PACKAGES},
        "git_commit": _git_commit(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """The commit checked out in the working directory, with ``-dirty`` where files differ; ``None`` outside git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()
