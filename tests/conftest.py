"""What the tests share: running dltrain in this process, and composing configurations."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from tests.zygote import Zygote

# The tests' networks are so small that threads would only wait for each other, here and in processes started from here.
os.environ.setdefault("OMP_NUM_THREADS", "1")

_fresh: list[Zygote] = []


def pytest_configure(config: pytest.Config) -> None:
    """Fork, before any test has made a library start threads."""
    if hasattr(signal, "SIGHUP"):  # ignored under nohup, where dltrain ignores it as well; tests send it
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if hasattr(os, "fork"):
        _fresh.append(Zygote())


def pytest_unconfigure(config: pytest.Config) -> None:
    for zygote in _fresh:
        zygote.close()


def fresh() -> Zygote:
    """What runs the command line in fresh processes."""
    if not _fresh:
        pytest.skip("sweeps fork their jobs, which this system cannot do")
    return _fresh[0]


CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("dataset", "model", "loss", "optim", "scheduler", "trainer", "pruner", "logger", "metric", "experiment")


FINISHED_RUNS = {
    "digits": ("trainer.epochs=2", "dataset.limit=200", "optim.lr=0.02"),
    "diabetes": ("dataset=diabetes", "trainer.epochs=3"),
    "sunspots": ("dataset=sunspots", "dataset.limit=100", "trainer.epochs=2"),
}


def options(group: str) -> list[str]:
    """The options of a group, by listing its folder."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@pytest.fixture(autouse=True, scope="session")
def _cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Decoded images go to a folder of the tests' own, in this process and in those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLTRAIN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small networks need no second core, and waiting for one that others use takes longest."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass
class Outcome:
    """How a run in this process ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> dict[str, Any]:
        """The one JSON line that stdout carries."""
        (line,) = self.stdout.splitlines()
        return json.loads(line)

    @property
    def folder(self) -> Path:
        return Path(self.result["run"])


@pytest.fixture
def dltrain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """Runs the command line in this process, in a working directory of its own, without the final picture.

    Sweeps run in a fresh process: they fork their jobs, and this process has threads by the time.
    """
    from dltrain import cli

    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, report: bool = False) -> Outcome:
        capsys.readouterr()
        arguments = (*arguments, *([] if report else ["report=false"]))
        if arguments[0] in ("-m", "--multirun"):
            return Outcome(*fresh().run(arguments))
        code = cli.main(list(arguments))
        return Outcome(code, *capsys.readouterr())

    yield run
    forget_modules_in(tmp_path)


def forget_modules_in(folder: Path) -> None:
    """Forget what was imported from ``folder``: another test's module of the same name is another one."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or os.devnull).is_relative_to(folder):
            del sys.modules[name]


@pytest.fixture(scope="session")
def finished_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of a finished run of each kind, with its page."""
    from dltrain import cli

    root = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(sys, "path", list(sys.path))
        for name, overrides in FINISHED_RUNS.items():
            assert cli.main([*overrides, f"hydra.run.dir={name}"]) == 0
    return {name: root / name for name in FINISHED_RUNS}


@pytest.fixture
def together(dltrain, tmp_path) -> Callable[..., list[Outcome]]:
    """Runs the command line in several processes that share the run, each with an outcome of its own, by rank."""

    def run(processes: int, *arguments: str) -> list[Outcome]:
        return [Outcome(*ended) for ended in fresh().run_together(arguments, processes)]

    return run


@pytest.fixture
def verb(dltrain):
    """Runs a verb, without the ``report=false`` that training runs get."""
    return lambda *arguments: dltrain(*arguments, report=True)


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs ``python -m dltrain`` as its own process in a working directory of its own."""

    def run(*arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *(["-c", code] if code else ["-m", "dltrain"]), *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


@pytest.fixture
def composed() -> Iterator[Callable[[Sequence[str]], DictConfig]]:
    """Composes a configuration as the command line would."""
    OmegaConf.register_new_resolver("dltrain_unique", lambda: "test", use_cache=True, replace=True)
    with initialize_config_module("dltrain.conf", version_base=None):
        yield lambda overrides: compose("config", overrides=list(overrides))


@pytest.fixture
def small_disk(tmp_path):
    """Mounts a file system of 1 MiB that is gone after the test."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("this user may not mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
