"""Weights & Biases runs, online or offline."""

import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dltrain.system.extras import require_extras


class WandbLogger:
    """Logs the configuration and every metric over epochs.

    Args:
        project: the project on the server.
        mode: ``offline`` writes into ``<run>/wandb``, to be sent later with ``wandb sync``; ``online`` needs a login.
    """

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        history: Sequence[Mapping[str, float]] = (),
        project: str = "dltrain",
        mode: str = "offline",
    ):
        require_extras(["wandb"], "wandb", "logger=wandb")
        import wandb

        note = folder / "wandb" / "run_id"
        if not (history and note.exists()):  # a resumed run goes on with its W&B run
            note.parent.mkdir(exist_ok=True)
            note.write_text(secrets.token_hex(8))
        self._run = wandb.init(
            project=project,
            name=folder.name,
            id=note.read_text(),
            resume="allow" if history else None,
            dir=folder,
            config=dict(config),
            mode=mode,  # type: ignore[arg-type]  # wandb names the values as a Literal
            settings=wandb.Settings(silent=True, console="off"),
            reinit="create_new",  # several runs in one process stay apart
        )

    def log(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def close(self, result: Mapping[str, float]) -> None:
        self._run.summary.update(dict(result))
        self._run.finish(0 if result else 1)
