"""Where the time of a run goes: ``trainer.profile=true``.

The trainer knows nothing of it. For as long as it is profiled, its functions are replaced by ones that also look at
the clock, so that a run that is not profiled pays nothing.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.profiler import ProfilerAction, ProfilerActivity, profile, record_function

from dltrain.data.loader import Loader
from dltrain.system.files import write_json
from dltrain.training.trainer import Trainer

log = logging.getLogger(__name__)

PHASES = ("data", "forward", "backward", "optimizer", "validation", "checkpoints", "rest")
_TRACED = 20  # steps in the trace: enough to see what repeats, little enough to open in a browser
_BEFORE = (
    5,
    5,
)  # steps before those: left alone, and watched without being kept, so that nothing in it is a first time
_WHOLE = ("validation", "checkpoints", "profiler")  # nothing within these counts by itself


class Phases:
    """Seconds in each phase; every moment counts once, in the innermost phase that has begun.

    On a GPU each phase waits for the device when it begins and when it ends, or the time would show up where somebody
    waits for it: shares are right, and steps take longer than without.
    """

    def __init__(self, device: torch.device):
        self.device = device
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

    def timed(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, as a phase."""

        def timed(*args: Any, **options: Any) -> Any:
            with self.phase(name):
                return call(*args, **options)

        return timed

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


class _TimedLoader:
    """A loader whose batches are waited for in the phase ``data``."""

    def __init__(self, loader: Loader, phases: Phases):
        self._loader = loader
        self._phases = phases

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = iter(self._loader)
        while True:
            with self._phases.phase("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


@contextmanager
def profiling(trainer: Trainer, folder: Path) -> Iterator[dict[str, float]]:
    """Within, ``trainer`` is profiled; behind it, what is yielded holds the seconds of each of :data:`PHASES`.

    ``folder`` gets ``trace.json`` of a few steps, for chrome://tracing or ui.perfetto.dev, and ``timings.json`` of all.
    The table is logged.
    """
    phases = Phases(trainer.precision.device)
    seconds: dict[str, float] = {}
    began = trainer.step
    with ExitStack() as undo:
        with phases.phase("profiler"):
            tracer = undo.enter_context(_tracer(trainer, folder))
            _wrap(trainer, phases, tracer, undo)
        try:
            yield seconds
        finally:
            # Before a trace that is still going ends, which takes time.
            seconds.update({name: round(value, 6) for name, value in phases.finish().items()})
            _tell(seconds, trainer.step - began, folder)


def _wrap(trainer: Trainer, phases: Phases, tracer: Any, undo: ExitStack) -> None:
    """Put timed functions in place of the trainer's, until ``undo``."""

    def replace(owner: Any, name: str, value: Any) -> None:
        own = vars(owner)
        undo.callback(own.__setitem__ if name in own else own.pop, name, *([own[name]] if name in own else []))
        own[name] = value

    def take_step(inputs: Tensor, targets: Tensor) -> None:
        train_step(inputs, targets)
        with phases.phase("profiler"):
            tracer.step()

    train_step = trainer.train_step
    replace(trainer, "train_step", take_step)
    replace(trainer, "train", cast(Loader, _TimedLoader(trainer.train, phases)))
    for name, phase in (
        ("network", "forward"),
        ("loss", "forward"),
        ("penalty", "forward"),
        ("backward", "backward"),  # within it, the phases above count for themselves
        ("clip", "optimizer"),
        ("validate", "validation"),
        ("save", "checkpoints"),
        ("save_best", "checkpoints"),
    ):
        if getattr(trainer, name) is not None:
            replace(trainer, name, phases.timed(phase, getattr(trainer, name)))
    replace(trainer.scaler, "step", phases.timed("optimizer", trainer.scaler.step))
    if trainer.ema:
        replace(trainer.ema, "update", phases.timed("optimizer", trainer.ema.update))


def _tracer(trainer: Trainer, folder: Path) -> Any:
    """torch's profiler over a window of steps, early in the run but behind its first ones where it has so many."""
    left = len(trainer.train) * (trainer.epochs - trainer.epoch) - trainer.batch
    first, warm = (min(steps, left // 4) for steps in _BEFORE)
    first += warm
    last = min(first + _TRACED, left) - 1

    def plan(step: int) -> ProfilerAction:
        if step == last:
            return ProfilerAction.RECORD_AND_SAVE
        if first <= step < last:
            return ProfilerAction.RECORD
        return ProfilerAction.WARMUP if first - warm <= step < first else ProfilerAction.NONE

    activities = [ProfilerActivity.CPU]
    if trainer.precision.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)

    os.environ.setdefault(
        "KINETO_LOG_LEVEL", "99"
    )  # read at its start: what it says of itself would mix with the run's

    def write(tracer: Any) -> None:
        try:
            folder.mkdir(exist_ok=True)
            tracer.export_chrome_trace(str(folder / "trace.json"))
        except OSError as error:  # a picture of the run, not the run
            log.warning("%s was not written: %s", folder / "trace.json", error)

    return profile(activities=activities, schedule=plan, on_trace_ready=write)


def _tell(seconds: Mapping[str, float], steps: int, folder: Path) -> None:
    whole = sum(seconds.values()) or 1.0
    rows = [f"  {name:<12}{value:9.3f} s {value / whole:6.1%}" for name, value in seconds.items()]
    log.info("%s", "\n".join([f"where the time of {steps:,} steps went, in detail in {folder}:", *rows]))
    try:
        folder.mkdir(exist_ok=True)
        write_json(folder / "timings.json", {"steps": steps, "seconds": dict(seconds)})
    except OSError as error:
        log.warning("%s was not written: %s", folder / "timings.json", error)
