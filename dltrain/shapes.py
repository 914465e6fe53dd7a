"""Whether network, loss and data fit each other, found with two samples before a run has left a trace."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.data.base import Facts
from dltrain.data.loader import Loader
from dltrain.device import Precision
from dltrain.errors import ConfigError, MismatchError

_SAMPLES = 2


def require_shapes(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Any], train: Loader, facts: Facts, precision: Precision
) -> None:
    """Raise :class:`MismatchError` unless ``model`` turns a batch into (batch, num_outputs), and ``loss`` that into
    one number. Neither weights nor batch-norm statistics nor random states change.
    """
    inputs, targets = train.first(_SAMPLES)
    devices = [precision.device] if precision.device.type == "cuda" else []
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), precision.autocast():
            outputs = model(inputs)
            _require_outputs(outputs, inputs, facts, type(model).__name__)
            _require_scalar(_value(loss, outputs, targets), type(loss).__name__)
    finally:
        model.train(training)


def _require_outputs(outputs: Any, inputs: Tensor, facts: Facts, model: str) -> None:
    wanted = (len(inputs), facts.num_outputs)
    what = "a logit for each class" if facts.task == "classification" else "a number for each value to predict"
    needed = f"data set {facts.name} needs (batch, num_outputs) = {wanted}: {what}"
    if not isinstance(outputs, Tensor):
        raise MismatchError(f"model {model} returns a {type(outputs).__name__}, not a tensor; {needed}")
    if outputs.shape != wanted:
        came = f"inputs of shape {tuple(inputs.shape)} became outputs of shape {tuple(outputs.shape)}"
        hint = ", as ${data.num_outputs} says" if outputs.shape[:1] == wanted[:1] and outputs.dim() == 2 else ""
        raise MismatchError(f"model {model}: {came}, but {needed}{hint}")


def _value(loss: Callable[[Tensor, Tensor], Any], outputs: Tensor, targets: Tensor) -> Any:
    try:
        return loss(outputs, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        if type(loss).__module__.partition(".")[0] not in ("torch", "dltrain"):
            raise  # the user's own class keeps its traceback
        raise ConfigError([f"loss: {error}"]) from error


def _require_scalar(value: Any, loss: str) -> None:
    if not isinstance(value, Tensor) or value.dim():
        came = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise MismatchError(f"loss {loss} returns {came}, not one number: the mean over the batch is needed")
