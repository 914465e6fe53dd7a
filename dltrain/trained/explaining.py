"""Which parts of an input moved the output of a network: attributions, by Captum."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from dltrain.data.base import NamedBatch
from dltrain.losses import scores
from dltrain.trained.loaded import Loaded, predictions

Method = Literal["integrated_gradients", "input_x_gradient"]

_STEPS = 256  # of the integral; ``error`` shows where they are too few
_AT_A_TIME = 512  # steps of samples that are computed together


@dataclass(frozen=True)
class Explained:
    """An input, its prediction, and how much each value of the input contributed to it.

    ``output`` is the logit of the class ``prediction``, or the value in the target's units (of a series the mean of the
    forecast); ``baseline`` is the same for the average training input. The attributions, of the shape of ``inputs``,
    add up to the difference of the two but for ``error``.
    """

    name: tuple[Any, ...]
    prediction: str
    confidence: float | None  # of a class
    output: float
    baseline: float
    error: float
    raw: np.ndarray  # as it was read: an image uint8
    inputs: np.ndarray  # as the model gets it, standardised
    attributions: np.ndarray


def explain(
    loaded: Loaded, batches: Iterable[NamedBatch], method: Method = "integrated_gradients"
) -> Iterator[Explained]:
    """Explain the inputs of ``batches`` in float32.

    ``integrated_gradients`` (Sundararajan et al., 2017) follows the straight line from the average training input,
    which standardisation has made 0; ``input_x_gradient`` (Shrikumar et al., 2016) looks at the input alone, and its
    attributions add up for linear networks only.
    """
    device = loaded.precision.device
    for names, raw in batches:
        inputs = loaded.transform(raw.to(device))
        # The CUDA library of recurrent layers has gradients in training mode only.
        with torch.backends.cudnn.flags(enabled=False):
            yield from _explain(loaded, names, raw, inputs, method)


def _explain(
    loaded: Loaded, names: list[tuple[Any, ...]], raw: Tensor, inputs: Tensor, method: Method
) -> Iterator[Explained]:
    facts = loaded.facts
    with torch.no_grad():
        outputs = loaded.model(inputs)
    classes = scores(loaded.loss, outputs).argmax(1) if facts.task == "classification" else None
    confidences = (
        predictions(outputs, loaded.loss, facts).amax(1).tolist() if classes is not None else [None] * len(names)
    )
    attributions = attribute(loaded, inputs, classes, method)
    with torch.no_grad():
        reached, start = (_explained(loaded, batch, classes) for batch in (inputs, torch.zeros_like(inputs)))
    errors = attributions.double().flatten(1).sum(1) - (reached - start)
    for number, name in enumerate(names):
        yield Explained(
            name=name,
            prediction=facts.class_names[int(classes[number])] if classes is not None else facts.target_name,
            confidence=confidences[number],
            output=float(reached[number]),
            baseline=float(start[number]),
            error=float(errors[number]),
            raw=raw[number].numpy(),
            inputs=inputs[number].cpu().numpy(),
            attributions=attributions[number].cpu().numpy(),
        )


def attribute(loaded: Loaded, inputs: Tensor, classes: Tensor | None, method: Method) -> Tensor:
    """Attributions (batch, *input_shape) of ``inputs`` as the model gets them, to the logits of ``classes`` (batch,)
    int64 or, where there are none, to the value."""
    from captum.attr import InputXGradient, IntegratedGradients

    def scalar(batch: Tensor, target: Tensor | None = None) -> Tensor:
        return _explained(loaded, batch, target)

    inputs = inputs.detach().requires_grad_()
    extra: Any = classes  # Captum repeats it for each step of the integral
    if method == "input_x_gradient":
        attributions = InputXGradient(scalar).attribute(inputs, additional_forward_args=extra)
    else:
        attributions = IntegratedGradients(scalar).attribute(
            inputs,
            baselines=torch.zeros_like(inputs),
            additional_forward_args=extra,
            n_steps=_STEPS,
            internal_batch_size=max(_AT_A_TIME, len(inputs)),
        )
    return cast(Tensor, attributions).detach()


def _explained(loaded: Loaded, inputs: Tensor, classes: Tensor | None) -> Tensor:
    """The number (batch,) float64 that is explained, for each of ``inputs``."""
    outputs: Tensor = loaded.model(inputs)
    if classes is None:
        return predictions(outputs, loaded.loss, loaded.facts).mean(1)
    return outputs.gather(1, classes.unsqueeze(1)).squeeze(1).double()
