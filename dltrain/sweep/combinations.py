"""Every combination of values, as Hydra's basic sweeper makes them. Imports no torch."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from dltrain.config import sweeps


class Combinations(Sweeper):
    """Passes jobs to the launcher ``max_batch_size`` at a time; the launcher composes them.

    Hydra's sweeper composes every job beforehand, raises at the first that is wrong, and keeps the last of several
    dictionaries of a key, where a single run takes all.
    """

    config: DictConfig
    context: HydraContext

    def __init__(self, max_batch_size: int | None = None, params: Mapping[str, Any] | None = None):
        self.max_batch_size = max_batch_size
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what Hydra passes."""
        self.config = config
        self.context = hydra_context
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Sequence[Any]]:
        """Launch every combination; returns the launcher's answers to each batch."""
        texts = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        batches = self.batches(OverridesParser.create(self.context.config_loader).parse_overrides(texts))
        OmegaConf.save(self.config, Path(self.config.hydra.sweep.dir) / "multirun.yaml")
        answers = []
        begun = 0
        for batch in batches:
            answers.append(self.launcher.launch(batch, initial_job_idx=begun))
            for answer in answers[-1]:
                _ = answer.return_value  # raises what has ended a job of another launcher
            begun += len(batch)
        return answers

    def batches(self, overrides: list[Any]) -> list[list[list[str]]]:
        """The jobs, each a list of overrides, in batches."""
        jobs = [list(job) for job in itertools.product(*sweeps.choices(overrides))]
        size = self.max_batch_size or max(len(jobs), 1)
        return [jobs[start : start + size] for start in range(0, max(len(jobs), 1), size)]
