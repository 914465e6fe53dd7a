"""The ledger of a sweep: ``sweep.csv``, with a row for each job from its start. Imports no torch.

``sweep.json`` has the overrides, folder and cause of failure of each job, and the objectives of a search; everything
else is read from the ``result.json`` of each job, so that the ledger is true however a job or the sweep ended.
"""

import csv
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dltrain.config.sweeps import in_force
from dltrain.errors import RecordError, UserError
from dltrain.runs.folder import is_in_use
from dltrain.runs.record import metrics_of, read_json, read_result
from dltrain.system.files import write_json, write_text

FORMAT = 1
STEERING = ("hydra", "sweep", "pruner")  # keys that steer the sweep, and name no job
_FILE = "sweep.json"
_JOB = {"job!": int, "overrides!": [str], "folder!": str, "cause!": str}
_LEDGER = {
    "format!": int,
    "command": str | None,
    "objectives": [[str]],
    "swept": [str],
    "config": dict,
    "jobs!": [_JOB | {"config": {"own": dict, "without": [str]}}],
}

Key = tuple[str, ...]


@dataclass
class Job:
    """One job: ``overrides`` name it, ``number`` is its place in the table and, by default, its folder's name.

    ``config`` are the values, by their full keys, that it was planned with.
    """

    number: int
    overrides: tuple[str, ...]
    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    cause: str = ""  # why it failed, in one line
    result: dict[str, Any] = field(default_factory=dict)
    begun: bool = True

    @property
    def status(self) -> str:
        """``running``, ``done``, ``failed`` or ``interrupted``."""
        if self.cause:
            return "failed"
        return str(self.result.get("status", "running"))

    @property
    def pruned(self) -> str:
        """Where a pruner has ended it before its last epoch, in one line; empty where none has."""
        return str(self.result.get("pruned", ""))

    @property
    def reason(self) -> str:
        """Why it failed or was pruned, in one line."""
        return self.cause or str(self.result.get("error", "")) or self.pruned

    @property
    def settings(self) -> dict[str, str]:
        """Values by their keys, as they were typed."""
        settings: dict[str, str] = {}
        for key, _, value in (text.lstrip("+~").partition("=") for text in _in_force(self.overrides)):
            settings[key] = f"{settings[key]} {value}" if key in settings and value.startswith("{") else value
        return settings

    @property
    def metrics(self) -> dict[str, float]:
        """``val/...`` of the best epoch and ``test/...``, as far as the job got."""
        return metrics_of(self.result)

    @property
    def monitor(self) -> str | None:
        """The metric that said which epoch was the best."""
        monitor: str | None = self.result.get("best", {}).get("monitor")
        return monitor

    def refresh(self) -> None:
        """Read again what the job has left in its folder."""
        try:
            self.result = read_result(self.folder)
        except RecordError as error:  # of a job, which is not to end the sweep
            self.result, self.cause = {}, str(error)


class Ledger:
    """The jobs of the sweep in ``folder``, kept by their overrides.

    ``objectives``: of a search, its metrics, each to ``minimize`` or to ``maximize``; else empty.

    Raises:
        UserError: the folder has a ledger that cannot be read, or of another format.
    """

    def __init__(self, folder: Path, command: str = ""):
        self.folder = folder
        self.command = command
        self.objectives: list[tuple[str, str]] = []
        self._swept: list[str] = []  # differing keys in the file, in which jobs that have not begun are missing
        self.jobs: dict[Key, Job] = {}
        if content := read_json(folder / _FILE, _LEDGER, "the ledger of a sweep"):
            self._read(content)
        for job in self.jobs.values():
            job.refresh()

    def _read(self, content: Mapping[str, Any]) -> None:
        if content.get("format") != FORMAT:
            file = self.folder / _FILE
            raise UserError(f"'{file}' has format {content.get('format')}; this dltrain reads format {FORMAT}")
        self.command = str(content.get("command") or self.command)
        self.objectives = [(pair[0], pair[-1]) for pair in content.get("objectives", ()) if pair]
        self._swept = list(content.get("swept", ()))
        common = content.get("config", {})
        for entry in content["jobs"]:
            folder = self.folder / entry["folder"]  # which may be a link to a larger disk
            is_name = entry["folder"].isprintable() and "${" not in entry["folder"]  # which Hydra would resolve
            if not (is_name and Path(os.path.normpath(folder)).is_relative_to(os.path.normpath(self.folder))):
                raise RecordError(f"'{self.folder / _FILE}' has a job in {str(folder)!r}, which is not in the sweep")
            job = Job(entry["job"], naming(entry["overrides"]), folder, cause=entry["cause"])
            if differs := entry.get("config"):
                job.config = {key: value for key, value in common.items() if key not in differs.get("without", ())}
                job.config |= differs.get("own", {})
            self.jobs[key_of(job.overrides)] = job

    def __iter__(self) -> Iterator[Job]:
        """The jobs that have begun, by their numbers."""
        return iter(sorted((job for job in self.jobs.values() if job.begun), key=lambda job: job.number))

    def find(self, overrides: Sequence[str]) -> Job | None:
        """The job with these overrides, in whatever order."""
        return self.jobs.get(key_of(overrides))

    def number_of(self, overrides: Sequence[str]) -> int:
        """The number of the job with these overrides; for a new job, the next that is free."""
        known = self.find(overrides)
        return known.number if known else 1 + max((job.number for job in self.jobs.values()), default=-1)

    def plan(self, number: int, overrides: Sequence[str], folder: Path) -> Job:
        """Add a job that is yet to begin."""
        job = self.jobs[key_of(overrides)] = Job(number, naming(overrides), folder, begun=False)
        return job

    def write(self) -> None:
        """Bring ``sweep.json`` and ``sweep.csv`` up to date; each is whole at any time."""
        common = next((job.config for job in self if job.config), {})  # jobs differ in a few keys only
        listed = [
            {
                "job": job.number,
                "overrides": list(job.overrides),
                "folder": str(job.folder.relative_to(self.folder)),
                "cause": job.cause,
                "config": job.config and _difference(common, job.config),
            }
            for job in self
        ]
        content = {"format": FORMAT, "command": self.command, "objectives": self.objectives}
        write_json(self.folder / _FILE, {**content, "swept": self._differing(), "config": common, "jobs": listed})
        self.write_table()

    def write_table(self) -> None:
        """Bring ``sweep.csv`` alone up to date."""
        keys, metrics = self.swept(), self.metrics()
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        writer.writerow(["job", "status", *keys, *metrics, "seconds", "run", "cause"])
        for job in self:
            values = [job.metrics.get(name, "") for name in metrics]
            chosen = [job.settings.get(key, "") for key in keys]
            writer.writerow(
                [job.number, job.status, *chosen, *values, job.result.get("seconds", ""), str(job.folder), job.reason]
            )
        # A byte of a file's name that is no text is written as \udc.. there.
        write_text(self.folder / "sweep.csv", table.getvalue().encode("utf-8", "backslashreplace").decode())

    def swept(self) -> list[str]:
        """The keys of which jobs have different values; of a single job, all of its keys."""
        return self._differing() or self._every()

    def _every(self) -> list[str]:
        return list(dict.fromkeys(key for job in self.jobs.values() for key in job.settings))

    def _differing(self) -> list[str]:
        jobs = self.jobs.values()  # those to come too, so that the columns are the same from the start
        return [key for key in self._every() if key in self._swept or len({job.settings.get(key) for job in jobs}) > 1]

    def metrics(self) -> list[str]:
        """The names of all metrics of the results."""
        return list(dict.fromkeys(name for job in self for name in job.metrics))

    def count(self, status: str) -> int:
        return sum(job.status == status for job in self)


def is_sweep(folder: Path) -> bool:
    """Whether a sweep has begun in ``folder``."""
    return os.path.isfile(folder / _FILE)  # unlike a method of the path's, it takes any text


def settled(folder: Path) -> Ledger:
    """The ledger of a sweep that may have ended: a job that reads ``running`` without a process was interrupted.

    Raises:
        UserError: see :class:`Ledger`.
    """
    has_ended = is_in_use(folder) is False  # asked first, so that a job that ends meanwhile is read as it has ended
    ledger = Ledger(folder)
    for job in ledger:
        if has_ended and job.status == "running" and is_in_use(job.folder) is False:  # it may be resumed by itself
            job.result = {**job.result, "status": "interrupted"}
    return ledger


def _difference(common: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    nothing = object()
    return {
        "own": {key: value for key, value in config.items() if common.get(key, nothing) != value},
        "without": [key for key in common if key not in config],
    }


def naming(overrides: Iterable[str]) -> tuple[str, ...]:
    """The overrides that name a job: without those that steer Hydra and the sweep."""
    return tuple(text for text in overrides if re.split(r"[./=@]", text.lstrip("+~"), maxsplit=1)[0] not in STEERING)


def key_of(overrides: Iterable[str]) -> Key:
    """What identifies a job, however it was typed: its keys with the values that count, in order."""
    return tuple(sorted(_in_force(naming(overrides)), key=lambda text: text.partition("=")[0]))


def _in_force(overrides: Iterable[str]) -> list[str]:
    texts = [text.lstrip("+") for text in overrides]
    return [texts[number] for number in in_force([[text] for text in texts])]


def setting(overrides: Iterable[str]) -> Key:
    """:func:`key_of` without the seed, which is no hyper-parameter."""
    return tuple(text for text in key_of(overrides) if not text.startswith("seed="))


def grouped(jobs: Iterable[Job]) -> Mapping[Key, list[Job]]:
    """Jobs by their :func:`setting`."""
    groups: dict[Key, list[Job]] = {}
    for job in jobs:
        groups.setdefault(setting(job.overrides), []).append(job)
    return groups
