"""Composes the jobs of a sweep before the first of them runs. Imports no torch."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from dltrain.config.rules import shown
from dltrain.config.session import output_folder
from dltrain.errors import ConfigError
from dltrain.sweep.ledger import STEERING, Job, Key, Ledger, key_of, naming
from dltrain.sweep.pool import Planned
from dltrain.system.files import finite, flat

log = logging.getLogger(__name__)

_LOOKED_AT = 20  # jobs that ran before, and are none of those that are asked for now


def plan_jobs(
    compose: Callable[[Sequence[str]], DictConfig],
    ledger: Ledger,
    job_overrides: Sequence[tuple[str, ...]],
    looks_back: bool,
) -> dict[Key, Planned]:
    """Every job that can run, with its configuration; the others have failed already, with a warning.

    The configurations are composed now: files that change later change no job. A value that is given twice makes
    one job. With ``looks_back`` the configurations of jobs that ran before, at most 20 of them, are looked at too.

    Raises:
        ConfigError: files have changed since jobs of this sweep ran, or two jobs would have the same folder.
    """
    _require_one_way(job_overrides)
    planned: dict[Key, Planned] = {}
    changed: list[str] = []
    shared: list[str] = []
    places = {job.folder: job for job in ledger.jobs.values()}
    for overrides in job_overrides:
        if key_of(overrides) in planned:
            continue
        number, known = ledger.number_of(overrides), ledger.find(overrides)
        try:
            config = compose(overrides)
        except ConfigError as error:
            if known and known.status == "done":
                changed += [f"job {number}: {problem}" for problem in error.problems]
            else:
                job = known or ledger.plan(number, overrides, ledger.folder / str(number))
                job.begun, job.cause, job.result = True, "; ".join(error.problems), {}
                log.warning("job %d failed before it began: %s [%s]", number, job.cause, " ".join(job.overrides))
            continue
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        values = _values(config)
        job = known or ledger.plan(number, overrides, output_folder(config))
        changed += _changes(job, values)
        shared += _misplaced(job, ledger.folder, places)
        job.config = values
        with read_write(config.hydra):  # the job may run later, in another directory
            config.hydra.sweep.dir = str(ledger.folder)
            config.hydra.sweep.subdir = os.path.relpath(job.folder, ledger.folder)
        planned[key_of(overrides)] = Planned(job, config)
    others = [job for job in ledger if key_of(job.overrides) not in planned and _is_plain(job)]
    for job in others[:_LOOKED_AT] if looks_back else ():  # their results will stand beside the new ones
        with suppress(ConfigError, RecursionError):
            changed += _changes(job, _values(compose(job.overrides)))
    if changed:
        changed.append("the configuration has changed since this sweep began: name another hydra.sweep.dir=...")
    if problems := [*changed, *shared]:
        raise ConfigError(problems)
    return planned


def _misplaced(job: Job, sweep: Path, places: dict[Path, Job]) -> Iterator[str]:
    """What is wrong with the folder of a job; ``places`` has the folders of the others."""
    if not _is_within(job.folder, sweep):
        yield (
            f"job {job.number} would run in {job.folder}, which is no folder within the sweep's:"
            " let hydra.sweep.subdir name one, as ${hydra.job.num} does"
        )
    elif job.status != "done" and not _is_within(job.folder.resolve(), sweep.resolve()):
        yield (
            f"job {job.number} would run in {job.folder.resolve()}, outside of the sweep, where the link {job.folder}"
            " leads: put the folder itself in the place of the link"
        )
    elif (other := places.setdefault(job.folder, job)) is not job:  # each would take the other's result for its own
        yield (
            f"jobs {other.number} and {job.number} would share the folder {job.folder}:"
            " let hydra.sweep.subdir tell them apart, as ${hydra.job.num} does"
        )


def _is_within(inner: Path, outer: Path) -> bool:
    return os.path.relpath(inner, outer).partition(os.sep)[0] not in (os.curdir, os.pardir)


def _is_plain(job: Job) -> bool:
    """Whether a job of the ledger, which somebody else may have written, can be composed without running its code."""
    return not any("${" in text or "_target_" in text for text in job.overrides)


def _require_one_way(job_overrides: Sequence[Sequence[str]]) -> None:
    """What steers the sweep is no part of what a job is, so jobs cannot differ in it."""
    steering = [set(overrides) - set(naming(overrides)) for overrides in job_overrides]
    every = set[str]().union(*steering)
    if differing := sorted(every - every.intersection(*steering)):
        raise ConfigError([f"{' and '.join(differing)}: it steers the sweep, so it is one for all jobs"])


def _values(config: DictConfig) -> dict[str, Any]:
    """The values of a job by their full keys, as JSON holds them, without those that may change between two tries."""
    nodes: dict[str, Any] = {str(key): config._get_node(key) for key in config if key not in (*STEERING, "resume")}
    content = {
        key: OmegaConf.to_container(node) if OmegaConf.is_config(node) else node._value() for key, node in nodes.items()
    }
    values: dict[str, Any] = finite(flat(content))
    return values


def _changes(job: Job, now: Mapping[str, Any]) -> list[str]:
    """How the values of a job differ from those that it was planned with before, if it was."""
    return [
        f"job {job.number}: {key} was {shown(job.config.get(key))}, is {shown(now.get(key))}"
        for key in dict.fromkeys([*job.config, *now])
        if job.config and _none_if_empty(job.config.get(key)) != _none_if_empty(now.get(key))
    ]


def _none_if_empty(value: Any) -> Any:
    """A group without an option is as good as none, which is what the sweep of an earlier version has in its place."""
    return None if value == {} else value
