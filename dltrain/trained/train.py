"""``dltrain [overrides]``: train a network and say how good it is."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dltrain.build import Parts, build, start_loggers
from dltrain.config.earlier import as_text, of_text
from dltrain.distributed.layers import draws_apart
from dltrain.distributed.process_group import ProcessGroup
from dltrain.distributed.rendezvous import Plan, join_group, rendezvous
from dltrain.errors import TrainingError
from dltrain.runs import checkpoint
from dltrain.runs.folder import RunFolder
from dltrain.system import process
from dltrain.system.device import defer_compiler, pick_device, process_state, seed_apart
from dltrain.system.log import log_to, write_to
from dltrain.trained.result import best_of, draw, leave_result, show, write_report
from dltrain.trained.resume import Resumable, restore
from dltrain.training.metrics import ClassificationMetrics
from dltrain.training.monitor import Pruning
from dltrain.training.profiling import Profile

log = logging.getLogger(__name__)


def train(
    cfg: Any,
    folder: RunFolder,
    stop: process.StopRequest,
    resumable: Resumable | None,
    force: bool = False,
    pruning: Pruning | None = None,
) -> float:
    """Run the configuration ``cfg`` in ``folder``, from where ``resumable`` says; returns the best value of the
    monitored metric.

    With ``force`` a run goes on although its configuration has changed in what decides its course. ``pruning`` may end
    a job of a sweep before its last epoch.
    """
    plan = Plan(as_text(cfg), str(folder.path), folder.command, force, os.getcwd() in sys.path)
    with _joined(cfg, plan) as process_group:
        return TrainingRun(cfg, folder, stop, process_group, resumable, force, pruning).complete()


def follow(stop: process.StopRequest) -> None:
    """Take part in a run that rank 0 has planned, for which it alone writes and prints."""
    plan = rendezvous().plan()
    if plan is None:
        return
    cfg, path = of_text(plan.config), Path(plan.path)
    if plan.imports_from_here:
        sys.path.insert(0, os.getcwd())
    file = path / "logs" / f"rank-{process.rank()}.log"
    log_to(file, speaks=False)
    write_to(file)
    with _joined(cfg) as process_group:
        TrainingRun(cfg, RunFolder(path, plan.command, writes=False), stop, process_group, force=plan.force).complete()


@contextmanager
def _joined(cfg: Any, plan: Plan | None = None) -> Iterator[ProcessGroup]:
    """The processes of the run, with this process set up as ``cfg`` asks; rank 0 sends the others its ``plan``."""
    defer_compiler()
    with (
        process_state(cfg.seed, cfg.deterministic, cfg.trainer.precision == "auto", cfg.trainer.threads),
        join_group(pick_device(cfg.device), plan) as process_group,
    ):
        yield process_group


@dataclass
class TrainingRun:
    """A training run in a process of ``process_group``: prepare, run, finish."""

    cfg: Any
    folder: RunFolder
    stop: process.StopRequest
    process_group: ProcessGroup
    resumable: Resumable | None = None  # rank 0 alone has it before :meth:`prepare`
    force: bool = False
    pruning: Pruning | None = None

    def complete(self) -> float:
        """Prepare, run and finish, unless the run was done before; returns the best value of the monitored metric."""
        self.prepare()
        if self._was_done():
            self._show_again()
        else:
            self._start_loggers()
            self.run()
            self.finish()
        return self.trainer.best.value

    def prepare(self) -> None:
        """Build the parts, in the state that they go on from. Nothing is written."""
        self.resumable = resumable = self.process_group.broadcast(lambda: self.resumable)
        threads = resumable.threads if resumable else None
        self.parts = build(self.cfg, self.folder.path, self.process_group, fresh=resumable is None, threads=threads)
        self.trainer = self.parts.trainer
        self.trainer.stop = self.stop
        self._set_pruning()
        if resumable:
            restore(self.trainer, self.parts.config_text, resumable, self.force)

    def run(self) -> None:
        """Train and test; ``result.json`` says how it ended, whatever happens."""
        try:
            self._begin()
            self.result = self._train_and_test()
        except BaseException:
            self.trainer.checkpoints.settle()  # the state is written before a page about the run
            if self.cfg.report and self.process_group.is_main:
                write_report(None, self.folder.path)
            raise
        finally:
            self._close()

    def finish(self) -> None:
        """Write the pictures and the page, and print the result."""
        if not self.process_group.is_main:
            return
        with self.stop.deferred():  # the run is done, and writing a page is quick
            if self.cfg.report:
                draw(self.parts, self.folder.path)
                write_report(self.parts, self.folder.path)
            show(self.result)

    def _set_pruning(self) -> None:
        if self.pruning:
            metric = self.pruning.metric or self.trainer.best.monitor
            self.trainer.pruning = replace(self.pruning, metric=metric)
        elif self.cfg.pruner._target_ is not None:
            log.warning(
                "the pruner has no effect here: it compares jobs of dltrain -m that are a process each,"
                " by hydra/launcher=serial or parallel"
            )

    def _was_done(self) -> bool:
        resumable = self.resumable
        if not resumable:
            return False
        if self.trainer.finished and self.process_group.broadcast(resumable.result).get("status") == "done":
            return True
        log.info("going on from %s, after step %d", resumable.path, self.trainer.step)
        return False

    def _show_again(self) -> None:
        trainer, resumable = self.trainer, self.resumable
        if not self.process_group.is_main:
            return
        assert resumable is not None
        early = ", stopped early" if trainer.epoch < trainer.epochs else ""
        log.info(
            "%s is finished: %d of %d epochs%s; a higher trainer.epochs would go on",
            *(resumable.run, trainer.epoch, trainer.epochs, early),
        )
        show(resumable.result() | {"run": str(resumable.run)})  # the folder may have been moved or copied

    def _start_loggers(self) -> None:
        trainer = self.trainer
        if draws_apart(self.process_group):
            seed_apart(self.cfg.seed, trainer.step, self.process_group.rank)
        if self.process_group.is_main:
            trainer.loggers = start_loggers(self.cfg, self.folder.path, trainer.history)
            trainer.loggers.watch(trainer.evaluated, self.parts.images)

    def _begin(self) -> None:
        """Make the folder that of this run, with the best weights so far in it."""
        trainer, resumable = self.trainer, self.resumable
        goes_on_here = resumable is not None and resumable.run == self.folder.path.resolve()
        run_id = resumable.run_id if resumable and goes_on_here else None
        seconds = trainer.seconds if goes_on_here else None
        self.folder.begin(self.parts.config_text, self.parts.environment, seconds, run_id)
        trainer.checkpoints.header["run_id"] = self.folder.run_id
        if resumable and resumable.state["best"]:
            folder = resumable.path.resolve().parent
            trainer.checkpoints.take_over_best(resumable.state["best"], folder, trainer.model)

    def _train_and_test(self) -> dict[str, Any]:
        """The result, which is written however the run ends."""
        figures: dict[str, float] = {}  # for the loggers; empty unless the run gets to its end
        try:
            entries = self._entries()
            figures = {
                "epochs": entries["epochs"],
                **{f"test/{name}": value for name, value in entries["test"].items()},
            }
        except BaseException as error:
            with self.stop.deferred():  # a launcher also stops this process then, which is not why the run ends
                cause = self._cause(error)
                leave_result(self.trainer, self.folder, cause)
            if cause is error:
                raise
            raise cause from error
        finally:
            self.trainer.loggers.close(figures)
        return self.folder.write_result("done", **entries)

    def _entries(self) -> dict[str, Any]:
        """Train and test; returns the entries of the result."""
        trainer = self.trainer
        if self.parts.profile and self.process_group.is_main:
            steps = len(trainer.train) * (trainer.epochs - trainer.epoch) - trainer.batch
            trainer.profile = Profile(trainer.precision.device, steps, self.folder.path / "profile")
        with trainer.profile as profile, trainer.view:
            trainer.fit()
        trained = time.perf_counter()
        test, extra = _test(self.parts)
        timings: dict[str, Any] = {
            "train": round(trainer.seconds, 3),
            "test": round(time.perf_counter() - trained, 3),
            **({"profile": profile} if profile else {}),
        }
        extra |= {"events": trainer.recovery.events} if trainer.recovery.events else {}
        return {**best_of(trainer), "test": test, "epochs": trainer.epoch, "timings": timings, **extra}

    def _cause(self, error: BaseException) -> BaseException:
        """Why the run ends, by an ``error`` in this process."""
        if not isinstance(error, OSError | SystemExit):
            return self.process_group.cause_of(error)
        # The folder was removed, or the disk is full; or a class of the user's called sys.exit.
        why = f"its code called sys.exit({error.code})" if isinstance(error, SystemExit) else error
        return TrainingError(f"the run in '{self.folder.path}' cannot go on: {why}")

    def _close(self) -> None:
        trainer = self.trainer
        trainer.checkpoints.settle()  # before another process may write here
        trainer.loggers.close({})
        for loader in (trainer.train, trainer.val, self.parts.test):
            if loader:
                loader.close()


def _test(parts: Parts) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the test part with the best weights, and the confusion matrix of a classification.

    A pruned run is not tested, but says that it was pruned: nobody will use its weights.
    """
    trainer = parts.trainer
    best = trainer.process_group.broadcast(lambda: checkpoint.load(trainer.checkpoints.best))
    best = trainer.checkpoints.tensors_of(best, trainer.checkpoints.folder, trainer.model)
    trainer.evaluated.load_state_dict(best["model"])
    if trainer.pruning and trainer.pruning.should_stop:
        return {}, {"pruned": str(trainer.pruning)}
    if parts.test is None:
        return {}, {}
    metrics = trainer.evaluate(parts.test)
    extra = {"confusion_matrix": metrics.confusion.tolist()} if isinstance(metrics, ClassificationMetrics) else {}
    return metrics.compute(), extra
