"""A trained network as a file that runs without dltrain; it is kept only if it gives what the network gives.

============ =================================== =======================================================
format       in the file                         where :func:`~dltrain.trained.deployed.describe` is written
============ =================================== =======================================================
onnx         :class:`~.deployed.Deployed`         the model's metadata properties, each value as JSON
torch_export the same                            the file's extra file ``metadata.json``
state_dict   the weights alone                   a JSON file beside it, ``model.pt.json``
safetensors  the weights alone                   the metadata in the file's header, each value as JSON
============ =================================== =======================================================
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dltrain.errors import DltrainError, UserError
from dltrain.system.files import finite, write_json, written_whole
from dltrain.trained.deployed import Deployed, describe, made_up
from dltrain.trained.loaded import Loaded

BATCHES = (1, 2, 5)  # sizes that an exported network is run with
_ONNX_TOLERANCE = 1e-5  # of a probability, logit or standardised value; of the sample's largest where that is above 1

Outputs = tuple[Tensor, ...]
Runner = Callable[[Outputs], Outputs]  # runs the file on raw inputs


def export(loaded: Loaded, format: str, path: Path) -> float:
    """Write the network of a run that was loaded on the CPU to ``path``; returns how far the file's outputs are off.

    Raises:
        UserError: the network cannot be written in this format, or ``path`` cannot be written.
        DltrainError: what was written gives other outputs, and is removed.
    """
    write, tolerance = {
        "onnx": (_onnx, _ONNX_TOLERANCE),
        "torch_export": (_torch_export, 0.0),
        "state_dict": (_state_dict, 0.0),
        "safetensors": (_safetensors, 0.0),
    }[format]
    deployed = Deployed(loaded).eval()
    metadata = describe(loaded)
    try:
        with written_whole(path) as temporary:
            with torch.inference_mode(False), torch.no_grad():
                run = write(deployed, metadata, temporary)
                difference = _difference(run, deployed, loaded)
            if not difference <= tolerance:  # NaN is a difference
                raise DltrainError(
                    f"the exported network differs from the run's by {difference:.2g}, where {tolerance:g} is allowed;"
                    " the file was not kept"
                )
            if format == "state_dict":
                write_json(path.with_name(f"{path.name}.json"), metadata)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error}") from error
    return difference


def _difference(run: Runner, deployed: Deployed, loaded: Loaded) -> float:
    """The largest difference between the outputs of the file and of the network, over batches of several sizes."""
    largest = 0.0
    for count in BATCHES:
        raw, prepared = made_up(loaded.facts, loaded.fitted.preprocessing, count)
        *readable, outputs = run(raw)
        expected = loaded.model(loaded.transform(prepared))
        pairs = [(outputs, expected)]
        if readable:
            scale = 1.0 if loaded.facts.task == "classification" else loaded.facts.target_std
            pairs.append((readable[0] / scale, deployed(*raw)[0] / scale))
        for actual, wanted in pairs:
            if actual.shape != wanted.shape:
                raise DltrainError(f"the exported network gives {tuple(actual.shape)} for {tuple(wanted.shape)}")
            if not torch.equal(actual, wanted):
                gap = (actual.double() - wanted.double()).abs() / _largest(wanted)
                largest = max(largest, float(gap.nan_to_num(nan=torch.inf).max()))
    return largest


def _largest(outputs: Tensor) -> Tensor:
    """The largest of each sample's outputs, at least 1: a small logit is rounded like the large ones beside it."""
    return outputs.double().abs().flatten(1).amax(1).clamp(min=1).view(-1, *[1] * (outputs.dim() - 1))


def _onnx(deployed: Deployed, metadata: Mapping[str, Any], path: Path) -> Runner:
    import onnxruntime

    with _translating("onnx"):
        program = torch.onnx.export(
            deployed,
            _example(deployed, metadata),
            dynamo=True,
            dynamic_shapes=_any_batch(deployed),
            input_names=deployed.input_names,
            output_names=deployed.output_names,
            verbose=False,
        )
        assert program is not None
        program.model.metadata_props.update({name: json.dumps(value) for name, value in finite(metadata).items()})
        program.save(path, external_data=False)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # a failure is raised, and reported once
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(raw: Outputs) -> Outputs:
        feed = {name: tensor.numpy() for name, tensor in zip(deployed.input_names, raw, strict=True)}
        with _translating("onnx"):  # the file may not run
            return tuple(map(torch.from_numpy, session.run(deployed.output_names, feed)))

    return run


def _torch_export(deployed: Deployed, metadata: Mapping[str, Any], path: Path) -> Runner:
    with _translating("torch_export"):
        program = torch.export.export(
            deployed, _example(deployed, metadata), dynamic_shapes=_any_batch(deployed), strict=False
        )
        extra_files = {"metadata.json": json.dumps(finite(metadata))}
        _write(path, lambda file: torch.export.save(program, file, extra_files=extra_files))
        module = torch.export.load(io.BytesIO(path.read_bytes())).module()
    return lambda raw: tuple(module(*raw))


def _state_dict(deployed: Deployed, metadata: Mapping[str, Any], path: Path) -> Runner:
    _write(path, lambda file: torch.save(deployed.model.state_dict(), file))
    return _with_weights(deployed, torch.load(path, weights_only=True))


def _safetensors(deployed: Deployed, metadata: Mapping[str, Any], path: Path) -> Runner:
    from safetensors.torch import load, save

    # The format has neither shared memory nor strides.
    layout = torch.contiguous_format
    weights = {name: tensor.clone(memory_format=layout) for name, tensor in deployed.model.state_dict().items()}
    # Through bytes: only its owner could read a file that the library writes.
    path.write_bytes(save(weights, {name: json.dumps(value) for name, value in finite(metadata).items()}))
    return _with_weights(deployed, load(path.read_bytes()))


def _write(path: Path, save: Callable[[io.BytesIO], None]) -> None:
    """Write what ``save`` writes, through memory: on a full disk torch's archive writer ends the process."""
    content = io.BytesIO()
    save(content)
    path.write_bytes(content.getbuffer())


def _with_weights(deployed: Deployed, weights: Mapping[str, Tensor]) -> Runner:
    """A copy of the network with these weights."""
    fresh: nn.Module = copy.deepcopy(deployed)
    assert isinstance(fresh, Deployed)
    for tensor in fresh.model.state_dict().values():
        tensor.zero_()
    fresh.model.load_state_dict(weights)
    return lambda raw: tuple(fresh(*raw))


def _example(deployed: Deployed, metadata: Mapping[str, Any]) -> Outputs:
    return made_up(deployed.facts, metadata["preprocessing"], 2)[0]  # a batch of 1 would become a constant


def _any_batch(deployed: Deployed) -> Any:
    batch = torch.export.Dim("batch", min=1)
    return (tuple({0: batch} for _ in deployed.input_names),)


@contextlib.contextmanager
def _translating(format: str) -> Iterator[None]:
    """Turn whatever goes wrong in an exporter into one message, and silence what it logs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # exporters raise anything, for whatever the user's network may do
        cause = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise UserError(
            f"the network cannot be written as {format}: {cause}; format=state_dict or safetensors keeps its weights"
        ) from error
    finally:
        logger.setLevel(level)
