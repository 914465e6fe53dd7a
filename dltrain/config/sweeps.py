"""The jobs that Hydra's sweeper makes of values with commas."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

TRIED = 200  # at most so many values of a key, and so many jobs, are checked before the first job runs
_MOST = 1_000_000  # values of a range: each is a job, and all of them are listed before the first one runs


def is_basic(cfg: DictConfig) -> bool:
    """Whether the sweeper runs every combination; others choose their jobs as they go."""
    return str(OmegaConf.select(cfg, "hydra.sweeper._target_")).endswith((".Combinations", ".BasicSweeper"))


def params(cfg: DictConfig) -> list[str]:
    """Return the overrides that ``hydra.sweeper.params`` adds before those that are typed."""
    node: Any = OmegaConf.select(cfg, "hydra.sweeper.params")
    return [f"{key}={value}" for key, value in (node or {}).items()]


def values(override: Override) -> Iterator[str]:
    """Yield the override with each of its values; of an interval, which has no end, with the first."""
    key = override.get_key_element()
    if override.is_delete():
        yield str(override.input_line)
    elif not override.is_sweep_override():
        text = f"{key}={override.get_value_element_as_str()}"
        yield text if _reads(text, override.value()) else str(override.input_line)
    elif override.is_discrete_sweep():
        yield from (f"{key}={written(value)}" for value in override.sweep_iterator())
    else:
        yield f"{key}={override.value().start}"  # type: ignore[union-attr]


def written(value: Any) -> str:
    """Return a value as it is typed, with quotes where text would be read as something else."""
    text = Override._get_value_element_as_str(value)
    if isinstance(value, str) and not _reads(f"key={text}", value):
        return QuotedString(text=value, quote=Quote.single).with_quotes()
    return text


def _reads(text: str, value: Any) -> bool:
    """Whether this override gives its key the value."""
    try:
        (override,) = OverridesParser.create().parse_overrides([text])
    except (HydraException, ValueError):
        return False
    return not override.is_sweep_override() and bool(override.value() == value)


def first(override: Override) -> str:
    """Return the override with the first of its values, or as it was typed."""
    return next(values(override)) if override.is_sweep_override() else str(override.input_line)


def choices(overrides: Sequence[Override], limit: int | None = None) -> list[list[str]]:
    """Return for each key the overrides to choose from, at most ``limit``, in the order of the command line."""
    texts = [list(itertools.islice(values(override), limit)) for override in overrides]
    return [texts[number] for number in in_force(texts)]


def impossible(override: Override) -> str:
    """Return the problem of a range without an end, or an empty string."""
    value = override.value()
    if not isinstance(value, RangeSweep):
        return ""
    start, stop, step = (float(number or 0) for number in (value.start, value.stop, value.step))
    if not all(map(math.isfinite, (start, stop, step))) or step == 0:
        why = "a range takes numbers, and a step other than 0: range(1,10) or range(1,10,2)"
    elif (stop - start) / step > _MOST:
        why = f"these are more than {_MOST:,} values"
    else:
        return ""
    return f"{override.input_line} (command line): {why}"


def sharing_a_folder(cfg: DictConfig, overrides: Sequence[Override]) -> list[str]:
    """Return the problem of a sweep that names the same folder for several jobs, if it does."""
    name = cfg.hydra.sweep._get_node("subdir")._value()
    several = any(each.is_interval_sweep() or len(set(itertools.islice(values(each), TRIED))) > 1 for each in overrides)
    if not several or not isinstance(name, str) or "${" in name or name in ("", "???"):
        return []
    hint = "let it tell them apart, hydra.sweep.subdir='${hydra.job.num}'"
    return [f"hydra.sweep.subdir={name}: would be the folder of every job: {hint}"]


def in_force(choices: Sequence[Sequence[str]]) -> list[int]:
    """Return which of the ``choices``, overrides of a key each, are not replaced by a later choice for the same key.

    A dictionary replaces nothing and is not replaced: as in a single run, it adds to what is there, also to an option
    of its group that is chosen after it.
    """
    kept = []
    replaced: set[str] = set()
    for number in reversed(range(len(choices))):
        parts = [text.partition("=") for text in choices[number]]
        keys = {key for key, _, _ in parts}
        adds = any(value.startswith("{") for _, _, value in parts)
        if adds or not keys <= replaced or not keys:
            kept.append(number)
        if not adds:
            replaced |= keys
    return kept[::-1]


def interval(override: Override) -> str:
    """Return the problem of an interval, which Hydra's sweeper does not take."""
    return f"{override.input_line} (command line): a sweep takes values with commas, or range(...), not an interval"


def of_jobs(problem: str, numbers: Sequence[int], jobs: Sequence[Sequence[str]]) -> str:
    """Return the ``problem`` of the jobs with these ``numbers``, with the first job that shows it."""
    number, others = numbers[0], len(numbers) - 1
    job = jobs[number]
    if others + 1 == len(jobs) or any(problem.startswith(f"{text} ") for text in job):
        return problem
    name = f"job {number}" if number < TRIED else "a job"  # those after it are out of order
    return f"{name} ({' '.join(job)}): {problem}{f' (and {others} more jobs)' if others else ''}"


def for_interval(problem: str, overrides: Sequence[Override]) -> str:
    """Return the ``problem`` of an interval's first value, with what to type for a key that takes whole numbers."""
    for override in overrides:
        key = override.get_key_element()
        if override.is_interval_sweep() and problem.startswith(f"{key}=") and "whole number" in problem:
            return f"{problem.rpartition(': write ')[0] or problem}: write {key}=int({override.get_value_string()})"
    return problem
