"""From a run to its report: what is in its folder, and what its network makes of the test part."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.config.earlier import of_run
from dltrain.config.interpolation import of_resolved
from dltrain.data.base import Facts, names_of
from dltrain.data.loader import Loader
from dltrain.errors import DltrainError, RecordError
from dltrain.report.content import Content, Mistake, TestPart
from dltrain.report.page import render
from dltrain.runs.record import (
    changed_from_defaults,
    choices_of,
    command_of,
    history_of,
    read_config,
    read_environment,
    read_result,
)
from dltrain.system.device import Precision
from dltrain.system.files import flat, write_text
from dltrain.trained.loaded import load_run, original, predictions
from dltrain.training.inference import Loss, predict
from dltrain.training.metrics import by_class

log = logging.getLogger(__name__)

_PICTURES = 24
_SECONDS = 0.5  # for the test part at the end of a run
_LEFT_OUT = "Mistakes and predictions of single samples are left out"
_SEED = 0  # of the draw of test samples


@dataclass(frozen=True)
class Network:
    """A network with its best weights, and the test part."""

    model: nn.Module
    loss: Loss
    facts: Facts
    levels: int  # the value of white in images
    test: Loader | None
    precision: Precision


def report_after_training(network: Network | None, folder: Path) -> None:
    """Write ``report.html`` quickly; the result is safe by now, so whatever goes wrong is only a warning."""
    try:
        write_text(folder / "report.html", render(content_of(folder, network, _SECONDS)))
    except Exception as error:
        log.warning("report.html was not written: %s", error)


def report_run(folder: Path, overrides: list[str], out: Path) -> None:
    """Write the page of a run that may still be going on; once it is done, with all of its test part.

    Raises:
        ConfigError: an override that is not valid, or fits no key of the run.
    """
    network, note = None, ""
    if overrides and read_config(folder):
        of_run(of_resolved((folder / "config.yaml").read_text(encoding="utf-8")), overrides)
    if read_result(folder).get("status") == "done":
        try:
            network, note = _network_of(folder, overrides)
        except DltrainError as error:
            if overrides:  # which were meant to make it possible
                raise
            note = f"{_LEFT_OUT}, because the network cannot be loaded: {error}"
    write_text(out, render(content_of(folder, network, note=note)))


def _network_of(folder: Path, overrides: list[str]) -> tuple[Network, str]:
    """The network of a finished run, and a note where its test part cannot be read."""
    loaded = load_run(str(folder), overrides)
    loader, note = None, ""
    try:
        loader, _ = loaded.loader("test")
    except DltrainError as error:
        if overrides:
            raise
        note = f"{_LEFT_OUT}, because the test part cannot be read: {error}"
    levels = loaded.fitted.preprocessing.get("levels", 255)
    return Network(loaded.model, loaded.loss, loaded.facts, levels, loader, loaded.precision), note


def content_of(folder: Path, network: Network | None = None, seconds: float | None = None, note: str = "") -> Content:
    """All that is known of the run in ``folder``; the test part is evaluated for at most so many ``seconds``."""
    config = read_config(folder)
    result = {"run": str(folder), **read_result(folder)}
    result["command"] = command_of(result)
    facts = config.get("data", {})
    matrix, pruned = result.get("confusion_matrix"), str(result.get("pruned", ""))
    names = [str(name) for name in facts.get("class_names") or range(len(matrix or ()))]
    if matrix and {len(matrix), *map(len, matrix)} != {len(names)}:
        raise RecordError(f"'{folder / 'result.json'}' does not belong to config.yaml: they differ in their classes")
    return Content(
        name=facts.get("name") or folder.name,
        model=str(config.get("model", {}).get("_target_", "")).rpartition(".")[2],
        kind=facts.get("kind") or "",
        target=network.facts.target_name if network else "",
        result=result,
        environment=read_environment(folder),
        history=history_of(folder),
        config=flat({name: node for name, node in config.items() if name != "data"}),
        changed=changed_from_defaults(folder),
        choices=choices_of(folder),
        class_names=names,
        classes=by_class(matrix, names) if matrix else (),
        # The weights of a pruned job were not chosen.
        test=_test_part(network, seconds) if network and network.test and not pruned else None,
        notes=[text for text in (pruned, note) if text],
    )


def _test_part(network: Network, seconds: float | None) -> TestPart:
    """The network on the test part, as far as it gets in this time."""
    assert network.test is not None
    # Drawn, because files of a folder come class by class; windows of a series are shown in their order.
    test = network.test.drawn(None if network.facts.kind == "series" else _SEED)
    pairs = ((targets, inputs) for inputs, targets in test)
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    targets, outputs = [], []
    for target, output in _until(until, predict(network.model, pairs, network.precision)):
        targets.append(target.cpu())
        outputs.append(output)
    test.close()
    summarise = _classified if network.facts.task == "classification" else _estimated
    return summarise(network, test, torch.cat(outputs), torch.cat(targets))


def _until(end: float, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        yield batch
        if time.monotonic() > end:
            return


def _classified(network: Network, test: Loader, outputs: Tensor, targets: Tensor) -> TestPart:
    confidence, predicted = predictions(outputs, network.loss, network.facts).max(1)
    wrong = (predicted != targets).nonzero().flatten()
    shown = wrong[confidence[wrong].argsort(descending=True)][:_PICTURES]
    names = network.facts.class_names
    mistakes: list[Mistake] = []
    if network.facts.kind == "image" and len(shown):
        samples, indices = test.samples, test.order(len(targets))[shown]
        images = samples.take(indices.to(test.device) if test.resident else indices)[0].cpu()
        if images.dtype == torch.uint8:  # the user's data may hold anything
            white = (images.float() * (255 / network.levels)).round().clamp(max=255).byte().numpy()
            mistakes = [
                Mistake(image, names[int(targets[row])], names[int(predicted[row])], float(confidence[row]), file)
                for image, row, file in zip(white, shown.tolist(), names_of(samples, indices), strict=True)
            ]
    return TestPart(len(targets), len(test.samples), mistakes, len(wrong))


def _estimated(network: Network, test: Loader, outputs: Tensor, targets: Tensor) -> TestPart:
    facts = network.facts
    predicted, truth = predictions(outputs, network.loss, facts), original(targets, facts)
    by_step: list[float] = []
    if facts.kind == "series":
        by_step = (predicted - truth).abs().mean(0).tolist()
        # Windows begin at every step; of consecutive windows without overlap, each step comes once.
        predicted, truth = predicted[:: facts.num_outputs], truth[:: facts.num_outputs]
    values = [np.round(part.flatten().numpy(), 6).tolist() for part in (truth, predicted)]
    return TestPart(len(targets), len(test.samples), truth=values[0], predicted=values[1], errors_by_step=by_step)
