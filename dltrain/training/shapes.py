"""Checks with two samples whether network, loss and data fit each other, before a run writes anything."""

import copy
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from dltrain.data.base import Facts
from dltrain.data.loader import Loader
from dltrain.errors import ConfigError, MismatchError
from dltrain.system.device import Precision, random_states_restored
from dltrain.training.metrics import Metric, sum_dtype

_SAMPLES = 2


def require_shapes(
    model: nn.Module, loss: Callable[[Tensor, Tensor], Any], train: Loader, facts: Facts, precision: Precision
) -> int:
    """Count the multiply-adds of a forward pass over a sample, in the layers that have weights.

    Neither weights nor batch-norm statistics nor random states change.

    Raises:
        MismatchError: ``model`` does not turn a batch into (batch, num_outputs), or ``loss`` that into a scalar.
    """
    inputs, targets = train.first(_SAMPLES)
    devices = [precision.device] if precision.device.type == "cuda" else []
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices), torch.no_grad(), precision.autocast():
            with _multiply_adds(model) as counts:
                outputs = model(inputs)
            _require_outputs(outputs, inputs, facts, type(model).__name__)
            _require_scalar(loss, outputs, targets)
    finally:
        model.train(training)
    return sum(counts) // len(inputs)


def require_fitting(model: nn.Module, facts: Facts, device: torch.device) -> None:
    """Raise :class:`MismatchError` where a ``model`` in evaluation mode, without code of the user's, does not fit."""
    name = type(model).__name__
    inputs = torch.zeros(1, *facts.input_shape, device=device)
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
            outputs = model(inputs)
    except (RuntimeError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        raise MismatchError(f"model {name} does not take inputs of shape {tuple(inputs.shape)}: {error}") from error
    _require_outputs(outputs, inputs, facts, name)


def require_metrics(added: Mapping[str, Metric], facts: Facts, device: torch.device) -> None:
    """Try the metrics of the group ``metric`` on two samples; they themselves stay empty.

    Raises:
        MismatchError: one does not take in what it gets of this task, or computes anything but a number.
    """
    values = torch.zeros(_SAMPLES, facts.num_outputs, dtype=sum_dtype(device), device=device)
    predicted, targets, kind = values, values.clone(), "predicted and true values"
    if facts.task == "classification":
        predicted, targets = values + 1 / facts.num_outputs, values.new_zeros(_SAMPLES, dtype=torch.int64)
        kind = "probabilities and classes"
    for name, metric in added.items():
        shapes = f"{tuple(predicted.shape)} and {tuple(targets.shape)}"
        problem = f"metric.{name}: {type(metric).__name__} does not take the {kind} of this data set, {shapes}"
        with random_states_restored(), torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of so few samples
            tried: Any = copy.deepcopy(metric)
            tried = tried.to(device) if isinstance(tried, nn.Module) else tried
            try:
                tried.update(predicted.clone(), targets.clone())
            except Exception as error:
                raise MismatchError(f"{problem}: {_where(error)}{type(error).__name__}: {error}") from error
            _require_number(tried, f"metric.{name}: {type(metric).__name__}")


def _require_number(metric: Metric, name: str) -> None:
    try:
        value = metric.compute()
    except Exception:
        return  # two samples of a class may be too few for it
    try:
        float(value)
    except (RuntimeError, ValueError, TypeError) as error:
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        problem = f"compute() returns a {type(value).__name__}{shape}, but a metric is a number"
        raise MismatchError(f"{name}: {problem}") from error


def _where(error: Exception) -> str:
    """The file and the line that raised ``error``."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}, " if frames else ""


@contextmanager
def _multiply_adds(model: nn.Module) -> Iterator[list[int]]:
    """The multiply-adds of each call of a layer with weights, while ``model`` runs.

    Those of recurrent layers count half: their steps wait for each other, so threads gain less from sharing them.
    """
    counts: list[int] = []

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor) and first.dim() > 1 and not isinstance(module, nn.Embedding | nn.EmbeddingBag):
            weights = sum(p.numel() for p in module.parameters(recurse=False) if p.dim() > 1)
            features = first.shape[1 if isinstance(module, _ConvNd) else -1]
            number = weights * first.numel() // max(features, 1)  # each weight once at each place of the output
            counts.append(number // 2 if isinstance(module, nn.RNNBase) else number)

    with ExitStack() as hooks:
        for module in model.modules():
            if any(True for _ in module.parameters(recurse=False)):
                hooks.callback(module.register_forward_hook(count).remove)
        yield counts


def _require_outputs(outputs: Any, inputs: Tensor, facts: Facts, model: str) -> None:
    expected = (len(inputs), facts.num_outputs)
    what = "a logit for each class" if facts.task == "classification" else "a number for each value to predict"
    requirement = f"data set {facts.name} needs (batch, num_outputs) = {expected}: {what}"
    if not isinstance(outputs, Tensor):
        raise MismatchError(f"model {model} returns a {type(outputs).__name__}, not a tensor; {requirement}")
    if outputs.shape != expected:
        actual = f"inputs of shape {tuple(inputs.shape)} became outputs of shape {tuple(outputs.shape)}"
        hint = ", as ${data.num_outputs} says" if outputs.shape[:1] == expected[:1] and outputs.dim() == 2 else ""
        raise MismatchError(f"model {model}: {actual}, but {requirement}{hint}")


def _require_scalar(loss: Callable[[Tensor, Tensor], Any], outputs: Tensor, targets: Tensor) -> None:
    name = type(loss).__name__
    try:
        value = loss(outputs, targets)
    except (RuntimeError, ValueError, IndexError) as error:
        if type(loss).__module__.partition(".")[0] not in ("torch", "dltrain"):
            raise  # the user's own class keeps its traceback
        raise ConfigError([f"loss: {error}"]) from error
    if not isinstance(value, Tensor) or value.dim():
        actual = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise MismatchError(f"loss {name} returns {actual}, not one number: the mean over the batch is needed")
