"""What the values of keys may be, where a type does not say it: the one place that knows ranges and choices.

Ranges are those of PyTorch's documentation, or narrower where a value beyond makes no sense. Imports no torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dltrain.config.rules import Choice, Either, Many, Number, Of, Pattern, Problem, Rule, complaint
from dltrain.errors import did_you_mean

_COUNT = Number(1, whole=True)
_SIZE = Number(1, whole=True, most=2**20)  # of weights: of larger ones torch cannot even count the elements
_NUMBER = Number(0, whole=True)
_SHARE = Number(0, most=1)
_POSITIVE = Number(0, open_low=True)
_NOT_NEGATIVE = Number(0)
_SIZES = Many(_SIZE)
_RATES = Either(_NOT_NEGATIVE, Many(_NOT_NEGATIVE))

_FLAG = Of(bool, "true or false")
_METRIC = Of(str, "the name of a metric such as val/loss", optional=True)

# Units and meaning of each key stand in the YAML files under conf/.
CLOSED: dict[str, Any] = {
    "seed": Number(0, 2**32, whole=True),
    "device": Pattern(r"auto|cpu|mps|cuda(:\d+)?", "one of auto, cpu, cuda, cuda:N, mps"),
    "deterministic": _FLAG,
    "report": _FLAG,
    "penalty.l1": Number(0),
    "penalty.l2": Number(0),
    "trainer.epochs": Number(1, whole=True),
    "trainer.precision": Choice(("auto", "fp32", "bf16", "fp16")),
    "trainer.accumulate": Number(1, whole=True),
    "trainer.clip_norm": Number(0, optional=True, open_low=True),
    "trainer.clip_value": Number(0, optional=True, open_low=True),
    "trainer.ema_decay": Number(0, 1, optional=True),
    "trainer.compile": _FLAG,
    "trainer.profile": _FLAG,
    "trainer.threads": Either(Number(1, whole=True, most=4096), Choice(("auto",))),
    "trainer.devices": Either(Number(1, whole=True), Choice(("auto",))),
    "trainer.strategy": Choice(("ddp", "fsdp")),
    "trainer.sync_batchnorm": _FLAG,
    "trainer.early_stopping.monitor": _METRIC,
    "trainer.early_stopping.patience": Number(1, whole=True, optional=True),
    "trainer.early_stopping.min_delta": Number(0),
    "trainer.checkpoint.monitor": _METRIC,
    "trainer.checkpoint.every_n_epochs": Number(1, whole=True, optional=True),
    "trainer.checkpoint.every_n_steps": Number(1, whole=True, optional=True),
    "trainer.checkpoint.every_n_minutes": Number(0, optional=True, open_low=True),
    "trainer.checkpoint.keep": Number(0, whole=True),
    "trainer.on_nonfinite": Choice(("stop", "skip", "rollback")),
    "trainer.on_oom": Choice(("halve", "stop")),
    "sweep.on_failure": Choice(("continue", "stop")),
    "sweep.retries": Number(0, whole=True),
    "resume": Of(str, "auto, off or a run folder"),
    "trust": Of(list, "a list of packages, [my_package]"),
}
# By group, then by key: of every target, because dltrain reads these keys itself.
SHARED: dict[str, dict[str, Rule]] = {
    "dataset": {
        "batch_size": _COUNT,
        "val_fraction": Number(0, 1),
        "test_fraction": Number(0, 1),
        "limit": Number(1, whole=True, optional=True),
        "split_seed": _NUMBER,
    },
    "scheduler": {
        "interval": Choice(("epoch", "step")),
        "pct_start": Number(0, 1),  # torch takes 1 and divides by zero after the last step
    },
    "optim": {"lr": _NOT_NEGATIVE},
}
_NEEDED = ("dataset.batch_size", "scheduler.interval")

# By group, then by argument: of the classes and functions of torch, torchvision, optuna and dltrain.
LIMITS: dict[str, dict[str, Rule]] = {
    "dataset": {
        "window": _COUNT,
        "horizon": _COUNT,
        "max_categories": _COUNT,
        "shuffle_window": _COUNT,
        "white": Either(_POSITIVE, Choice(("auto",))),
        "channels": Choice((1, 3)),
        "image_size": Either(_COUNT, Many(_COUNT, length=2)),
    },
    "model": {
        "channels": _SIZES,
        "hidden_sizes": _SIZES,
        "hidden_size": _SIZE,
        "num_layers": Number(1, whole=True, most=1000),
        "kernel_size": _SIZE,
        "stride": _SIZE,
        "padding": Either(Number(0, whole=True, most=2**20), Choice(("same", "valid"))),
        "pool_kernel_size": _SIZE,
        "pool_stride": Number(1, whole=True, optional=True, most=2**20),
        "pool_padding": _NUMBER,
        "dropout": Number(0, 1),
    },
    "loss": {
        "label_smoothing": _SHARE,
        "delta": _POSITIVE,
        "beta": _NOT_NEGATIVE,
        "weight": Many(_NOT_NEGATIVE),
        "pos_weight": Many(_NOT_NEGATIVE),
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
        "patience": _NUMBER,
        "cooldown": _NUMBER,
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
    "pruner": {
        "n_startup_trials": _NUMBER,
        "n_warmup_steps": _NUMBER,
        "interval_steps": _COUNT,
        "n_min_trials": _COUNT,
        "min_resource": Either(_COUNT, Choice(("auto",))),
        "max_resource": Either(_COUNT, Choice(("auto",))),
        "reduction_factor": Number(2, whole=True),
        "min_early_stopping_rate": _NUMBER,
        "bootstrap_count": _NUMBER,
        "percentile": Number(0, most=100),
    },
}
AUGMENT: dict[str, Rule] = {
    "crop": _NUMBER,
    "flip": _FLAG,
    "cutout": _NUMBER,
    "brightness": _SHARE,
    "contrast": _SHARE,
    "saturation": _SHARE,
}
_HINTS = {
    ("scheduler", "gamma"): "to raise the learning rate, use scheduler=lambda",
    ("scheduler", "milestones"): "for example [15,25]",
    ("optim", "betas"): "for example [0.9,0.999]",
    ("loss", "weight"): "one for each class, for example [1,8]",
    ("loss", "pos_weight"): "one for each class, for example [1,8]",
    ("loss", "reduction"): "dltrain takes the mean over a batch",
    ("model", "channels"): "for example [32,64]",
    ("model", "hidden_sizes"): "for example [64,32]",
}


def check_shared(group: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Values of the keys of a group that dltrain reads itself."""
    for name, rule in SHARED.get(group, {}).items():
        key = f"{group}.{name}"
        if name not in node and key in _NEEDED:
            yield Problem(key, f"is missing: it must be {rule}")
        elif name in node and (text := complaint(node[name], rule)):
            yield Problem(key, text, node[name])


def check_limits(key: str, group: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Values out of range, of the node ``key`` of a group, whose target is torch's or dltrain's."""
    for name, rule in LIMITS.get(group, {}).items():
        value = node.get(name)
        is_made = isinstance(value, dict) and "_target_" in value
        if value is not None and not is_made and (text := complaint(value, rule)):
            hint = f"; {_HINTS[group, name]}" if (group, name) in _HINTS else ""
            yield Problem(f"{key}.{name}", text + hint, value)
    if group == "dataset" and isinstance(node.get("augment"), dict):
        yield from _check_augment(node["augment"])


def _check_augment(options: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in options.items():
        key = f"dataset.augment.{name}"
        if name not in AUGMENT:
            near = did_you_mean(str(name), AUGMENT) or f"; there are {', '.join(AUGMENT)}"
            yield Problem(key, f"there is no augmentation {name}{near}", value)
        elif text := complaint(value, AUGMENT[name]):
            yield Problem(key, text, value)
