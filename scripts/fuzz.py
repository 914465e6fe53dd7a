"""Gives every verb files that somebody else could have made, and looks whether it keeps its contract.

Small runs, tables, images and shards are made once. A case takes copies of them, changes some at random
(``fuzz_files.py``), and runs one command in a process that is forked for it. Whatever the files hold, the command must
end within some seconds with an exit code and streams as promised, write nothing outside of its folders, and leave no
process behind. All of a case follows from its seed.
"""

import argparse
import atexit
import json
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fuzz_files import MARKUP, SECRET, bytes_of, checkpoint_of, csv_of, image_of, json_of, value, yaml_of
from PIL import Image

from dltrain.data.shard_files.writing import write_shards

_CPU_SECONDS = 10  # for a command; of the processor, so that a busy machine changes nothing
_SECONDS = 90
_MEMORY = 4 << 30
SECRET_VALUE = "a-secret-that-no-file-may-ask-for"
_FAST = ["report=false", "trainer.threads=1"]
RUNS = {
    "digits": ["trainer.epochs=2", "dataset.limit=60", "model.channels=[4]"],
    "table": ["dataset=table", "dataset.path=data/table.csv", "dataset.target=kind", "trainer.epochs=2"],
    "series": [
        "dataset=series",
        "dataset.path=data/series.csv",
        "dataset.target=value",
        "dataset.time=time",
        "dataset.window=6",
        "dataset.horizon=3",
        "trainer.epochs=1",
    ],
    "images": ["dataset=image_folder", "dataset.root=data/images", "dataset.image_size=8", "trainer.epochs=1"],
    "shards": ["dataset=shards", "dataset.root=data/shards", "dataset.image_size=8", "trainer.epochs=1"],
    "sweep": ["-m", "seed=1,2", "trainer.epochs=1", "dataset.limit=60", "model.channels=[4]"],
}
INPUTS = {
    "digits": "data/images/train/a/0.png",
    "table": "data/table.csv",
    "series": "data/series.csv",
    "images": "data/images/train",
    "shards": "data/images/train",
}


@dataclass
class Ended:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str
    left: list[int] = field(default_factory=list)  # its processes that are still there


@dataclass
class Case:
    """A command, and what it may write to, relative to its working directory."""

    arguments: list[str]
    writes: list[str]
    changed: list[str]  # files
    foreign: bool = True  # its files are of somebody else, who may not learn of this user's environment

    def __post_init__(self) -> None:
        if "--config-name" in self.arguments:  # a configuration that is named is a program, and may ask for anything
            self.foreign = False


Run = Callable[[Sequence[str]], Ended]


class Bench:
    """``folder/whole`` holds what no case has changed, ``folder/work`` is the working directory of the cases."""

    def __init__(self, folder: Path, run: Run):
        self.folder, self.run = folder, run
        self.whole, self.work, self.outside = folder / "whole", folder / "work", folder / "outside"

    def make(self, names: Sequence[str]) -> None:
        """Make the data and the runs of these names, unless they are there."""
        if not (self.whole / "data").exists():
            write_data(self.whole / "data")
        for name in names:
            if not (self.whole / name).exists():
                self.restore([])
                place = "hydra.sweep.dir" if "-m" in RUNS[name] else "hydra.run.dir"
                ended = self.run([*RUNS[name], *_FAST, f"{place}={name}"])
                if ended.code:
                    raise RuntimeError(f"the run {name} ended with {ended.code}:\n{ended.stderr}")
                shutil.copytree(self.work / name, self.whole / name)

    def restore(self, names: Sequence[str]) -> None:
        """Have the working directory hold the data and these runs alone."""
        for folder in (self.work, self.outside):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        (self.outside / "kept").write_text("this stays\n")
        for name in ("data", *names):
            shutil.copytree(self.whole / name, self.work / name)
        (self.work / "tmp").mkdir()
        os.chdir(self.work)

    def prepared(self, seed: int, kinds: Sequence[str]) -> tuple[str, Case]:
        """The case of ``seed``, with its files in the working directory."""
        draw = random.Random(seed)
        kind = draw.choice(list(kinds))
        return kind, KINDS[kind](draw, self)

    def faults(self, seed: int, kinds: Sequence[str]) -> tuple[str, Case, Ended, list[str]]:
        """Run the case of ``seed``: its kind, itself, how it ended, and what was wrong with that."""
        kind, case = self.prepared(seed, kinds)
        before = dict(self._files(case))
        ended = self.run(case.arguments)
        after = dict(self._files(case))
        faults = list(broken(case, ended))
        faults += [f"{name} was written" for name in sorted(after) if before.get(name) != after[name]]
        faults += [f"{name} was removed" for name in sorted(before.keys() - after.keys())]
        faults += self._leaks(case)
        return kind, case, ended, faults

    def _files(self, case: Case) -> Iterator[tuple[str, tuple[int, int]]]:
        """Size and time of all that the command may not write to."""
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            parts = path.relative_to(self.work).parts[:1] if path.is_relative_to(self.work) else ()
            if not name.startswith("cache") and not path.is_dir() and not set(parts) & {*case.writes}:
                state = path.lstat()
                yield name, (state.st_size, state.st_mtime_ns)

    def _leaks(self, case: Case) -> Iterator[str]:
        """What no written file may hold."""
        for name in case.writes:
            for path in (self.work / name).rglob("*"):
                if path.suffix in (".html", ".json", ".yaml", ".csv", ".log", ".pt") and path.is_file():
                    text = path.read_bytes()
                    if case.foreign and SECRET_VALUE.encode() in text:
                        yield f"a variable of the environment is in {path.name}"
                    if path.suffix == ".html" and MARKUP.encode() in text:
                        yield f"markup of a file is in {path.name}"


def write_data(folder: Path) -> None:
    """A table, a series, images of two classes, and shards of them."""
    draw = random.Random(0)
    folder.mkdir(parents=True)
    rows = [f"{draw.gauss(0, 1):.3f},{draw.choice(['red', 'blue'])},{'ab'[n % 2]}" for n in range(60)]
    (folder / "table.csv").write_text("\n".join(["x,colour,kind", *rows]) + "\n")
    values = [
        f"2026-01-{1 + n // 24:02} {n % 24:02}:00,{n % 7 + draw.random():.3f},{draw.random():.3f}" for n in range(120)
    ]
    (folder / "series.csv").write_text("\n".join(["time,value,other", *values]) + "\n")
    import polars as pl

    for name in ("table", "series"):
        pl.read_csv(folder / f"{name}.csv").write_parquet(folder / f"{name}.parquet")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        place = folder / "images" / "train" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
    write_shards(folder / "images", folder / "shards", "tar", samples=12, seed=0)
    write_shards(folder / "images", folder / "parquet", "parquet", samples=12, seed=0)


# The kinds of cases: each restores what it needs, changes files, and returns a command that reads them.


def _change(path: Path, changed: Callable[[bytes], bytes]) -> str:
    path.write_bytes(changed(path.read_bytes()))
    return str(path)


def checkpoints(draw: random.Random, bench: Bench) -> Case:
    name = draw.choice(["digits", "table", "series", "images"])
    bench.restore([name])
    folder = Path(name, "checkpoints")
    chosen = draw.choice(["best.pt", "best.pt", "last.pt"])
    changed = [_change(folder / chosen, lambda content: checkpoint_of(draw, content, bench.outside))]
    if draw.random() < 0.8:
        for path in folder.glob("last-*.pt"):
            path.unlink()
    run = draw.choice([name, f"{name}/checkpoints/{chosen}"])
    return Case(_on_run(draw, name, run, resumes=chosen == "last.pt"), [name, "out"], changed)


def results(draw: random.Random, bench: Bench) -> Case:
    name = draw.choice(["digits", "table"])
    bench.restore([name])
    files = [
        "result.json",
        "environment.json",
        "metrics.csv",
        "config.yaml",
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
    ]
    changed = []
    for file in draw.sample([*files, ".hydra/hydra.yaml"], draw.choice([1, 1, 2])):
        changed.append(_change(Path(name, file), lambda content, file=file: _record_of(draw, file, content, bench)))
    return Case(_on_run(draw, name, name, resumes=draw.random() < 0.3), [name, "out"], changed)


def _record_of(draw: random.Random, file: str, content: bytes, bench: Bench) -> bytes:
    if file.endswith(".json"):
        return json_of(draw, content, bench.outside)
    if file.endswith(".yaml"):
        return yaml_of(draw, content, bench.outside)
    return csv_of(draw, content, bench.outside)


def _on_run(draw: random.Random, name: str, run: str, resumes: bool) -> list[str]:
    """A command that reads the run ``run``, which is a changed copy of ``name``."""
    if resumes and draw.random() < 0.8:
        return draw.choice(
            [
                ["resume", run, "trainer.epochs=3", *draw.choice([[], ["--force"]])],
                ["resume=auto", f"hydra.run.dir={name}", *RUNS[name], "trainer.epochs=3", "report=false"],
                ["resume", run],
            ]
        )
    kinds = ["state_dict"] * 5 + ["safetensors"] * 2 + ["onnx"]
    return draw.choice(
        [
            *(["evaluate", run], ["evaluate", run, draw.choice(["split=train", "split=val", "device=cpu", "seed=3"])]),
            *[["predict", run, INPUTS[name], f"out=out/rows.{draw.choice(['csv', 'jsonl', 'parquet'])}"]] * 2,
            ["explain", run, INPUTS[name], "out=out/why"],
            ["export", run, f"format={draw.choice(kinds)}", "out=out/model"],
            *(["report", name], ["report", name, "out=out/page.html"], ["compare", name, name, "out=out/two.html"]),
            ["compare", name, name],
            ["--config-dir", name, "--config-name", "config", "hydra.run.dir=out/again", *_FAST],
            ["check", "--config-dir", name, "--config-name", "config"],
        ]
    )


def sweeps(draw: random.Random, bench: Bench) -> Case:
    bench.restore(["sweep"])
    files = sorted(
        path for path in Path("sweep").rglob("*") if path.suffix in (".json", ".jsonl", ".csv", ".yaml", ".log")
    )
    changed = []
    for path in draw.sample(files, draw.choice([1, 1, 2, 4])):
        kind = path.name if path.suffix != ".jsonl" else "lines.csv"
        changed.append(_change(path, lambda content, kind=kind: _record_of(draw, kind, content, bench)))
    again = [*RUNS["sweep"], *_FAST, "hydra.sweep.dir=sweep", "resume=auto"]
    arguments = draw.choice(
        [
            *(["report", "sweep"], ["report", "sweep", "out=out/page.html"], again, [*again, "optim.lr=0.1,0.2"]),
            *(["compare", "sweep/0", "sweep/1"], ["compare", "sweep"], ["resume", "sweep"], ["evaluate", "sweep/0"]),
        ]
    )
    return Case(arguments, ["sweep", "out"], changed)


def tables(draw: random.Random, bench: Bench) -> Case:
    name = draw.choice(["table", "series"])
    bench.restore([name])
    if is_parquet := draw.random() < 0.2:
        changed = [_change(Path(f"data/{name}.parquet"), lambda content: bytes_of(draw, content))]
    else:
        changed = [_change(Path(f"data/{name}.csv"), lambda content: csv_of(draw, content, bench.outside))]
    path = f"data/{name}.{'parquet' if is_parquet else 'csv'}"
    new = [*RUNS[name], f"dataset.path={path}", "trainer.epochs=1"]
    arguments = draw.choice(
        [
            *([*new, *_FAST, "hydra.run.dir=out/new"], ["check", *new], ["predict", name, path, "out=out/rows.csv"]),
            *(["evaluate", name, f"dataset.path={path}"], ["explain", name, path, "out=out/why"]),
            *(["resume", name, "trainer.epochs=3", "report=false"], ["report", name]),
            ["dataset=table", f"dataset.path={path}", *_FAST, "trainer.epochs=1", "hydra.run.dir=out/new"],
        ]
    )
    return Case(arguments, [name, "out"], changed)


def images(draw: random.Random, bench: Bench) -> Case:
    bench.restore(["images"])
    chosen = draw.sample(sorted(Path("data/images/train").rglob("*.png")), draw.choice([1, 1, 1, 2, 24]))
    changed = [_change(path, lambda content: image_of(draw, content)) for path in chosen]
    if draw.random() < 0.2:
        for path in chosen:
            path.rename(path.with_suffix(draw.choice([".jpg", ".gif", ".tif", ".webp", ".bmp", ".txt", ".PNG"])))
    arguments = draw.choice(
        [
            *([*RUNS["images"], *_FAST, "hydra.run.dir=out/new"], ["check", *RUNS["images"]]),
            [*RUNS["images"], *_FAST, "hydra.run.dir=out/new", "dataset.cache=none"],
            *(["predict", "images", "data/images/train", "out=out/rows.csv"], ["evaluate", "images"]),
            *(["evaluate", "images", "dataset.root=data/images", "split=all"], ["report", "images"]),
            *(["explain", "images", "data/images/train", "out=out/why"], ["resume", "images", "trainer.epochs=2"]),
            ["shards", "data/images", "out/shards", *draw.choice([[], ["format=parquet"]])],
        ]
    )
    return Case(arguments, ["images", "out"], changed)


def shards(draw: random.Random, bench: Bench) -> Case:
    bench.restore(["shards"])
    kind = draw.choice(["shards", "shards", "parquet"])
    chosen = draw.choice(sorted(path for path in Path("data", kind).rglob("*") if path.is_file()))
    changed = [_change(chosen, lambda content: bytes_of(draw, content))]
    new = [*RUNS["shards"], f"dataset.root=data/{kind}"]
    arguments = draw.choice(
        [
            *([*new, *_FAST, "hydra.run.dir=out/new"], ["check", *new]),
            ["evaluate", "shards", f"dataset.root=data/{kind}"],
            *(["resume", "shards", "trainer.epochs=2"], ["report", "shards"]),
        ]
    )
    return Case(arguments, ["shards", "out"], changed)


def configs(draw: random.Random, bench: Bench) -> Case:
    """Of the user's own, who may have anything interpolated, but no folder or length of a run that takes long."""
    bench.restore(["digits"])
    folder = Path("conf")
    shutil.copytree("digits/.hydra", folder)
    changed = []
    typed: list[str] = []
    flags: list[str] = []
    if draw.random() < 0.6:
        changed = [_change(folder / "config.yaml", lambda content: yaml_of(draw, content, bench.outside))]
        flags = ["--config-dir", "conf", "--config-name", "config"]
    if draw.random() < 0.6 or not changed:
        typed = [_override(draw, bench) for _ in range(draw.choice([1, 1, 2, 3]))]
    fast = ["trainer.epochs=1", "dataset.limit=40", "hydra.run.dir=out/new", "hydra.sweep.dir=out/sweep", *_FAST]
    verb = draw.choice([["check"], ["check"], [], ["-m"], ["check", "-m"]])
    return Case(
        [*verb, *flags, *typed, *(["trainer.epochs=1"] if "check" in verb else fast)], ["out"], changed, foreign=False
    )


_KEYS = (
    *("seed", "device", "deterministic", "trust", "name", "resume", "report", "model", "optim", "dataset"),
    *("logger", "pruner"),
    *("trainer.precision", "trainer.accumulate", "trainer.clip_norm", "trainer.ema_decay", "trainer.checkpoint.keep"),
    *("trainer.early_stopping.patience", "trainer.checkpoint.monitor", "trainer.max_steps", "optim.lr"),
    "optim.momentum",
    *("optim._target_", "model.channels", "model._target_", "model.dropout", "scheduler", "scheduler._target_"),
    *("dataset.batch_size", "dataset.val_fraction", "dataset.split_seed", "dataset.augment", "dataset.cache"),
    "dataset.x",
    *("hydra.job.name", "hydra.verbose", "sweep.retries", "penalty.l1", "loss._target_", "metric"),
)


def _override(draw: random.Random, bench: Bench) -> str:
    key, given = draw.choice(_KEYS), value(draw, bench.outside)
    text = draw.choice(
        [str(given), json.dumps(given), repr(given), "1,2", "range(0,3)", "choice(a,b)", "${seed}", "[1,2", "{a:1}"]
    )
    prefix = draw.choice(["", "", "", "+", "++", "~"])
    text = text.replace("\0", "0").encode("utf-8", "replace").decode()  # what an argument of a process can hold
    return draw.choice([f"{prefix}{key}={text}"] * 8 + [f"{prefix}{key}", f"{key}@x={text}", text])


KINDS: dict[str, Callable[[random.Random, Bench], Case]] = {
    function.__name__: function for function in (checkpoints, results, sweeps, tables, images, shards, configs)
}


# What every command promises.


def broken(case: Case, ended: Ended) -> Iterator[str]:
    """Which promises a command has not kept, as far as its exit code and streams show it."""
    if ended.code not in (0, 1, 2):
        yield f"exit code {ended.code}"
    if "Traceback (most recent call last)" in ended.stderr:
        lines = ended.stderr.splitlines()
        last = [line for line in lines if line and not line.startswith((" ", "dltrain:", "Traceback"))]
        yield f"a traceback: {last[-1] if last else ''}"
    is_sweep = "-m" in case.arguments
    messages = sum(line.startswith("dltrain: ") for line in ended.stderr.splitlines())
    if messages != (ended.code != 0) and not (ended.code == 1 and is_sweep):  # which says of each job how it ended
        yield f"{messages} messages with exit code {ended.code}"
    if any("Warning: " in line for line in ended.stderr.splitlines()):
        yield "a library's warning"
    if "\x1b" in ended.stderr + ended.stdout:
        yield "an escape for the terminal"
    if case.foreign and SECRET_VALUE in ended.stderr + ended.stdout:
        yield "a variable of the environment is told"
    if ended.left:
        yield f"processes are left: {ended.left}"
    yield from _broken_answer(ended)


def _broken_answer(ended: Ended) -> Iterator[str]:
    lines = ended.stdout.splitlines()
    try:
        answers = [json.loads(line, parse_constant=lambda name: float("no " + name)) for line in lines]
    except ValueError as error:
        yield f"stdout is no line of JSON: {error}"
        return
    if len(answers) > 1:
        yield f"{len(answers)} lines on stdout"
    # Some inputs of several that are broken leave an answer for the others.
    statuses = {1: ("failed", "done"), 2: ("invalid",)}.get(ended.code)
    if statuses and answers and answers[0].get("status") not in statuses:
        yield f"status {answers[0].get('status')} with exit code {ended.code}"


# Commands in processes of their own, forked from this one, which has imported what they need and has no threads.


def warm_up() -> None:
    import dltrain.commands.check
    import dltrain.commands.compare
    import dltrain.commands.evaluate
    import dltrain.commands.explain
    import dltrain.commands.export
    import dltrain.commands.predict
    import dltrain.commands.report
    import dltrain.commands.shards
    import dltrain.trained.loaded
    import dltrain.trained.train  # noqa: F401


def in_a_fork(work: Callable[[], None]) -> None:
    """Do some work in a process of its own."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(pid, 0)[1]:
        raise RuntimeError("it has failed")


def forked(arguments: Sequence[str]) -> Ended:
    """Run dltrain with ``arguments`` in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-streams-"))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _command(list(arguments), folder)
    code = _waited_for(pid)
    left = list(_in_session(pid))
    for process in left:
        os.kill(process, signal.SIGKILL)
    texts = [(folder / name).read_bytes().decode("utf-8", "replace") for name in ("1", "2")]
    shutil.rmtree(folder)
    return Ended(code, *texts, left)


def _waited_for(pid: int) -> int:
    until = time.monotonic() + _SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)


def _in_session(pid: int, seconds: float = 5) -> Iterator[int]:
    """Processes of the session that are still there after so many seconds."""
    until = time.monotonic() + seconds
    while (left := [process for process in _processes() if _session_of(process) == pid]) and time.monotonic() < until:
        time.sleep(0.02)
    yield from left


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").glob("[0-9]*"))


def _session_of(process: int) -> int | None:
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return int(status[3]) if status[0] != "Z" else None
    except OSError:  # it has ended meanwhile
        return None


def _command(arguments: list[str], folder: Path) -> None:
    code = 70  # what dltrain does not leave with
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS + 2))
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        os.environ |= {
            SECRET: SECRET_VALUE,
            "TMPDIR": f"{os.getcwd()}/tmp",
            "DLTRAIN_CACHE": f"{os.getcwd()}/../cache",
        }
        tempfile.tempdir = None
        for number, name in ((0, os.devnull), (1, folder / "1"), (2, folder / "2")):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), number)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
        from dltrain import cli

        code = cli.main(arguments)
        atexit._run_exitfuncs()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="in which cases are begun")
    parser.add_argument("--cases", type=int, default=10**9, help="at most so many")
    parser.add_argument("--seed", type=int, default=0, help="of the first case; the next has the next number")
    parser.add_argument("--only", default=",".join(KINDS), help="kinds of cases, separated by commas")
    parser.add_argument("--repeat", type=int, metavar="SEED", help="run this case alone and leave its files")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir(), "dltrain-fuzz"), help="where it works"
    )
    options = parser.parse_args()
    kinds = options.only.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"no kinds of cases: {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    warm_up()
    bench = Bench(options.folder.absolute(), forked)
    if not (bench.whole / "data").exists():
        in_a_fork(lambda: write_data(bench.whole / "data"))  # it makes libraries start threads
    bench.make(list(RUNS))
    if options.repeat is not None:
        return _report(bench, options.repeat, kinds, leave=False)
    failed, counts = 0, Counter[str]()
    until = time.monotonic() + options.seconds
    for seed in range(options.seed, options.seed + options.cases):
        if time.monotonic() > until:
            break
        failed += _report(bench, seed, kinds, leave=True, counts=counts)
    print(f"{sum(counts.values())} cases, {failed} broken: {dict(sorted(counts.items()))}")
    return 1 if failed else 0


def _report(bench: Bench, seed: int, kinds: Sequence[str], leave: bool, counts: Counter[str] | None = None) -> int:
    kind, case, ended, faults = bench.faults(seed, kinds)
    if counts is not None:
        counts[f"{kind} {ended.code}"] += 1
    if not leave or faults:
        print(f"seed {seed} ({kind}): dltrain {shlex.join(case.arguments)}\n  changed: {', '.join(case.changed)}")
        print(*(f"  {fault}" for fault in faults), sep="\n", flush=True)
    if faults and leave:
        place = bench.folder.with_name(f"{bench.folder.name}-broken") / str(seed)
        shutil.rmtree(place, ignore_errors=True)
        bench.prepared(seed, kinds)
        shutil.copytree(bench.work, place)
        (place / "stderr").write_text(ended.stderr)
    elif not leave:
        print(f"exit code {ended.code}\n{ended.stderr}\n{ended.stdout}")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
