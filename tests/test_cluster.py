"""Sweeps on a cluster, through submitit and Ray, and the batch script; SLURM's commands are those of tests/slurm."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dltrain.system.extras import install_line
from tests.test_cli import SHORT
from tests.test_sweep import SWEEP, fragile, ledger, timeless  # noqa: F401  (a fixture)

pytest.importorskip("submitit")

ROOT = Path(__file__).parent.parent
LONG = ("model=mlp", "trainer.epochs=300", "dataset.limit=64", "report=false")


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """The folder in which the stand-ins for SLURM keep a folder for each job."""
    monkeypatch.setenv("PATH", f"{ROOT / 'tests' / 'slurm'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STANDIN", str(tmp_path / "slurm"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slurm").mkdir()
    return tmp_path / "slurm"


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    """Wait, as long as ``process`` runs, if given; fail with all that it and the jobs have written."""
    deadline = time.monotonic() + 120
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail("\n".join(["the sweep ended early:", *process.communicate(), *logs()]))
        if time.monotonic() > deadline:
            pytest.fail("\n".join(["it took too long:", *logs()]))
        time.sleep(0.05)


def logs() -> Iterator[str]:
    """What jobs have written, under the names of the files: submitit's, those of the stand-in for SLURM, the runs'."""
    for pattern in ("**/.submitit/**/*_log.*", "slurm/*/err", "**/train.log"):
        for path in Path().glob(pattern):
            yield f"--- {path}\n{path.read_text()}"


def sweep_of(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dltrain", "-m", *arguments, SWEEP]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("launcher", "lost"), [("submitit_local", "left no result"), ("ray", "The worker died unexpectedly")]
)
def test_the_ledger_is_that_of_our_own_processes(dltrain, fragile, tmp_path, launcher, lost):  # noqa: F811
    if launcher == "ray":
        pytest.importorskip("ray")
    command = ("-m", *fragile, "model.how=well,killed", f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2")
    first = dltrain(*command)
    assert first.code == 1, first.stderr
    assert (first.result["done"], first.result["failed"]) == (1, 1)
    assert (tmp_path / "sweep" / "sweep.html").exists()
    assert [row["status"] for row in ledger()] == ["done", "failed"]
    assert lost in ledger()[1]["cause"]
    (tmp_path / "mended").touch()
    second = dltrain(*command)
    assert second.code == 0
    assert "1 of 2 jobs are done already" in second.stderr
    alone = dltrain("-m", *fragile, "model.how=well,killed", "hydra.sweep.dir=forked")
    assert alone.code == 0
    assert timeless(ledger()) == timeless(ledger(Path("forked")))


def test_optuna_proposes_jobs_for_any_of_them(dltrain):
    search = (
        "hydra/sweeper=optuna",
        "hydra.sweeper.n_trials=2",
        "optim.lr=choice(0.01, 1e38)",
        "hydra.sweeper.sampler=grid",
    )
    searched = dltrain("-m", *SHORT, *search, "hydra/launcher=submitit_local", "hydra.launcher.n_jobs=2")
    assert (searched.code, searched.result["done"], searched.result["failed"]) == (1, 1, 1), searched.stderr
    assert "not finite" in ledger(Path(searched.result["sweep"]))[1]["cause"]


def test_a_job_whose_time_is_up_goes_on_in_the_queue(slurm, dltrain, tmp_path):
    process = sweep_of(*LONG, "seed=1", "hydra/launcher=submitit_slurm")
    wait_for(lambda: (tmp_path / "sweep" / "0" / "checkpoints" / "last.pt").exists(), process)
    os.kill(int((slurm / "1" / "task").read_text()), signal.SIGUSR2)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (slurm / "1" / "was_requeued").exists()
    alone = dltrain(*LONG)
    assert metrics(tmp_path / "sweep" / "0") == metrics(alone.folder)


def test_a_sweep_that_is_interrupted_cancels_its_job_which_saves_its_state(slurm, tmp_path):
    long = (*LONG, "trainer.epochs=200000", "seed=1,2", "hydra/launcher=submitit_slurm", "hydra.launcher.n_jobs=1")
    process = sweep_of(*long)
    wait_for((tmp_path / "sweep" / "0" / "checkpoints" / "last.pt").exists, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert [row["status"] for row in ledger()] == ["interrupted"]
    wait_for(lambda: (slurm / "1" / "state").read_text() == "CANCELLED\n")


def test_the_batch_script_requeues_a_run_that_has_saved_its_state(slurm, dltrain, tmp_path, monkeypatch):
    monkeypatch.setenv("DLTRAIN_PYTHON", sys.executable)
    monkeypatch.setenv("DLTRAIN_PROCESSES", "1")
    subprocess.run(["sbatch", ROOT / "scripts" / "train.sbatch", *LONG], check=True)
    run = tmp_path / "outputs" / "slurm-1"
    wait_for((run / "checkpoints" / "last.pt").exists)
    os.kill(int((slurm / "1" / "shell").read_text()), signal.SIGUSR1)
    wait_for(lambda: (slurm / "1" / "state").read_text() == "COMPLETED\n")
    errors = (slurm / "1" / "err").read_text()
    assert errors.count("goes back into the queue") == 1, errors
    assert errors.count("going on from") == 1
    alone = dltrain(*LONG, "hydra.run.dir=alone")
    assert metrics(run) == metrics(alone.folder)


def test_the_batch_script_does_not_requeue_what_cannot_go_on(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("DLTRAIN_PYTHON", sys.executable)
    monkeypatch.setenv("DLTRAIN_PROCESSES", "1")
    subprocess.run(["sbatch", ROOT / "scripts" / "train.sbatch", "optim.lr=-1"], check=True)
    wait_for(lambda: (slurm / "1" / "state").read_text() == "COMPLETED\n")
    assert "optim.lr=-1" in (slurm / "1" / "err").read_text()
    assert not (slurm / "1" / "was_requeued").exists() and not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("script", ["scripts/train.sbatch", *(f"tests/slurm/{name}" for name in ("sbatch", "srun"))])
def test_shell_scripts_are_clean(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    checked = subprocess.run(["shellcheck", ROOT / script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize(("launcher", "module", "extra"), [("submitit_slurm", "submitit", "slurm"), ("ray",) * 3])
def test_a_package_that_is_missing_is_named_with_its_extra(shell, tmp_path, monkeypatch, launcher, module, extra):
    monkeypatch.chdir(tmp_path)  # where the process below runs
    code = f"import sys; sys.modules[{module!r}] = None\nfrom dltrain.cli import main\nsys.exit(main())"
    outcome = shell("-m", "seed=1,2", f"hydra/launcher={launcher}", code=code)
    assert outcome.returncode == 2
    assert f"hydra/launcher={launcher} needs the package {module}: {install_line(extra)}" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_our_launchers_stand_beside_plugins_of_the_same_names(shell):
    code = """
import sys
from dataclasses import dataclass
from hydra.core.config_store import ConfigStore
from dltrain.cli import main

@dataclass
class Other:
    _target_: str = "plugin.Launcher"

ConfigStore.instance().store(group="hydra/launcher", name="submitit_slurm", node=Other())
sys.exit(main())
"""
    outcome = shell("--cfg", "hydra", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=gpu", code=code)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert "engine: slurm" in outcome.stdout and "partition: gpu" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["hydra/launcher=submitit_slurm"], "there is no SLURM here, srun is not on the PATH"),
        (["hydra/launcher=submitit_slurm", "hydra.launcher.n_jobs=auto"], "must be a whole number from 1 on"),
        (["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=long"], "timeout_min"),
        (["hydra/launcher=submitit_local", "hydra.launcher.partition=gpu"], "has no key partition"),
    ],
)
def test_a_mistake_is_one_message_and_exit_2(dltrain, arguments, fragment):
    outcome = dltrain("-m", *SHORT, "seed=1,2", SWEEP, *arguments)
    assert outcome.code == 2, outcome.stderr
    assert fragment in outcome.stderr and "Traceback" not in outcome.stderr
