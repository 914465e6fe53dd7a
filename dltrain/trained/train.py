"""``dltrain [overrides]``: train a network and say how good it is."""

import logging
import os
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from dltrain.build import Parts, build, start_loggers
from dltrain.config.earlier import as_text, of_text
from dltrain.config.of_hydra import write_out
from dltrain.distributed.layers import draws_apart
from dltrain.distributed.process_group import ProcessGroup
from dltrain.distributed.rendezvous import Plan, join_group, rendezvous
from dltrain.errors import TrainingError
from dltrain.runs import checkpoint
from dltrain.runs.folder import RunFolder
from dltrain.system import signals, worker
from dltrain.system.device import pick_device, process_state, seed_apart
from dltrain.system.log import log_to, write_to
from dltrain.system.startup import defer_compiler
from dltrain.trained.result import best_of, draw, leave_result, show, write_report
from dltrain.trained.resume import Resumable, find_resumable, restore
from dltrain.training.metrics import ClassificationMetrics
from dltrain.training.monitor import Pruning

log = logging.getLogger(__name__)


def train(cfg: Any, folder: RunFolder, stop: signals.StopRequest, pruning: Pruning | None = None) -> float:
    """Run the configuration ``cfg`` in ``folder``, or go on where ``cfg.resume`` says; returns the best value of the
    monitored metric. ``pruning`` may end a job of a sweep before its last epoch.
    """
    write_out(cfg)
    return go_on(cfg, folder, find_resumable(cfg.resume, folder.path), stop, pruning=pruning)


def go_on(
    cfg: Any,
    folder: RunFolder,
    resumable: Resumable | None,
    stop: signals.StopRequest,
    force: bool = False,
    pruning: Pruning | None = None,
) -> float:
    """Run ``cfg`` in ``folder``, from where ``resumable`` says; see :func:`train`.

    With ``force`` a run goes on although its configuration has changed in what decides its course.
    """
    defer_compiler()
    plan = Plan(as_text(cfg), str(folder.path), folder.command, force, os.getcwd() in sys.path)
    with _process_state(cfg), join_group(pick_device(cfg.device), plan) as process_group:
        return _go_on(cfg, folder, resumable, stop, force, process_group, pruning)


def follow(stop: signals.StopRequest) -> None:
    """Take part in a run that another process, rank 0, has planned, and writes and speaks for."""
    defer_compiler()
    plan = rendezvous().plan()
    if plan is None:
        return
    cfg, path = of_text(plan.config), Path(plan.path)
    if plan.imports_from_here:
        sys.path.insert(0, os.getcwd())
    file = path / "logs" / f"rank-{worker.rank()}.log"
    log_to(file, speaks=False)
    write_to(file)
    with _process_state(cfg), join_group(pick_device(cfg.device)) as process_group:
        folder = RunFolder(path, plan.command, writes=False)
        _go_on(cfg, folder, None, stop, plan.force, process_group)


def _process_state(cfg: Any) -> AbstractContextManager[None]:
    return process_state(cfg.seed, cfg.deterministic, cfg.trainer.precision == "auto", cfg.trainer.threads)


def _go_on(
    cfg: Any,
    folder: RunFolder,
    resumable: Resumable | None,
    stop: signals.StopRequest,
    force: bool,
    process_group: ProcessGroup,
    pruning: Pruning | None = None,
) -> float:
    """:func:`go_on` in each of the processes; what there is to go on from is known to rank 0."""
    state = resumable
    resumable = process_group.broadcast(lambda: state)
    parts = build(
        cfg, folder.path, process_group, fresh=resumable is None, threads=resumable.threads if resumable else None
    )
    trainer = parts.trainer
    trainer.stop = stop
    _set_pruning(parts, pruning, cfg.pruner._target_)
    if resumable:
        restore(trainer, parts.config_text, resumable, force)
        if trainer.finished and process_group.broadcast(resumable.result).get("status") == "done":
            return _already_done(parts, folder, resumable)
        log.info("going on from %s, behind step %d", resumable.path, trainer.step)
    if draws_apart(process_group):
        seed_apart(cfg.seed, trainer.step, process_group.rank)
    if process_group.is_main:
        trainer.loggers = start_loggers(cfg, folder.path, trainer.history)
        trainer.loggers.watch(trainer.evaluated, parts.images)
    try:
        _begin(parts, folder, resumable)
        result = _run(parts, folder)
    except BaseException:
        trainer.checkpoints.settle()  # what there is to go on from comes before a page about it
        if cfg.report and process_group.is_main:
            write_report(None, folder.path)
        raise
    finally:
        _close(parts)
    if process_group.is_main:
        with stop.deferred():  # the run is done, and a page takes moments
            if cfg.report:
                draw(parts, folder.path)
                write_report(parts, folder.path)
            show(result)
    return trainer.best.value


def _begin(parts: Parts, folder: RunFolder, resumable: Resumable | None) -> None:
    """Make ``folder`` that of this run, with the best weights so far in it."""
    trainer = parts.trainer
    here = resumable is not None and resumable.run == folder.path.resolve()
    known = resumable.run_id if resumable and here else None
    folder.begin(parts.config_text, parts.environment, trainer.seconds if here else None, known)
    trainer.checkpoints.header["run_id"] = folder.run_id
    if resumable and resumable.state["best"]:
        trainer.checkpoints.take_over_best(resumable.state["best"], resumable.path.resolve().parent, trainer.model)


def _close(parts: Parts) -> None:
    trainer = parts.trainer
    trainer.checkpoints.settle()  # before another process may write here
    trainer.loggers.close({})
    for loader in (trainer.train, trainer.val, parts.test):
        if loader:
            loader.close()


def _set_pruning(parts: Parts, pruning: Pruning | None, chosen: str | None) -> None:
    trainer = parts.trainer
    if pruning:
        trainer.pruning = replace(pruning, metric=pruning.metric or trainer.best.monitor)
    elif chosen is not None:
        log.warning(
            "the pruner has no effect here: it compares jobs of dltrain -m that are a process each,"
            " by hydra/launcher=serial or parallel"
        )


def _already_done(parts: Parts, folder: RunFolder, resumable: Resumable) -> float:
    trainer = parts.trainer
    if not trainer.process_group.is_main:
        return trainer.best.value
    log.info(
        "%s is finished: %d of %d epochs%s; a higher trainer.epochs would go on",
        resumable.run,
        trainer.epoch,
        trainer.epochs,
        ", stopped early" if trainer.epoch < trainer.epochs else "",
    )
    show(resumable.result() | {"run": str(resumable.run)})  # the folder may have been moved or copied
    return trainer.best.value


def _run(parts: Parts, folder: RunFolder) -> dict[str, Any]:
    """Train and test; ``result.json`` tells how it ended, whatever happens."""
    trainer = parts.trainer
    test: dict[str, float] = {}
    told: dict[str, float] = {}  # to the loggers; empty unless the run gets to its end
    try:
        with _profiling(parts, folder.path) as profile, trainer.view:
            trainer.fit()
        trained = time.perf_counter()
        test, extra = _test(parts)
        told = {"epochs": trainer.epoch, **{f"test/{name}": value for name, value in test.items()}}
    except (OSError, SystemExit) as error:  # the folder is gone, or the disk full; or a class of the user's gave up
        why = f"its code called sys.exit({error.code})" if isinstance(error, SystemExit) else error
        failure = TrainingError(f"the run in '{folder.path}' cannot go on: {why}")
        leave_result(parts, folder, failure)
        raise failure from error
    except BaseException as error:
        with trainer.stop.deferred():  # the launcher also tells this process to stop, which is not why the run ends
            explained = trainer.process_group.cause_of(error)
            leave_result(parts, folder, explained)
        if explained is error:
            raise
        raise explained from error
    finally:
        trainer.loggers.close(told)
    timings: dict[str, Any] = {"train": round(trainer.seconds, 3), "test": round(time.perf_counter() - trained, 3)}
    timings |= {"profile": profile} if profile else {}
    extra |= {"events": trainer.recovery.events} if trainer.recovery.events else {}
    return folder.write_result("done", **best_of(parts), test=test, epochs=trainer.epoch, timings=timings, **extra)


def _profiling(parts: Parts, path: Path) -> AbstractContextManager[dict[str, float]]:
    if not parts.profile or not parts.trainer.process_group.is_main:
        return nullcontext({})
    from dltrain.training.profiling import profiling  # torch's profiler takes a moment to import

    return profiling(parts.trainer, path / "profile")


def _test(parts: Parts) -> tuple[dict[str, float], dict[str, Any]]:
    """Metrics of the test part with the best weights, and the confusion matrix of a classification.

    A pruned run has none, but says that it was pruned: its weights are nobody's choice.
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
