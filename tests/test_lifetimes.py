"""Processes and locks end with the run that has them, however it ends, and nobody waits in silence."""

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex

import pytest
from made import write_images
from torture import left_behind, processes_with, torture

from dltrain.data import cache
from dltrain.data.shard_files.writing import write_shards
from dltrain.runs.folder import is_in_use
from dltrain.system import machine
from dltrain.system.machine import Lock

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the system ends processes with their parent on Linux")

TOKEN = token_hex(8)  # other tests on this machine have processes of their own
SMALL = ("dataset.image_size=8", "trainer.epochs=1", "dataset.batch_size=100", "report=false")
# Whatever a process works on, it notes that it has begun, and then does not get on.
SLOWLY = """
import os, sys, time
from dltrain.data.images import decode
from dltrain.data import loader
from dltrain.data.shard_files import index as shard_index, tar as tar_shards

def slowly(*arguments):
    open(f"begun-{os.getpid()}", "w").close()
    time.sleep(1000)

decode.core_count = loader.core_count = shard_index.core_count = lambda: 2
if os.path.exists("quickly"):
    pass
elif "dataset.cache=none" in sys.argv:
    loader._Taking.__getitem__ = slowly
else:
    decode.decode = tar_shards.TarShards.scan = slowly
from dltrain.cli import main
sys.exit(main())
"""
SWEEP = ("-m", "seed=1,2", "hydra.sweep.dir=run", "hydra.launcher.n_jobs=2")
ENDLESS = ("model=mlp", "dataset.limit=64", "trainer.epochs=1000000", "report=false")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """600 images in class folders, ``photos``, and the same in 10 shards."""
    top = tmp_path_factory.mktemp("lifetimes")
    write_images(top / "photos", count=300, size=(8, 8))
    write_shards(top / "photos", top / "shards", "tar", samples=60, seed=0)
    return top


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts a process of dltrain's in a folder and with a cache of its own; whatever is left of it ends in the end."""
    monkeypatch.setenv("DLTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)

    def start(*arguments: str, code: str = SLOWLY) -> subprocess.Popen[str]:
        environment = {**os.environ, "TOKEN_OF_TEST": TOKEN}
        command = [sys.executable, "-c", code, *arguments]
        processes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
        return processes[-1]

    processes: list[subprocess.Popen[str]] = []
    yield start
    for pid in processes_with(TOKEN):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for process in processes:
        if process.returncode is None or not process.stderr.closed:
            process.communicate()


def wait_for(what: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert process is None or process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def begun(count: int) -> Callable[[], bool]:
    return lambda: len(list(Path().glob("begun-*"))) >= count


@pytest.mark.parametrize(
    ("arguments", "writes"),
    [
        (("dataset=image_folder", "dataset.root={}/photos"), True),
        (("dataset=image_folder", "dataset.root={}/photos", "dataset.cache=none"), False),
        (("dataset=shards", "dataset.root={}/shards"), True),
    ],
    ids=["decoding", "reading", "indexing"],
)
def test_a_run_killed_while_others_read_for_it_leaves_nobody_behind_and_the_next_finds_all_free(
    data, started, arguments, writes
):
    command = [word.format(data) for word in arguments]
    process = started(*command, *SMALL)
    wait_for(begun(2), process)
    assert len(list(Path("cache").glob("*.tmp"))) == writes
    process.kill()
    process.wait()
    assert left_behind(TOKEN) == []
    Path("quickly").touch()
    again = started(*command, *SMALL)
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert "waiting for" not in errors and list(Path("cache").glob("*.tmp")) == []


@pytest.mark.parametrize(
    ("arguments", "running"),
    [
        (("trainer.devices=2", "device=cpu", "hydra.run.dir=run"), "run"),
        ((*SWEEP, "hydra/launcher=parallel"), "run/1"),
        ((*SWEEP, "hydra/launcher=submitit_local"), "run/1"),
        ((*SWEEP, "hydra/launcher=ray"), "run/1"),
    ],
    ids=["processes", "sweep", "submitit", "ray"],
)
def test_what_a_killed_command_has_started_ends_with_it(started, arguments, running):
    if "submitit" in str(arguments) or "ray" in str(arguments):
        pytest.importorskip("submitit")
        pytest.importorskip("ray")
    process = started(*ENDLESS, *arguments, code="from dltrain.cli import main; main()")
    wait_for(Path(running, "checkpoints", "last.pt").exists, process)
    process.kill()
    process.wait()
    if "hydra/launcher=ray" in arguments:  # its own agents take longer, but no job goes on
        wait_for(lambda: not is_in_use(Path(running)))
    else:
        assert left_behind(TOKEN) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("dataset=image_folder", "dataset.root={}/photos"), "a process that reads data was killed; is there enough"),
        (("dataset=shards", "dataset.root={}/shards"), "a process that reads data was killed; is there enough memory?"),
        (("dataset=image_folder", "dataset.root={}/photos", "dataset.cache=none"), "docker run --shm-size"),
    ],
    ids=["decoding", "indexing", "reading"],
)
def test_a_killed_reader_ends_the_run_with_one_message(data, started, arguments, message):
    process = started(*(word.format(data) for word in arguments), *SMALL)
    wait_for(begun(2), process)
    os.kill(int(next(Path().glob("begun-*")).name.removeprefix("begun-")), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors.count("Traceback")) == (1, 0), errors
    assert message in errors


def test_a_lock_is_not_inherited(tmp_path):
    lock = Lock(tmp_path / "some.lock", is_file=True)
    lock.take()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.fstat(lock._descriptor)
        except OSError:  # there is no such descriptor
            code = 0
        os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    lock.release()
    other = Lock(lock.path, is_file=True)
    other.take()
    assert other.is_held
    other.release()


def test_who_waits_for_a_lock_hears_who_has_it(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("DLTRAIN_CACHE", str(tmp_path))
    monkeypatch.setattr(Lock, "_SECONDS_TO_SAY", 0.05)
    lock = tmp_path / f"{'0' * 32}.lock"
    hold = (
        "import sys, time\nfrom pathlib import Path\nfrom dltrain.system.machine import Lock\n"
        "sys.argv = ['/bin/dltrain', 'dataset=mine', 'name=a b\\n\\x1b[2Jc']\n"
        f"lock = Lock(Path({str(lock)!r}), is_file=True)\nlock.take()\nprint(flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", hold]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        holder.stdout.readline()

        class Watch(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                holder.stdin.close()  # it ends, and its lock with it

        monkeypatch.setattr(machine.log, "handlers", [Watch()])
        assert cache.cached("0" * 32, (10,), "", lambda array: array.fill(7)).sum() == 70
        (said,) = (record.getMessage() for record in caplog.records if record.name == "dltrain.system.machine")
    told = rf"waiting for process {holder.pid} on \S+ \('dltrain dataset=mine 'name=a b\[2Jc'', since 20\d\d-.*"
    assert re.match(told + rf"kill {holder.pid} ends it\), which holds '.*\.lock'; DLTRAIN_CACHE=FOLDER", said), said
    assert lock.read_text() == ""  # nobody holds it any more


def test_kills_while_data_are_cached_and_of_sweeps_leave_nothing_behind_and_lose_nothing(tmp_path):
    sweep = ["-m", "hydra/launcher=parallel", "hydra.launcher.n_jobs=2", "trainer.epochs=5", "dataset.limit=100"]
    outcome = torture([*sweep, "seed=1,2"], 2, tmp_path, seed=1)
    assert outcome.kills >= 2 and outcome.differing == []


@pytest.mark.parametrize("place", ["auto", "none"])
def test_without_shared_memory_a_run_reads_its_data_by_itself_and_says_so(data, tmp_path, place):
    without = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o ro none /dev/shm && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*without, "true"], capture_output=True).returncode:
        pytest.skip("/dev/shm cannot be taken from a process here")
    command = [sys.executable, "-m", "dltrain", "dataset=image_folder", f"dataset.root={data / 'photos'}", *SMALL]
    environment = {**os.environ, "DLTRAIN_CACHE": str(tmp_path / "cache")}
    outcome = subprocess.run(
        [*without, *command, f"dataset.cache={place}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stderr.count("this process reads all data by itself") == 1
    assert "/dev/shm" in outcome.stderr and "Traceback" not in outcome.stderr
