"""The end of a sweep: what it says on stdout, and its exit code. Imports no torch."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from dltrain.run import finite
from dltrain.sweep.ledger import Ledger, is_sweep
from dltrain.sweep.outcome import Outcome, outcome


class Finish(Callback):
    """Hydra's callback behind the last job: shows the outcome, and leaves with 1 unless all jobs are done."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(str(config.hydra.sweep.dir)).absolute()
        if not is_sweep(folder):  # another launcher than ours
            return
        found = outcome(Ledger(folder))
        show(found)
        if found.ledger.count("done") < len(found.ledger.jobs):
            sys.exit(1)


def show(found: Outcome) -> None:
    """One line of JSON, or a table on a terminal."""
    if not sys.stdout.isatty():
        print(json.dumps(finite(found.summary())), flush=True)
        return
    from dltrain.sweep.table import print_outcome

    print_outcome(found)
