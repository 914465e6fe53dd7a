"""Hydra's syntax for spaces as Optuna's distributions, and values that were drawn from them as overrides."""

import math
from typing import Any

from hydra.core.override_parser.types import Override

from dltrain.config.sweeps import written


def distribution(override: Override) -> Any:
    """Optuna's distribution of what a key with a range or a choice may be."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    if override.is_choice_sweep():
        return CategoricalDistribution([_plain(one) for one in override.sweep_iterator()])
    is_log = "log" in value.tags
    if override.is_range_sweep():
        start, step = value.start, value.step
        count = math.ceil((value.stop - start) / step)
        last = start + (count - 1) * step
        if all(float(one).is_integer() for one in (start, step)):
            return IntDistribution(int(start), int(last), log=is_log, step=1 if is_log else int(step))
        return FloatDistribution(start, last, step=step)
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=is_log)
    return FloatDistribution(value.start, value.end, log=is_log)


def _plain(value: Any) -> Any:
    """A choice as Optuna can store it: numbers and words as they are, lists as their text."""
    return value if isinstance(value, bool | int | float | str | None) else Override._get_value_element_as_str(value)


def typed(value: Any) -> str:
    """A value as it is written on the command line, as lists, dictionaries and quoted text are already."""
    if isinstance(value, str) and value.startswith(("[", "{", "'", '"')):
        return value
    return "null" if value is None else written(value)


def grid_values(distribution: Any) -> list[Any]:
    """Every value of a distribution; none where there is no end of them."""
    if hasattr(distribution, "choices"):
        return list(distribution.choices)
    step = distribution.step
    if step is None or (isinstance(distribution.low, float) and not step):
        return []
    count = round((distribution.high - distribution.low) / step) + 1
    return [distribution.low + number * step for number in range(count)]
