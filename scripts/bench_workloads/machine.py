"""What the figures were taken on."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "torchvision", "lightning", "dltrain-cli")


def describe(**_: Any) -> dict[str, Any]:
    """The machine and the versions; ``GPU`` is ``none`` where there is none that torch can use."""
    import torch

    return {
        "date": time.strftime("%Y-%m-%d"),
        "CPU": f"{_cpu()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads in torch",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "software": ", ".join(
            [f"Python {platform.python_version()}", *(f"{name} {_version(name)}" for name in _PACKAGES)]
        ),
    }


def _version(package: str) -> str:
    try:
        found = version(package)
    except PackageNotFoundError:
        return "not installed"
    return f"{found} ({_commit()})" if package == "dltrain-cli" else found


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    return done.stdout.strip() or "no commit"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
