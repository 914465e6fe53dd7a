"""Where the time of a run goes: ``trainer.profile=true``."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from dltrain.system.files import write_json

log = logging.getLogger(__name__)

PHASES = ("data", "forward", "backward", "optimizer", "validation", "checkpoints", "rest")
_TRACED = 20  # steps in the trace: enough to see what repeats, little enough to open in a browser
_SKIPPED = _WATCHED = 5  # steps before those, left alone and then watched, so that nothing in the trace is a first time
_WHOLE = ("validation", "checkpoints", "profiler")  # nothing within these counts by itself
_NOTHING = nullcontext()

Batch = TypeVar("Batch")


class Unprofiled:
    """Where the loop says what it is doing; nothing comes of it unless the run has a :class:`Profile`."""

    def __enter__(self) -> dict[str, float]:
        return {}

    def __exit__(self, *error: object) -> None:
        return None

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Within, the loop does what ``name``, of :data:`PHASES`, says."""
        return _NOTHING

    def batches(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """Those of ``loader``, waiting for each of which is the phase ``data``."""
        return loader

    def end_step(self) -> None:
        """A training step is over."""


class Profile(Unprofiled):
    """Seconds in each phase; every moment counts once, in the innermost phase that has begun.

    On a GPU each phase waits for the device when it begins and when it ends, or the time would show up where somebody
    waits for it: shares are right, and steps take longer than without.

    At the end what the context returns holds the seconds of each of :data:`PHASES`, and ``folder`` has ``trace.json``
    of a few of the ``steps``, for chrome://tracing or ui.perfetto.dev, and ``timings.json`` of all. A table is logged.
    """

    def __init__(self, device: torch.device, steps: int, folder: Path):
        self.device = device
        self.folder = folder
        self.steps = 0
        self._seconds = dict.fromkeys((*PHASES, "profiler"), 0.0)
        self._result: dict[str, float] = {}
        self._inner = ["rest"]
        self._since = time.perf_counter()
        self._tracer = _tracer(device, steps, folder)

    def __enter__(self) -> dict[str, float]:
        with self.phase("profiler"):
            self._tracer.start()
        return self._result

    def __exit__(self, *error: object) -> None:
        # Before a trace that is still going ends, which takes time.
        self._result.update({name: round(value, 6) for name, value in self.finish().items()})
        _log_table(self._result, self.steps, self.folder)
        self._tracer.stop()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Within, time goes to ``name``, which the trace shows as well."""
        if self._inner[-1] in _WHOLE:
            yield
            return
        self._count()
        self._inner.append(name)
        try:
            with record_function(f"dltrain: {name}"):
                yield
        finally:
            self._count()
            self._inner.pop()

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        batches = iter(loader)
        while True:
            with self.phase("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    def end_step(self) -> None:
        self.steps += 1
        with self.phase("profiler"):
            self._tracer.step()

    def finish(self) -> dict[str, float]:
        """Seconds of each phase so far, without what profiling itself took."""
        self._count()
        return {name: self._seconds[name] for name in PHASES}

    def _count(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self._seconds[self._inner[-1]] += now - self._since
        self._since = now


def _tracer(device: torch.device, steps: int, folder: Path) -> Any:
    """torch's profiler over a window of ``steps``, early but after the first ones where there are so many."""
    first, watched = (min(number, steps // 4) for number in (_SKIPPED, _WATCHED))
    first += watched
    last = min(first + _TRACED, steps) - 1

    def plan(step: int) -> ProfilerAction:
        if step == last:
            return ProfilerAction.RECORD_AND_SAVE
        if first <= step < last:
            return ProfilerAction.RECORD
        return ProfilerAction.WARMUP if first - watched <= step < first else ProfilerAction.NONE

    def write(tracer: Any) -> None:
        try:
            folder.mkdir(exist_ok=True)
            tracer.export_chrome_trace(str(folder / "trace.json"))
        except OSError as error:  # a picture of the run, not the run
            log.warning("%s was not written: %s", folder / "trace.json", error)

    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    # Read when the profiler starts: what it logs of itself would mix with the run's messages.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    return profile(activities=activities, schedule=plan, on_trace_ready=write)


def _log_table(seconds: Mapping[str, float], steps: int, folder: Path) -> None:
    whole = sum(seconds.values()) or 1.0
    rows = [f"  {name:<12}{value:9.3f} s {value / whole:6.1%}" for name, value in seconds.items()]
    log.info("%s", "\n".join([f"where the time of {steps:,} steps went, in detail in {folder}:", *rows]))
    try:
        folder.mkdir(exist_ok=True)
        write_json(folder / "timings.json", {"steps": steps, "seconds": dict(seconds)})
    except OSError as error:
        log.warning("%s was not written: %s", folder / "timings.json", error)
