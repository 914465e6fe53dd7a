"""Several processes that share a run: the same mathematics, one voice, and an end for all when one fails."""

import copy
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from secrets import token_hex

import polars as pl
import pytest
import torch
from torch import nn

from dltrain.data.base import Facts
from dltrain.distributed.layers import share_layers
from dltrain.distributed.process_group import ProcessGroup, _span
from dltrain.errors import CheckpointError, ConfigError, Interrupted, TrainingError
from dltrain.runs import checkpoint
from dltrain.runs.record import read_result
from dltrain.runs.shards import load_shards
from dltrain.trained.launch import start
from dltrain.training.metrics import RegressionMetrics

# 70 training samples: batches of 16, 16, 16, 16 and 6, which 2 and 3 processes divide unevenly.
SMALL = ["dataset.limit=70", "dataset.batch_size=16", "optim.lr=0.01", "trainer.epochs=2", "device=cpu"]
CASES = {
    "batch norm": ["model.batch_norm=true"],
    "dropout": ["model.dropout=0.4", "trainer.accumulate=3"],
    "clipping, EMA and penalty": ["trainer.clip_norm=0.3", "trainer.ema_decay=0.9", "penalty.l2=0.001"],
    "a last batch with fewer samples than processes": ["dataset.batch_size=34", "trainer.accumulate=2"],
    "dropout between recurrent layers": [
        *("dataset=sunspots", "dataset.limit=null", "dataset.batch_size=500", "model=gru", "model.num_layers=2"),
        *("model.dropout=0.3", "model.hidden_size=8", "model.bidirectional=true"),
    ],
    "lstm": ["dataset=sunspots", "dataset.limit=100", "model.num_layers=2", "model.dropout=0.3", "model.hidden_size=8"],
    "class weights": [
        *("+loss.weight=[1,2,3,0.5,0,1,1,9,1,4]", "+loss.ignore_index=3", "penalty.l2=0.001"),
        *("dataset.batch_size=34", "trainer.accumulate=3"),
    ],
    "regression": ["dataset=diabetes", "model=mlp", "trainer.clip_value=0.1", "scheduler=plateau"],
}


def history(folder: Path) -> pl.DataFrame:
    return pl.read_csv(folder / "metrics.csv", infer_schema_length=None)


def assert_same(one: Path, other: Path, rtol: float = 1e-4) -> None:
    """The same metrics in every epoch, but for the rounding of sums in another order."""
    a, b = history(one), history(other)
    assert a.columns == b.columns
    for name in a.columns:
        assert b[name].to_list() == pytest.approx(a[name].to_list(), rel=rtol, abs=1e-6), name


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
def test_several_processes_compute_what_one_does(dltrain, together, tmp_path, options):
    alone = dltrain(*SMALL, *options, "hydra.run.dir=1").result
    for processes in (2, 3):
        ended = together(processes, *SMALL, *options, f"hydra.run.dir={processes}", "report=false")
        assert [one.code for one in ended] == [0] * processes, ended[0].stderr
        assert_same(tmp_path / "1", tmp_path / str(processes))
        assert ended[0].result["test"] == pytest.approx(alone["test"], rel=1e-4)


def test_shards_learn_by_the_weights_of_the_whole_batch_and_by_its_sum(dltrain, together, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\nclass Sum(nn.CrossEntropyLoss):\n"
        "    def __init__(self):\n        super().__init__(reduction='sum')\n"
    )
    (tmp_path / "conf" / "loss").mkdir(parents=True)
    (tmp_path / "conf" / "loss" / "mine.yaml").write_text("_target_: mine.Sum\n")
    for name, loss in (("weights", ["+loss.weight=[1,2,3,0.5,0,1,1,9,1,4]"]), ("sum", ["loss=mine", "optim.lr=0.001"])):
        options = [*SMALL, "--config-dir=conf", *loss, "trainer.accumulate=2", "report=false"]
        dltrain(*options, f"hydra.run.dir={name}")
        ended = together(2, *options, "trainer.strategy=fsdp", f"hydra.run.dir={name}-2")
        assert ended[0].code == 0, ended[0].stderr
        assert_same(tmp_path / name, tmp_path / f"{name}-2")


def test_one_process_under_a_launcher_is_bitwise_one_alone(dltrain, together, tmp_path):
    dltrain(*SMALL, "model.dropout=0.3", "hydra.run.dir=alone")
    (ended,) = together(1, *SMALL, "model.dropout=0.3", "hydra.run.dir=ddp", "report=false")
    assert ended.code == 0
    assert history(tmp_path / "alone").equals(history(tmp_path / "ddp"))


def test_batch_norm_of_each_process_alone_is_another_run(together, tmp_path):
    for name, sync in (("own", "false"), ("all", "true")):
        options = ["model.batch_norm=true", f"trainer.sync_batchnorm={sync}", f"hydra.run.dir={name}", "report=false"]
        assert together(2, *SMALL, *options)[0].code == 0
    own, together_ = history(tmp_path / "own"), history(tmp_path / "all")
    assert own["train/loss"][0] != pytest.approx(together_["train/loss"][0], rel=1e-4)


def test_a_parameter_that_has_no_part_in_the_loss_is_no_obstacle(together, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, outputs):\n"
        "        super().__init__()\n"
        "        self.used, self.unused = nn.Linear(64, outputs), nn.Linear(3, 3)\n"
        "    def forward(self, inputs):\n"
        "        return self.used(inputs.flatten(1))\n"
    )
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("_target_: mine.Net\noutputs: ${data.num_outputs}\n")
    ended = together(2, *SMALL, "--config-dir=conf", "model=mine", "report=false", "hydra.run.dir=run")
    assert ended[0].code == 0, ended[0].stderr
    assert history(tmp_path / "run").height == 2


def test_one_process_writes_and_speaks_for_all(together, tmp_path):
    first, *others = together(3, *SMALL)
    assert first.result["status"] == "done"
    assert [(other.code, other.stdout, other.stderr) for other in others] == [(0, "", "")] * 2
    (run,) = tmp_path.glob("outputs/*/*")  # named by one, before any other wrote
    assert run == Path(first.result["run"])
    files = ("config.yaml", "environment.json", "metrics.csv", "result.json", "train.log", "report.html", "curves.png")
    assert {path.name for path in run.iterdir()} == {".hydra", "checkpoints", "logs", *files}
    for rank in (1, 2):
        assert (run / "logs" / f"rank-{rank}.log").read_text().count("epoch ") == 2
    assert json.loads((run / "environment.json").read_text())["processes"] == 3
    assert "confusion_matrix" in json.loads((run / "result.json").read_text())


@pytest.mark.parametrize(("strategy", "other"), [("ddp", "fsdp"), ("fsdp", "ddp")])
def test_a_run_goes_on_in_another_number_of_processes(dltrain, together, tmp_path, strategy, other):
    """Of three processes two, then one, then two that hold the network in the other way."""
    options = [*SMALL, "model.dropout=0.3", "trainer.ema_decay=0.9", "optim=adamw", "report=false"]
    dltrain(*options, "trainer.epochs=5", "hydra.run.dir=whole")
    shards = [f"trainer.strategy={strategy}", "hydra.run.dir=broken"]
    assert together(3, *options, *shards, "trainer.epochs=2")[0].code == 0
    ended = together(2, "resume", "broken", "trainer.epochs=3")
    assert ended[0].code == 0, ended[0].stderr
    alone = dltrain("resume", "broken", "trainer.epochs=4", "trainer.devices=1", "trainer.strategy=ddp")
    assert alone.code == 0, alone.stderr
    assert "shards" not in checkpoint.load(tmp_path / "broken" / "checkpoints" / "last.pt")
    ended = together(2, "resume", "broken", "trainer.epochs=5", f"trainer.strategy={other}")
    assert ended[0].code == 0, ended[0].stderr
    assert_same(tmp_path / "whole", tmp_path / "broken", rtol=1e-3)


def test_shards_go_on_in_one_process_and_where_an_evaluation_comes_before_the_first_step(together, tmp_path):
    """FSDP makes the memory that a network takes when it is first used; that must do for training as well."""
    (tmp_path / "mine.py").write_text(
        "import os\n"
        "from dltrain.models import MLP\n"
        "class Net(MLP):\n"
        "    steps = 0\n"
        "    def forward(self, inputs):\n"
        "        Net.steps += self.training\n"
        "        if Net.steps == 5 and os.environ['RANK'] == '1' and 'STOP' in os.environ:\n"
        "            os.kill(os.getpid(), 15)\n"
        "        return super().forward(inputs)\n"
    )
    options = [*SMALL, "model=mlp", "model._target_=mine.Net", "trainer.strategy=fsdp", "report=false"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOP", "1")  # in the last step of an epoch, which all know of in the evaluation behind it
        stopped = together(2, *options, "hydra.run.dir=run")
    assert stopped[0].code == 143, stopped[0].stderr
    assert checkpoint.load(tmp_path / "run" / "checkpoints" / "last.pt")["trainer"]["epoch"] == 0
    for processes in (2, 1):
        ended = together(processes, "resume", "run", f"trainer.epochs={4 - processes}", "trust=[mine]")
        assert ended[0].code == 0, ended[0].stderr


def test_shards_are_written_by_each_process_and_read_as_one_network(together, verb, tmp_path):
    options = [*SMALL, "trainer.strategy=fsdp", "trainer.ema_decay=0.9", "report=false"]
    first = together(2, *options, "hydra.run.dir=run")[0]
    assert first.code == 0, first.stderr
    folder = tmp_path / "run" / "checkpoints"
    content = checkpoint.load(folder / "best.pt")
    own = folder / content["shards"]["folder"]
    assert sorted(path.name for path in own.iterdir()) == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    named = {name for path in folder.glob("*.pt") for name in _folders_of(path)}
    assert {path.name for path in folder.iterdir() if path.is_dir()} == named

    assert verb("evaluate", "run").result["metrics"] == pytest.approx(first.result["test"], rel=1e-5)
    assert verb("export", "run", "format=safetensors").code == 0
    weights = load_shards(content, folder)["model"]
    from safetensors.torch import load_file

    exported = load_file(tmp_path / "run" / "model.safetensors")
    assert exported.keys() == weights.keys()
    assert all(torch.equal(exported[name], weights[name]) for name in weights)


def _folders_of(path: Path) -> list[str]:
    content = checkpoint.load(path)
    return [part["shards"]["folder"] for part in (content, content.get("best")) if part and "shards" in part]


def test_damaged_missing_and_hostile_shards_are_refused(together, verb, tmp_path):
    together(2, *SMALL, "trainer.strategy=fsdp", "report=false", "hydra.run.dir=run")
    folder = tmp_path / "run" / "checkpoints"
    content = checkpoint.load(folder / "best.pt")
    shard = folder / content["shards"]["folder"] / "__1_0.distcp"
    whole, table = shard.read_bytes(), shard.with_name(".metadata")

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/was-here",)

    table_before = table.read_bytes()
    table.write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_shards(content, folder)
    assert not (tmp_path / "was-here").exists()
    table.write_bytes(table_before)
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused = verb("evaluate", "run")
    assert refused.code == 2 and "__1_0.distcp' is damaged" in refused.stderr
    shard.unlink()
    refused = verb("evaluate", "run")
    assert refused.code == 2 and "__1_0.distcp' is missing" in refused.stderr


def test_evaluate_and_predict_are_shared(dltrain, together, verb, tmp_path):
    from PIL import Image

    dltrain(*SMALL, "dataset.limit=40", "dataset.batch_size=4", "hydra.run.dir=run")
    images = tmp_path / "new"
    images.mkdir()
    draw = torch.Generator().manual_seed(1)
    for index in range(600):  # more than two batches
        Image.fromarray((torch.rand(8, 8, generator=draw) * 255).byte().numpy()).save(images / f"{index:03}.png")
    (images / "100.png").write_bytes(b"none")
    alone = verb("evaluate", "run")
    for processes in (2, 3):
        ended = together(processes, "evaluate", "run")
        assert ended[0].code == 0 and not any(other.stdout for other in ended[1:])
        assert ended[0].result["confusion_matrix"] == alone.result["confusion_matrix"]
        assert ended[0].result["metrics"] == pytest.approx(alone.result["metrics"], rel=1e-6)
    alone = verb("predict", "run", "new")
    shared = together(3, "predict", "run", "new")
    assert (shared[0].code, alone.code) == (1, 1)  # of the broken one, which is named
    assert shared[0].stderr == alone.stderr and "100.png" in alone.stderr
    assert [line.split(",")[:2] for line in shared[0].stdout.splitlines()] == [
        line.split(",")[:2] for line in alone.stdout.splitlines()
    ]
    assert not any(other.stdout for other in shared[1:])


def test_an_error_of_one_process_is_told_once_with_its_rank(together, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os, torch\n"
        "class Data:\n"
        "    def __init__(self):\n"
        "        if os.environ['RANK'] == '1':\n"
        "            raise ValueError('this machine has no such file')\n"
        "        self.train = [(torch.zeros(3), 0)] * 20\n"
    )
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_text("_target_: mine.Data\nbatch_size: 4\n")
    options = ["--config-dir=conf", "dataset=mine", "model=mlp", "trainer.epochs=1", "device=cpu"]
    ended = together(3, *options, "hydra.run.dir=run")
    assert [one.code for one in ended] == [1, 1, 1]
    assert [one.stderr.count("dltrain: ") for one in ended] == [1, 0, 0]
    assert "dltrain: rank 1: a bug: this machine has no such file" in ended[0].stderr
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--help"], 0),
        (["list", "optim"], 0),
        (["--cfg", "job"], 0),
        (["evaluate", "nowhere"], 2),
        (["-m", "seed=1,2"], 2),
    ],
    ids=["help", "list", "cfg", "evaluate", "sweep"],
)
def test_what_is_no_run_is_said_once_and_keeps_nobody_waiting(together, arguments, code):
    first, *others = together(2, *arguments)
    assert first.code == code and (first.stdout if code == 0 else first.stderr.startswith("dltrain: "))
    assert not any(other.stdout or "dltrain" in other.stderr for other in others)
    assert all(other.code >= 0 for other in others)  # none had to be killed


def test_all_processes_stop_behind_the_same_bad_step(together, tmp_path):
    ended = together(2, *SMALL, "optim.lr=1e20", "hydra.run.dir=run")
    assert [one.code for one in ended] == [1, 1]
    assert ended[0].stderr.count("training diverged") == 1 and ended[1].stderr == ""
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "failed"


TOKEN = token_hex(8)  # other tests on this machine have processes of their own


def started(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """``dltrain`` in processes of its own, once its second epoch is over and there is something to go on from."""
    command = [sys.executable, "-m", "dltrain", *SMALL, "trainer.epochs=100000", "report=false", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    table, last = cwd / "run" / "metrics.csv", cwd / "run" / "checkpoints" / "last.pt"
    until = time.monotonic() + 120
    while not (last.exists() and len(table.read_text().splitlines()) > 2):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.05)
    return process


def worker(rank: int) -> int:
    """The process with that rank that a test here has started."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if f"RANK={rank}".encode() in environment and f"OF_TEST={TOKEN}".encode() in environment:
                return int(entry.name)
    raise AssertionError(f"no process has rank {rank}")


def assert_killed(out: str, errors: str, run: Path, victim: int) -> None:
    """stderr and the result say once that the process with the rank ``victim`` was killed."""
    cause = f"rank {victim} was killed by signal 9"
    assert errors.count("dltrain: ") == 1 and f"dltrain: {cause}" in errors, errors
    result = json.loads((run / "result.json").read_text())
    for answer in (json.loads(out), result):
        assert answer["status"] == "failed" and answer["error"].startswith(cause)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_which_can_go_on(together, tmp_path, monkeypatch, victim):
    monkeypatch.setenv("OF_TEST", TOKEN)
    process = started("trainer.devices=2", "hydra.run.dir=run", cwd=tmp_path)
    os.kill(worker(victim), signal.SIGKILL)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_killed(out, errors, tmp_path / "run", victim)
    done = len(history(tmp_path / "run"))
    ended = together(3, "resume", "run", f"trainer.epochs={done + 1}")
    assert ended[0].code == 0 and len(history(tmp_path / "run")) == done + 1


def test_a_sweep_of_runs_in_several_processes_has_one_line_on_stdout(dltrain):
    swept = dltrain("-m", *SMALL, "trainer.epochs=1", "seed=1,2", "trainer.devices=2")
    assert swept.code == 0, swept.stderr
    assert swept.result["done"] == 2


def test_a_signal_to_the_launcher_saves_the_run_and_ends_all(tmp_path):
    process = started("trainer.devices=2", "hydra.run.dir=run", cwd=tmp_path)
    process.send_signal(signal.SIGUSR1)  # which torch's launcher would not hand on by itself
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 138
    assert json.loads(out)["status"] == "interrupted"
    assert errors.count("dltrain: interrupted") == 1 and "to go on: dltrain resume" in errors
    assert checkpoint.find_fault(tmp_path / "run" / "checkpoints" / "last.pt") == ""


LEAVING = """
import atexit, os
from dltrain.models import MLP
class Lasting:
    def __del__(self):
        os.abort()
class Net(MLP):
    steps = 0
    lasting = Lasting() if "APART" in os.environ else None
    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        if os.environ["RANK"] == "1" and "ABORT" in os.environ:
            atexit.register(os.abort)
    def forward(self, inputs):
        Net.steps += self.training
        if Net.steps == 8 and os.environ["RANK"] == os.environ.get("VICTIM"):
            os._exit(3)
        if Net.steps == 8 and "RAISE" in os.environ:
            raise ValueError("of the user's")
        return super().forward(inputs)
"""


def leaving(folder: Path, *launcher: str, code: str = LEAVING, **environment: str) -> subprocess.CompletedProcess[str]:
    """A run of two processes whose network does what the environment says."""
    (folder / "mine.py").write_text(code)
    options = [*SMALL, "model=mlp", "model._target_=mine.Net", "report=false", "hydra.run.dir=run"]
    return subprocess.run(
        [sys.executable, "-m", *launcher, *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("victim", [0, 1])
def test_own_code_that_leaves_with_an_exit_code_is_a_failure_that_names_its_rank(tmp_path, victim):
    run = leaving(tmp_path, "dltrain", "trainer.devices=2", VICTIM=str(victim))
    assert run.returncode == 1
    assert f"dltrain: rank {victim} left by itself, with exit code 3" in run.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["status"] == json.loads(run.stdout)["status"] == "failed"
    assert result["error"].startswith(f"rank {victim} ")


KILLED = """
import os, time
from dltrain.distributed.process_group import DistributedGroup
from dltrain.models import MLP
WHEN, IS_VICTIM, SECONDS = os.environ["WHEN"], os.environ.get("RANK") == "1", 2
close = DistributedGroup.close
def close_slowly(group):
    if WHEN == "as it leaves":
        time.sleep(SECONDS)
    close(group)
DistributedGroup.close = close_slowly
class Net(MLP):
    steps = 0
    def forward(self, inputs):
        Net.steps += self.training
        if Net.steps >= 8 and self.training == (WHEN != "in the test"):
            if IS_VICTIM:
                os.kill(os.getpid(), 9)
            if WHEN != "as it leaves":
                time.sleep(SECONDS)
        return super().forward(inputs)
"""


@pytest.mark.parametrize("when", ["at a step", "in the test", "as it leaves"])
def test_the_signal_of_the_launcher_is_not_why_a_run_ends(tmp_path, when):
    """Rank 0 receives it before it notices that rank 1 was killed, or on its way out."""
    run = leaving(tmp_path, "dltrain", "trainer.devices=2", "dataset.val_fraction=0", code=KILLED, WHEN=when)
    assert run.returncode == 1, run.stderr
    assert_killed(run.stdout, run.stderr, tmp_path / "run", 1)


def test_a_process_that_aborts_when_the_run_is_done_is_no_failure(tmp_path):
    run = leaving(tmp_path, "dltrain", "trainer.devices=2", ABORT="1")
    assert run.returncode == 0
    assert "warning: rank 1 was killed by signal 6, when the run was done" in run.stderr
    assert json.loads(run.stdout)["status"] == "done"


def test_no_process_takes_its_interpreter_apart(tmp_path):
    """While that goes on, a thread of torch's that gives back a tensor would abort the process."""
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dltrain")
    run = leaving(tmp_path, *torchrun, APART="1")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["status"] == "done"


def test_a_process_that_waits_for_its_launcher_hears_a_signal(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as launcher:  # which says nothing
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{launcher.getsockname()[1]}"}
        ranks = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        process = subprocess.Popen(
            [sys.executable, "-m", "dltrain", *SMALL], cwd=tmp_path, env={**os.environ, **place, **ranks}
        )
        try:
            with launcher.accept()[0]:
                process.terminate()
                assert process.wait(timeout=120) == 143
        finally:
            process.kill()


def test_torchrun_shows_the_one_sentence_of_a_failure(tmp_path):
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dltrain")
    run = leaving(tmp_path, *torchrun, RAISE="1")
    assert run.returncode == 1
    summary = run.stderr.partition("Root Cause")[2]
    assert "a bug: " in summary and "of the user's" in summary and "error_file: <N/A>" not in summary


RUNNING, DONE = {"status": "running"}, {"status": "done"}


@pytest.mark.parametrize(
    ("codes", "errors", "result", "answered", "code", "said", "status"),
    [
        ({0: 1, 1: -9}, {0: "a bug"}, {"status": "failed"}, False, 1, "", "failed"),
        ({1: -9, 0: 1}, {0: "rank 1 has ended"}, {"status": "failed"}, True, 1, "", "failed"),
        ({1: -9, 0: 1}, {}, {"status": "failed"}, False, 1, "rank 1 was killed by signal 9", "failed"),
        ({0: 1, 1: -9}, {}, {"status": "failed"}, False, 1, "rank 1 was killed by signal 9", "failed"),
        ({1: -9, 0: 143}, {}, {"status": "interrupted"}, False, 1, "rank 1 was killed by signal 9", "failed"),
        ({0: 143, 1: -9}, {}, RUNNING, False, 1, "rank 1 was killed by signal 9", "failed"),
        ({0: 143, 2: 1, 1: -9}, {}, RUNNING, False, 1, "rank 1 was killed by signal 9", "failed"),
        ({1: -9, 0: -15}, {}, RUNNING, False, 1, "rank 1 was killed by signal 9", "failed"),
        ({1: 1, 0: 143}, {1: "a bug"}, {"status": "interrupted"}, False, 1, "rank 1: a bug", "failed"),
        ({0: 143, 1: -15}, {}, {"status": "interrupted"}, False, 143, "signal 15", "interrupted"),
        ({0: -9, 1: 1}, {1: "rank 0 has ended"}, RUNNING, False, 1, "rank 0 was killed by signal 9", "failed"),
        ({0: -11, 1: -15}, {}, {}, False, 1, "rank 0 was killed by signal 11", None),
        ({1: 2, 0: 2}, {0: "rank 1: no file", 1: "no file"}, {}, False, 2, "", None),
        ({1: 2, 0: -15}, {1: "no file"}, {}, False, 2, "rank 1: no file", None),
        ({0: 1, 1: 1}, {}, RUNNING, False, 1, "rank 0 ended with exit code 1", "failed"),
        ({0: 1, 1: 1}, {1: "no file"}, RUNNING, False, 1, "rank 1: no file", "failed"),
        ({1: 138, 0: 138}, {}, {"status": "interrupted"}, False, 138, "signal 10", "interrupted"),
        ({1: -6, 0: -15}, {}, DONE, False, 0, "warning: rank 1 was killed by signal 6", "done"),
        ({0: -6}, {}, DONE, True, 0, "warning: rank 0 was killed by signal 6", "done"),
    ],
)
def test_the_launcher_says_what_nobody_has_said(tmp_path, capsys, codes, errors, result, answered, code, said, status):
    for rank in (0, 1):
        folder = tmp_path / "logs" / "run" / "attempt_0" / str(rank)
        folder.mkdir(parents=True)
        if rank in errors:
            (folder / "error.json").write_text(json.dumps({"message": {"message": errors[rank]}}))
        if rank == 0 and answered:
            (folder / "answered").touch()
    if result:
        (tmp_path / "result.json").write_text(json.dumps(result))
    leftovers = start.Leftovers(tmp_path / "logs", tmp_path, before={})
    ended, told = 0, ""
    try:
        start.settle_failure(codes, leftovers)
    except (TrainingError, Interrupted) as error:
        ended, told = error.exit_code, "" if error.is_reported else str(error)
    out, err = capsys.readouterr()
    assert ended == code
    assert (told + err).startswith(said) and bool(told + err) == bool(said)
    assert read_result(tmp_path).get("status") == status
    lines = [json.loads(line)["status"] for line in out.splitlines()]
    assert lines == ([status] if status and not answered and (said or status == "done") else [])


def test_torchrun_starts_all_anew_and_the_run_goes_on(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import os, torch\n"
        "from dltrain.models import MLP\n"
        "class Net(MLP):\n"
        "    steps = 0\n"
        "    def forward(self, inputs):\n"
        "        Net.steps += self.training\n"
        "        if Net.steps == 30 and os.environ['RANK'] + os.environ['TORCHELASTIC_RESTART_COUNT'] == '10':\n"
        "            os.kill(os.getpid(), 9)\n"
        "        return super().forward(inputs)\n"
    )
    mine = ["model=mlp", "model._target_=mine.Net", "trainer.checkpoint.every_n_steps=10"]
    mine += ["trainer.epochs=20", "report=false"]
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "dltrain"]
    run = subprocess.run(
        [sys.executable, "-m", *command, *SMALL, *mine],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    (folder,) = tmp_path.glob("outputs/*/*")
    assert "going on from" in run.stderr
    assert json.loads(run.stdout)["status"] == "done"  # of the failure before nothing is said there
    assert history(folder)["epoch"].to_list() == list(range(1, 21))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.devices=0"], "must be a whole number of at least 1, or auto"),
        (["trainer.devices=two"], "must be a whole number of at least 1, or auto"),
        (["trainer.strategy=fspd"], "did you mean 'fsdp'?"),
        (["trainer.strategy=fsdp"], "add trainer.devices=N, or take ddp"),
        (["trainer.devices=2", "trainer.strategy=fsdp", "trainer.on_nonfinite=rollback"], "use stop or skip"),
        (["trainer.devices=8", "dataset.batch_size=4"], "is the batch of all 8 processes"),
        (["trainer.devices=2", "device=mps"], "use device=cuda, a GPU each, or device=cpu"),
        (["trainer.devices=2", "device=cuda"], "this machine has 0 GPUs"),
    ],
)
def test_what_several_processes_cannot_do_is_refused(dltrain, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    refused = dltrain(*arguments)
    assert refused.code == 2
    assert message in refused.stderr and refused.stderr.count("dltrain: ") == 1


def test_as_many_processes_as_gpus_unless_a_number_is_given():
    assert start._count("auto", "auto", 4) == 4
    assert start._count("auto", "cpu", 4) == 1
    assert start._count(2, "auto", 4) == 2
    assert start._count(6, "cpu", 4) == 6
    with pytest.raises(ConfigError, match="this machine has 4 GPUs"):
        start._count(6, "auto", 4)


@pytest.mark.parametrize("total", [0, 1, 2, 5, 16, 17])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_batch_is_cut_as_tensor_split_cuts(total, size):
    parts = torch.arange(total).tensor_split(size)
    assert [range(*_span(total, size, rank)) for rank in range(size)] == [
        range(part[0], part[-1] + 1) if len(part) else range(_span(total, size, rank)[0], _span(total, size, rank)[0])
        for rank, part in enumerate(parts)
    ]


@pytest.mark.parametrize("micro_batches", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_pieces_and_cuts_are_of_the_same_rows(size, micro_batches):
    indices = torch.randperm(11)
    seen = []
    for rank in range(size):
        process_group = ProcessGroup()
        process_group.size, process_group.rank = size, rank
        own, pieces = process_group.cut(indices, micro_batches), process_group.slices(11, micro_batches)
        rows = [
            micro[piece.start : piece.stop]
            for micro, piece in zip(indices.tensor_split(micro_batches), pieces, strict=True)
        ]
        assert torch.equal(own, torch.cat(rows))
        seen.append(own)
    assert sorted(torch.cat(seen).tolist()) == list(range(11))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4, 2)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norm_over_the_rows_of_all_is_torchs_own(shape, momentum):
    class Pretended(ProcessGroup):
        """Rank 1 of 2, to whom rank 0 says what it would."""

        size, rank = 2, 1

        def sum(self, tensor):
            return tensor.add_(self.told.pop(0))

    torch.manual_seed(0)
    kind = nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d
    plain = kind(3, momentum=momentum).double()
    shared = copy.deepcopy(plain)
    process_group = Pretended()
    share_layers(nn.Sequential(shared), process_group, sync_batchnorm=True)
    rows = (torch.randn(shape, dtype=torch.float64) * 3 + 10).requires_grad_()
    upward = torch.randn(shape, dtype=torch.float64)
    expected = plain(rows)
    expected.backward(upward)

    first, second = rows.detach()[:3], rows.detach()[3:].requires_grad_()  # as 5 rows are cut
    dims = [dim for dim in range(len(shape)) if dim != 1]
    means = torch.zeros(2, 2, 3, dtype=torch.float64)
    means[0] = torch.stack([first.mean(dims), first.var(dims, correction=0) * first[:, 0].numel()])
    affine = [-1 if dim == 1 else 1 for dim in range(len(shape))]
    normalised = ((expected.detach() - plain.bias.view(affine)) / plain.weight.view(affine)).detach()[:3]
    process_group.told = [means, torch.stack([upward[:3].sum(dims), (upward[:3] * normalised).sum(dims)])]
    with process_group.computing(process_group.slices(5)[0]):
        outputs = shared(second)
        outputs.backward(upward[3:])
    torch.testing.assert_close(outputs, expected[3:], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(second.grad, rows.grad[3:], rtol=1e-10, atol=1e-12)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        torch.testing.assert_close(getattr(shared, name), getattr(plain, name))


def test_metrics_counted_from_other_origins_add_up():
    class Two(ProcessGroup):
        size = 2

        def __init__(self, other):
            self.other = other

        def gather(self, value):
            return [self.other.origin, value]

        def sum(self, tensor):
            loss = self.other.loss
            return tensor.add_(self.other.sums if tensor.dim() == 2 else torch.tensor([loss.total, loss.count]))

    torch.manual_seed(0)
    outputs, targets = torch.randn(9, 2, dtype=torch.float64), torch.randn(9, 2, dtype=torch.float64) + 1000
    facts = Facts("", "regression", "table", (1,), 2, target_std=3.0)
    whole, first, second = (RegressionMetrics(facts, torch.device("cpu")) for _ in range(3))
    loss = nn.MSELoss()
    for metrics, rows in ((whole, slice(0, 9)), (first, slice(0, 4)), (second, slice(4, 9))):
        metrics.update(outputs[rows], targets[rows], loss(outputs[rows], targets[rows]))
    second.merge(Two(first))
    assert second.compute() == pytest.approx(whole.compute(), rel=1e-9)
