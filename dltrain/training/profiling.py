"""Where the time of a run goes: ``trainer.profile=true``."""

import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from dltrain.system.files import write_json

if TYPE_CHECKING:
    from dltrain.training.trainer import Trainer

log = logging.getLogger(__name__)

PHASES = ("data", "forward", "backward", "optimizer", "validation", "checkpoints", "rest")
_TRACED = 20  # steps in the trace: enough to see what repeats, little enough to open in a browser
_SKIPPED = _WATCHED = 5  # steps before those, left alone and then watched, so that nothing in the trace is a first time
_WHOLE = ("validation", "checkpoints", "profiler")  # nothing within these counts by itself
_NOTHING = nullcontext()

Batch = TypeVar("Batch")


class Unprofiled:
    """Where the loop says what it is doing; nothing comes of it unless the run is profiled, see :class:`Phases`."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Within, the loop does what ``name``, one of :data:`PHASES`, says."""
        return _NOTHING

    def batches(self, loader: Iterable[Batch]) -> Iterable[Batch]:
        """Those of ``loader``, waiting for each of which is the phase ``data``."""
        return loader

    def end_step(self) -> None:
        """A training step is over."""


class Phases(Unprofiled):
    """Seconds in each phase; every moment counts once, in the innermost phase that has begun.

    On a GPU each phase waits for the device when it begins and when it ends, or the time would show up where somebody
    waits for it: shares are right, and steps take longer than without.
    """

    def __init__(self, device: torch.device, tracer: Any = None):
        self.device = device
        self.tracer = tracer
        self.seconds = dict.fromkeys((*PHASES, "profiler"), 0.0)
        self._inner = ["rest"]
        self._since = time.perf_counter()

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
        with self.phase("profiler"):
            self.tracer.step()

    def finish(self) -> dict[str, float]:
        """Seconds of each phase so far, without what profiling itself took."""
        self._count()
        return {name: self.seconds[name] for name in PHASES}

    def _count(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[self._inner[-1]] += now - self._since
        self._since = now


@contextmanager
def profiling(trainer: "Trainer", folder: Path) -> Iterator[dict[str, float]]:
    """Within, ``trainer`` is profiled; after it, what is yielded holds the seconds of each of :data:`PHASES`.

    ``folder`` gets ``trace.json`` of a few steps, for chrome://tracing or ui.perfetto.dev, and ``timings.json`` of all.
    The table is logged.
    """
    before, began = trainer.profile, trainer.step
    seconds: dict[str, float] = {}
    tracer = _tracer(trainer, folder)
    phases = Phases(trainer.precision.device, tracer)
    with phases.phase("profiler"):
        tracer.start()
    trainer.profile = phases
    try:
        yield seconds
    finally:
        trainer.profile = before
        # Before a trace that is still going ends, which takes time.
        seconds.update({name: round(value, 6) for name, value in phases.finish().items()})
        _log_table(seconds, trainer.step - began, folder)
        tracer.stop()


def _tracer(trainer: "Trainer", folder: Path) -> Any:
    """torch's profiler over a window of steps, early in the run but after its first ones where it has so many."""
    left = len(trainer.train) * (trainer.epochs - trainer.epoch) - trainer.batch
    first, watched = (min(steps, left // 4) for steps in (_SKIPPED, _WATCHED))
    first += watched
    last = min(first + _TRACED, left) - 1

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
    if trainer.precision.device.type == "cuda":
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
