"""Values that a type does not tell: ranges of the arguments of torch's and dltrain's own classes, and what they must
be to one another. Each range is that of PyTorch's documentation, or narrower where a value beyond makes no sense.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dltrain.config.rules import LATER, Choice, Either, Many, Number, Problem, Rule
from dltrain.errors import ConfigError, did_you_mean
from dltrain.expression import Expression
from dltrain.metric_names import NAMES, lower_is_better

_COUNT = Number(1, whole=True)
_COUNT_OR_NULL = Number(1, whole=True, optional=True)
_SHARE = Number(0, most=1)
_POSITIVE = Number(0, open_low=True)
_NOT_NEGATIVE = Number(0)
_SIZES = Many(_COUNT)
_RATES = Either(_NOT_NEGATIVE, Many(_NOT_NEGATIVE))

# By group, then by argument. Fractions are shares of 1, the others are what the YAML files say beside each key.
LIMITS: dict[str, dict[str, Rule]] = {
    "dataset": {
        "window": _COUNT,
        "horizon": _COUNT,
        "max_categories": _COUNT,
        "channels": Choice((1, 3)),
        "image_size": Either(_COUNT, Many(_COUNT, length=2)),
    },
    "model": {
        "channels": _SIZES,
        "hidden_sizes": _SIZES,
        "hidden_size": _COUNT,
        "num_layers": _COUNT,
        "kernel_size": _COUNT,
        "stride": _COUNT,
        "padding": Either(Number(0, whole=True), Choice(("same", "valid"))),
        "pool_kernel_size": _COUNT,
        "pool_stride": _COUNT_OR_NULL,
        "pool_padding": Number(0, whole=True),
        "dropout": Number(0, 1),
    },
    "loss": {
        "label_smoothing": _SHARE,
        "delta": _POSITIVE,
        "beta": _NOT_NEGATIVE,
        "reduction": Choice(("mean",)),
    },
    "optim": {
        "momentum": _SHARE,
        "betas": Many(Number(0, 1), length=2),
        "alpha": _SHARE,
        "rho": _SHARE,
        "eps": _NOT_NEGATIVE,
        "weight_decay": _NOT_NEGATIVE,
        "lr_decay": _NOT_NEGATIVE,
        "initial_accumulator_value": _NOT_NEGATIVE,
        "momentum_decay": _NOT_NEGATIVE,
    },
    "scheduler": {
        "gamma": Number(0, most=1, open_low=True),
        "factor": Number(0, most=1, open_low=True),
        "step_size": _COUNT,
        "milestones": Many(_COUNT, rising=True),
        "boundary": _COUNT,
        "patience": Number(0, whole=True),
        "cooldown": Number(0, whole=True),
        "threshold": _NOT_NEGATIVE,
        "min_lr": _RATES,
        "eta_min": _NOT_NEGATIVE,
        "eps": _NOT_NEGATIVE,
        "T_max": _COUNT,
        "T_0": _COUNT,
        "T_mult": _COUNT,
        "max_lr": Either(_POSITIVE, Many(_POSITIVE)),
        "div_factor": _POSITIVE,
        "final_div_factor": _POSITIVE,
        "base_momentum": Either(_SHARE, Many(_SHARE)),
        "max_momentum": Either(_SHARE, Many(_SHARE)),
        "warmup_fraction": _SHARE,
        "start_factor": _SHARE,
        "min_factor": _SHARE,
    },
}
_TASKS = {  # of dltrain's own data sets; a table tells its task once it is read, unless dataset.task names it
    **dict.fromkeys(("diabetes", "sunspots", "series"), "regression"),
    **dict.fromkeys(("digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "image_folder"), "classification"),
}
_TEN_CLASSES = ("digits", "mnist", "fashion_mnist", "cifar10")


def check_limits(group: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Values out of range, of a node whose target is torch's or dltrain's own."""
    for name, rule in LIMITS.get(group, {}).items():
        value = node.get(name)
        if value is not None and value != LATER and not rule.allows(value):
            hint = f"; {_HINTS[group, name]}" if (group, name) in _HINTS else ""
            yield Problem(f"{group}.{name}", f"must be {rule}{hint}", value)


_HINTS = {
    ("scheduler", "gamma"): "to raise the learning rate, use scheduler=lambda",
    ("scheduler", "milestones"): "for example [15,25]",
    ("optim", "betas"): "for example [0.9,0.999]",
    ("loss", "reduction"): "dltrain takes the mean over a batch",
    ("model", "channels"): "for example [32,64]",
    ("model", "hidden_sizes"): "for example [64,32]",
}


def check_relations(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    """What keys must be to one another."""
    optim, model, scheduler = (cfg.get(group) or {} for group in ("optim", "model", "scheduler"))
    if optim.get("nesterov") is True and not (optim.get("momentum") and not optim.get("dampening")):
        yield Problem("optim.nesterov", "needs optim.momentum above 0 and optim.dampening=0", True)
    if optim.get("fused") is True and optim.get("foreach") is True:
        yield Problem("optim.fused", "excludes optim.foreach=true: leave one of them out", True)
    if _is_own(model, "CNN"):
        yield from _check_cnn(model)
    if scheduler.get("_target_") == "dltrain.schedulers.LambdaLR":
        yield from _check_expression(scheduler)
    if str(scheduler.get("_target_")).endswith(".OneCycleLR") and scheduler.get("cycle_momentum", True) is True:
        yield from _check_cycle(optim)
    if str(scheduler.get("_target_")).endswith(".OneCycleLR"):
        yield from _check_rise(scheduler, cfg.get("trainer") or {})
    yield from _check_monitors(cfg)


def _check_cycle(optim: Mapping[str, Any]) -> Iterator[Problem]:
    if "momentum" not in optim and "betas" not in optim and _is_torch(optim):
        needs = f"needs an optimizer with momentum, which {optim['_target_']} has not"
        yield Problem("scheduler.cycle_momentum", f"{needs}: use scheduler.cycle_momentum=false", True)


def _check_rise(scheduler: Mapping[str, Any], trainer: Mapping[str, Any]) -> Iterator[Problem]:
    share, epochs = scheduler.get("pct_start"), trainer.get("epochs")
    if scheduler.get("interval") != "epoch" or not isinstance(share, float) or not isinstance(epochs, int):
        return
    if share * epochs == 1:  # torch divides by the length of the rise, less one
        text = f"of trainer.epochs={epochs} is one epoch, too short to rise in: use scheduler.interval=step"
        yield Problem("scheduler.pct_start", text, share)


def _is_own(node: Mapping[str, Any], name: str) -> bool:
    return str(node.get("_target_")).startswith("dltrain.") and str(node["_target_"]).endswith(f".{name}")


def _is_torch(node: Mapping[str, Any]) -> bool:
    return str(node.get("_target_")).startswith("torch.")


def _check_cnn(model: Mapping[str, Any]) -> Iterator[Problem]:
    stride, kernel, padding = (model.get(name) for name in ("stride", "pool_kernel_size", "pool_padding"))
    if model.get("padding") == "same" and isinstance(stride, int) and stride > 1:
        text = "needs model.stride=1: use half of model.kernel_size as padding, model.padding="
        yield Problem("model.padding", text + str(_half(model.get("kernel_size"))), "same")
    if isinstance(kernel, int) and isinstance(padding, int) and kernel > 0 and padding > kernel // 2:
        yield Problem("model.pool_padding", f"must be at most half of model.pool_kernel_size={kernel}", padding)


def _half(size: Any) -> int:
    return size // 2 if isinstance(size, int) else 1


def _check_expression(scheduler: Mapping[str, Any]) -> Iterator[Problem]:
    text, variable = scheduler.get("lr_lambda"), scheduler.get("variable", "epoch")
    if text in (None, LATER) or not isinstance(variable, str):
        return
    try:
        Expression(str(text), variable)(0)
    except ConfigError as error:
        cause = str(error).removeprefix(f"scheduler.lr_lambda='{text}': ")
        yield Problem("scheduler.lr_lambda", cause, text)


def _check_monitors(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    trainer, scheduler = cfg.get("trainer") or {}, cfg.get("scheduler") or {}
    known = _metric_names(cfg.get("dataset") or {})
    for part in ("early_stopping", "checkpoint"):
        node = trainer.get(part) if isinstance(trainer, dict) else None
        if isinstance(node, dict):
            yield from _check_monitor(f"trainer.{part}.monitor", node.get("monitor"), known)
    is_plateau = str(scheduler.get("_target_")).endswith(".ReduceLROnPlateau")
    if is_plateau and "monitor" not in scheduler:
        yield Problem("scheduler.monitor", "ReduceLROnPlateau needs it: add scheduler.monitor=val/loss")
    if "monitor" not in scheduler:
        return
    if not is_plateau and _is_torch(scheduler):
        yield Problem("scheduler.monitor", "is for scheduler=plateau alone: leave it out", scheduler["monitor"])
        return
    yield from _check_monitor("scheduler.monitor", scheduler["monitor"], known)
    if scheduler.get("interval") == "step":
        yield Problem("scheduler.interval", "a metric is there once an epoch: use scheduler.interval=epoch", "step")
    yield from _check_mode(scheduler)


def _check_mode(scheduler: Mapping[str, Any]) -> Iterator[Problem]:
    mode, monitor = scheduler.get("mode"), scheduler.get("monitor")
    if mode not in ("auto", "min", "max"):
        yield Problem("scheduler.mode", "must be one of auto, min, max", mode)
    elif isinstance(monitor, str) and mode != "auto" and (mode == "min") != lower_is_better(monitor):
        better = "lower" if lower_is_better(monitor) else "higher"
        yield Problem("scheduler.mode", f"{monitor} is better when it is {better}: use scheduler.mode=auto", mode)


def _check_monitor(key: str, name: Any, known: tuple[str, ...]) -> Iterator[Problem]:
    if not isinstance(name, str) or name == LATER or name in known:
        return
    if len(known) == 1:
        reason = "dataset.val_fraction=0 leaves no validation part"
        yield Problem(key, f"is no metric of this run, because {reason}: use {key}={known[0]}", name)
        return
    task = next((task for task, names in NAMES.items() if name.removeprefix("val/") in names), "")
    hint = f", but of {task}" if task else did_you_mean(name, known) or did_you_mean(f"val/{name}", known)
    yield Problem(
        key, f"is no metric of this run{hint}{' There' if '?' in hint else '; there'} are {', '.join(known)}", name
    )


def _metric_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Metrics that a run on the data set may have: those of both tasks where only the data know the task."""
    module, _, name = str(dataset.get("_target_")).rpartition(".")
    own = module.startswith("dltrain.data")
    task = dataset.get("task") or (_TASKS.get(name) if own else None)
    if own and name != "image_folder" and dataset.get("val_fraction") == 0:
        return ("train/loss",)
    names = NAMES.get(str(task)) or tuple(dict.fromkeys(name for names in NAMES.values() for name in names))
    absent = ("top5_accuracy",) if own and name in _TEN_CLASSES else ()
    return ("train/loss", *(f"val/{each}" for each in names if each not in absent))
