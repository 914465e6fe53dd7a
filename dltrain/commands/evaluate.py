"""``dltrain evaluate``: the metrics of a run's network on a part of its data, or on other data."""

from collections.abc import Sequence
from typing import Any

from dltrain.commands.arguments import run_of, take_keys
from dltrain.errors import UserError
from dltrain.system import process
from dltrain.system.answer import on_terminal, print_json
from dltrain.system.log import log_to
from dltrain.trained.launch.start import launched

_SPLITS = ("train", "val", "test", "all")


def evaluate(arguments: Sequence[str]) -> None:
    """Print the metrics of a run's network on a part of the data: tables on a terminal, else one line of JSON.

    Raises:
        UserError: there is no such run, part or data, or they do not fit.
    """
    words, given = take_keys(arguments, ["split"])
    run, overrides = run_of(words, "dltrain evaluate RUN [split=test] [overrides]")
    split = given.get("split")
    require_split(split)
    if launched("evaluate", arguments, overrides):
        return
    from dltrain.trained.loaded import load_run

    log_to(None, speaks=process.rank() == 0)
    answer = evaluated(load_run(run, overrides, measures=True), split)
    if process.rank() > 0:
        return
    if on_terminal():
        from dltrain.commands.tables import show_evaluation

        show_evaluation(answer)
    else:
        print_json(answer)


def require_split(split: Any) -> None:
    """Raise :class:`UserError` unless ``split`` is a part of the data."""
    if split not in (None, *_SPLITS):
        raise UserError(f"split={split} is not allowed: it must be one of {', '.join(_SPLITS)}")


def evaluated(loaded: Any, split: Any) -> dict[str, Any]:
    """Evaluate a part of the data, the test part by default; returns the answer of ``dltrain evaluate``."""
    from dltrain.build.make import added_metrics
    from dltrain.distributed.rendezvous import join_group
    from dltrain.system.device import process_state, threads_of_run
    from dltrain.training.inference import evaluate as evaluate_batches
    from dltrain.training.metrics import metrics_for

    cfg, device = loaded.cfg, loaded.precision.device
    tf32, threads = cfg.trainer.precision == "auto", threads_of_run(cfg.trainer.threads)  # as in training
    with process_state(cfg.seed, cfg.deterministic, tf32, threads), join_group(device) as process_group:
        loader, split = loaded.loader(split, process_group)
        metrics = metrics_for(loaded.facts, device, loaded.loss, added_metrics(cfg, process_group.size))
        evaluate_batches(loaded.model, loader, loaded.loss, metrics, loaded.precision)
        metrics.merge(process_group)
    return {
        "status": "done",
        "run": str(loaded.folder),
        "checkpoint": str(loaded.checkpoint),
        "epoch": loaded.epoch,
        "split": split,
        "samples": len(loader.samples),
        "metrics": metrics.compute(),
        **_details(metrics, loaded.facts),
    }


def _details(metrics: Any, facts: Any) -> dict[str, Any]:
    from dltrain.training.metrics import ClassificationMetrics, by_class

    if isinstance(metrics, ClassificationMetrics):
        confusion = metrics.confusion.tolist()
        return {"classes": by_class(confusion, facts.class_names), "confusion_matrix": confusion}
    if facts.kind == "series":
        return {"target": facts.target_name, "steps": metrics.by_output()}
    return {"target": facts.target_name}
