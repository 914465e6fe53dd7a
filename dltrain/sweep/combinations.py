"""Every combination of values, as Hydra's own sweeper makes them. Imports no torch."""

from collections.abc import Sequence

from hydra.core.plugins import Plugins

Plugins.instance()  # imports all plugins, and anew what was imported before: not the class that is inherited from
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper  # noqa: E402


class Combinations(BasicSweeper):
    """Leaves composing to the launcher, which composes each job once, and goes on behind one that is wrong."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Hydra's composes every job for this, and raises at the first that cannot be."""
