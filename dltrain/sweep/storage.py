"""Where a study is kept. Imports Optuna."""

import os
import platform
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from dltrain.errors import UserError
from dltrain.extras import install_line


def storage_of(named: str | None, folder: Path) -> Any:
    """Optuna's storage for ``hydra.sweeper.storage``: a database by its URL, or a journal by its path.

    Without a name it is ``study.db`` in the sweep's ``folder``. Processes on several machines may share a database, or
    a journal on a file system that all of them see, NFS included.

    Raises:
        UserError: the database's driver is not installed, or the database cannot be used.
    """
    if named is not None and "://" not in named:
        path = Path(os.path.expanduser(named)).absolute()
        if not path.parent.is_dir():
            raise UserError(f"hydra.sweeper.storage={named}: there is no folder {path.parent}")
        return optuna.storages.JournalStorage(JournalFileBackend(str(path)))
    try:
        return optuna.storages.get_storage(named or f"sqlite:///{folder / 'study.db'}")
    except ImportError as error:
        if named is None:
            raise UserError(f"{error}: {install_line('optuna')}") from error
        raise UserError(f"hydra.sweeper.storage={named}: {error}; install the database's driver") from error
    except Exception as error:  # SQLAlchemy's own, and those of each driver
        raise UserError(f"hydra.sweeper.storage={named}: {str(error).splitlines()[0]}") from error


def place_of(folder: Path) -> str:
    """What tells the machines on one study apart, so that no two of them propose the same."""
    return f"{platform.node()}:{folder}"
