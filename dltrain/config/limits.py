"""Ranges, which a type does not tell, of the arguments of torch's and dltrain's own classes.

Each is that of PyTorch's documentation, or narrower where a value beyond makes no sense.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dltrain.config.rules import LATER, Choice, Either, Many, Number, Of, Problem, Rule
from dltrain.errors import did_you_mean

_COUNT = Number(1, whole=True)
_SIZE = Number(1, whole=True, most=2**20)  # of weights: of larger ones torch cannot even count the elements
_NUMBER = Number(0, whole=True)
_SHARE = Number(0, most=1)
_POSITIVE = Number(0, open_low=True)
_NOT_NEGATIVE = Number(0)
_SIZES = Many(_SIZE)
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
    "flip": Of(bool, "true or false"),
    "cutout": _NUMBER,
    "brightness": _SHARE,
    "contrast": _SHARE,
    "saturation": _SHARE,
}


def check_limits(key: str, group: str, node: Mapping[str, Any]) -> Iterator[Problem]:
    """Values out of range, of the node ``key`` of a group, whose target is torch's or dltrain's own."""
    for name, rule in LIMITS.get(group, {}).items():
        value = node.get(name)
        is_made = isinstance(value, dict) and "_target_" in value
        if value is not None and value != LATER and not is_made and not rule.allows(value):
            hint = f"; {_HINTS[group, name]}" if (group, name) in _HINTS else ""
            yield Problem(f"{key}.{name}", f"must be {rule}{hint}", value)
    if group == "dataset" and isinstance(node.get("augment"), dict):
        yield from _check_augment(node["augment"])


def _check_augment(options: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in options.items():
        key = f"dataset.augment.{name}"
        if name not in AUGMENT:
            near = did_you_mean(str(name), AUGMENT) or f"; there are {', '.join(AUGMENT)}"
            yield Problem(key, f"there is no augmentation {name}{near}", value)
        elif value != LATER and not AUGMENT[name].allows(value):
            yield Problem(key, f"must be {AUGMENT[name]}", value)


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
