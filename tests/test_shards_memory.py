"""A set of shards that is ten times larger than all the memory its run may take."""

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not hold a process to it")

LIMIT = 1 << 30  # of which an idle run takes about three quarters
SIZE = 10 * LIMIT
SHARDS, SAMPLES = 8, 320  # a shard

# RLIMIT_DATA counts the memory that a process has for itself, workers each their own: not files that are mapped.
RUN = """
import resource, sys
resource.setrlimit(resource.RLIMIT_DATA, ({limit}, {limit}))
{keep}
from dltrain.cli import main
sys.exit(main(sys.argv[1:]))
"""
KEEP = """
from dltrain.data.shard_files import tar as tar_shards
read, kept = tar_shards.content_of, []
def content_of(file, place):
    kept.append(read(file, place))
    return kept[-1]
tar_shards.content_of = content_of
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Tar files of small pictures with nothing behind them, which the disk need not hold but a reader has to read."""
    folder = tmp_path_factory.mktemp("large") / "train"
    folder.mkdir()
    nbytes = -(-SIZE // (SHARDS * SAMPLES))
    for shard in range(SHARDS):
        with open(folder / f"{shard:03}.tar", "wb") as file:
            for number in range(SAMPLES):
                label, picture = number % 2, io.BytesIO()
                Image.new("RGB", (16, 16), (200 * label,) * 3).save(picture, "PNG")
                add(file, f"{number:06}.png", picture.getvalue(), nbytes)
                add(file, f"{number:06}.cls", b"%d" % label, 1)
            file.write(bytes(2 * tarfile.BLOCKSIZE))
    return folder.parent


def add(file: io.BufferedWriter, name: str, content: bytes, nbytes: int) -> None:
    """Add a member of ``nbytes`` that begins with ``content``; the rest is zeros, left out as a hole."""
    member = tarfile.TarInfo(name)
    member.size = nbytes
    file.write(member.tobuf())
    blocks = -(-nbytes // tarfile.BLOCKSIZE)
    end = file.tell() + blocks * tarfile.BLOCKSIZE
    file.write(content)
    file.seek(end)


def run(root: Path, cwd: Path, keep: str = "") -> subprocess.CompletedProcess[str]:
    arguments = [
        *("dataset=shards", f"dataset.root={root}", "dataset.image_size=16", "dataset.batch_size=16", "device=cpu"),
        *("dataset.val_fraction=0.02", "dataset.test_fraction=0.02", "trainer.epochs=1", "report=false"),
    ]
    code = RUN.format(limit=LIMIT, keep=keep)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_a_set_ten_times_larger_than_the_memory_limit_is_trained_on_within_it(root, tmp_path):
    assert sum(path.stat().st_size for path in (root / "train").iterdir()) >= 10 * LIMIT
    done = run(root, tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"accuracy": 1.0' in done.stdout
    assert "2,459 train, 50 val, 51 test" in done.stderr


def test_a_reader_that_keeps_what_it_has_read_does_not_stay_within_it(root, tmp_path):
    done = run(root, tmp_path, KEEP)
    assert done.returncode == 1
    assert "MemoryError" in done.stderr or "Cannot allocate memory" in done.stderr
