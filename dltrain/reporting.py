"""From a run to its report: what is in its folder, and what its network does on the test part."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from dltrain.config.earlier import of_run
from dltrain.config.literal import of_resolved
from dltrain.data.base import Facts
from dltrain.data.loader import Loader
from dltrain.device import Precision
from dltrain.errors import DltrainError
from dltrain.inference import Loss, predict
from dltrain.metrics import by_class
from dltrain.predictions import original, probabilities
from dltrain.record import changed_from_defaults, choices_of, flat, history_of, read_config
from dltrain.report.page import write_report
from dltrain.report.story import Mistake, Story, Test
from dltrain.run import read_json

log = logging.getLogger(__name__)

_PICTURES = 24
_SECONDS = 0.5  # for a look at the test part behind a run


@dataclass(frozen=True)
class Network:
    """What is looked at: a network with its best weights, and the test part it has not seen."""

    model: nn.Module
    loss: Loss
    facts: Facts
    levels: int  # the value of white in images
    test: Loader | None
    precision: Precision


def report_after_training(network: Network | None, folder: Path) -> None:
    """Write ``report.html`` in moments; the result is safe, so whatever goes wrong costs a warning."""
    try:
        write_report(tell(folder, network, _SECONDS), folder / "report.html")
    except Exception as error:
        log.warning("report.html was not written: %s", error)


def report_run(folder: Path, overrides: list[str], out: Path) -> None:
    """Write the page of a run that may still be going, with all of its test part once it is done.

    Raises:
        ConfigError: overrides that are none, or fit no key of the run.
    """
    network, note = None, ""
    if overrides:
        of_run(of_resolved((folder / "config.yaml").read_text(encoding="utf-8")), overrides)
    if read_json(folder / "result.json").get("status") == "done":
        from dltrain.loaded import load_run

        try:
            loaded = load_run(str(folder), overrides)
            loader, _ = loaded.loader("test")
            levels = loaded.fitted.preprocessing.get("levels", 255)
            network = Network(loaded.model, loaded.loss, loaded.facts, levels, loader, loaded.precision)
        except DltrainError as error:
            if overrides:  # which were meant to make it possible
                raise
            note = f"The test part could not be looked at: {error}"
    write_report(tell(folder, network, note=note), out)


def tell(folder: Path, network: Network | None = None, seconds: float | None = None, note: str = "") -> Story:
    """All that is known of the run in ``folder``; the test part is looked at for at most so many ``seconds``."""
    config = read_config(folder)
    result = {"run": str(folder), **read_json(folder / "result.json")}
    facts, names = config.get("data", {}), config.get("data", {}).get("class_names") or []
    matrix, pruned = result.get("confusion_matrix"), str(result.get("pruned", ""))
    return Story(
        name=facts.get("name") or folder.name,
        model=str(config.get("model", {}).get("_target_", "")).rpartition(".")[2],
        kind=facts.get("kind") or "",
        target=network.facts.target_name if network else "",
        result=result,
        environment=read_json(folder / "environment.json"),
        history=history_of(folder),
        config=flat({name: node for name, node in config.items() if name != "data"}),
        changed=changed_from_defaults(folder),
        choices=choices_of(folder),
        class_names=names,
        classes=by_class(matrix, names) if matrix else (),
        # The weights of a pruned job are nobody's choice.
        test=_look(network, seconds) if network and network.test and not pruned else None,
        notes=[one for one in (pruned, note) if one],
    )


def _look(network: Network, seconds: float | None) -> Test:
    """The network on the test part, as far as the time goes."""
    assert network.test is not None
    pairs = ((targets, inputs) for inputs, targets in network.test)
    until = time.monotonic() + seconds if seconds is not None else float("inf")
    targets, outputs = [], []
    for target, output in _until(until, predict(network.model, pairs, network.precision)):
        targets.append(target.cpu())
        outputs.append(output)
    tell_of = _classified if network.facts.task == "classification" else _estimated
    return tell_of(network, torch.cat(outputs), torch.cat(targets))


def _until(end: float, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    for batch in batches:
        yield batch
        if time.monotonic() > end:
            return


def _classified(network: Network, outputs: Tensor, targets: Tensor) -> Test:
    assert network.test is not None
    confidence, predicted = probabilities(outputs, network.loss).max(1)
    wrong = (predicted != targets).nonzero().flatten()
    shown = wrong[confidence[wrong].argsort(descending=True)][:_PICTURES]
    names = network.facts.class_names
    mistakes: list[Mistake] = []
    if network.facts.kind == "image" and len(shown):
        samples = network.test.samples
        images = samples.take(shown.to(network.precision.device) if network.test.resident else shown)[0].cpu()
        if images.dtype == torch.uint8:  # the user's own data may hold anything
            white = (images.float() * (255 / network.levels)).round().clamp(max=255).byte().numpy()
            mistakes = [
                Mistake(image, names[int(targets[row])], names[int(predicted[row])], float(confidence[row]))
                for image, row in zip(white, shown.tolist(), strict=True)
            ]
    return Test(len(targets), len(network.test.samples), mistakes, len(wrong))


def _estimated(network: Network, outputs: Tensor, targets: Tensor) -> Test:
    assert network.test is not None
    facts = network.facts
    predicted, truth = original(outputs, facts), original(targets, facts)
    by_step: list[float] = []
    if facts.kind == "series":
        by_step = (predicted - truth).abs().mean(0).tolist()
        # Windows begin at every step: of those that follow one another without overlap, each step comes once.
        predicted, truth = predicted[:: facts.num_outputs], truth[:: facts.num_outputs]
    values = [np.round(part.flatten().numpy(), 6).tolist() for part in (truth, predicted)]
    return Test(len(targets), len(network.test.samples), truth=values[0], predicted=values[1], errors_by_step=by_step)
