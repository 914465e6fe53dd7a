"""The end of a sweep. Imports no torch."""

import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dltrain.answer import on_terminal, print_json
from dltrain.sweep.ledger import is_sweep


class Finish(Callback):
    """Hydra's callback behind the last job: says what won, and leaves with 1 unless all jobs are done."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        from dltrain.commands.sweep import finish_sweep

        folder = Path(str(config.hydra.sweep.dir)).absolute()
        # Another launcher than ours keeps no ledger, and a search that finds its trials done starts none.
        is_ours = str(config.hydra.launcher._target_).startswith("hydra_plugins.dltrain.")
        if not (is_ours or is_sweep(folder)):
            if not on_terminal():
                print_json({"status": "done", "sweep": str(folder)})
        elif not finish_sweep(folder):
            sys.exit(1)
