"""Every combination of values, as Hydra's own sweeper makes them. Imports no torch."""

import itertools
from collections.abc import Sequence

from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins

from dltrain.config import sweeps

Plugins.instance()  # imports all plugins, and anew what was imported before: not the class that is inherited from
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402


class Combinations(BasicSweeper):
    """Leaves composing to the launcher, which composes each job once, and goes on behind one that is wrong."""

    @staticmethod
    def split_arguments(overrides: list[Override], max_batch_size: int | None) -> list[list[list[str]]]:
        """Jobs in batches. Hydra's keeps the last of several dictionaries of a key, where a single run takes all."""
        jobs = [list(job) for job in itertools.product(*sweeps.choices(overrides))]
        size = max_batch_size or max(len(jobs), 1)
        return [jobs[start : start + size] for start in range(0, max(len(jobs), 1), size)]

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Hydra's composes every job for this, and raises at the first that cannot be."""
