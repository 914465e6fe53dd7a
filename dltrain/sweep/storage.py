"""Where a study is kept. Imports Optuna."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages.journal import JournalFileBackend

from dltrain.errors import DltrainError, UserError
from dltrain.system.extras import install_line


def storage_of(named: str | None, folder: Path) -> Any:
    """Optuna's storage for ``hydra.sweeper.storage``: a database by its URL, or a journal by its path.

    Without a name it is ``study.db`` in the sweep's ``folder``. Processes on several machines may share a database, or
    a journal on a file system that all of them see, NFS included.

    Raises:
        UserError: the database's driver is not installed, or the database or file cannot be used.
    """
    with readable(place_in(named, folder)):
        return _storage_of(named, folder)


def place_in(named: str | None, folder: Path) -> str:
    """What :func:`storage_of` reads, in words."""
    return f"'{folder / 'study.db'}'" if named is None else f"hydra.sweeper.storage={named}"


@contextmanager
def readable(place: str) -> Iterator[None]:
    """Within, whatever keeps a study from being read is told of ``place``."""
    try:
        yield
    except (DltrainError, ImportError):
        raise
    except Exception as error:  # SQLAlchemy's own, those of each driver, and what a file raises that is no journal
        told = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{place} holds no study that can be used: {told}") from error


def _storage_of(named: str | None, folder: Path) -> Any:
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


def place_of(folder: Path) -> str:
    """What tells the machines on one study apart, so that no two of them propose the same."""
    return f"{platform.node()}:{folder}"
