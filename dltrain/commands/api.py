"""dltrain from Python: ``train``, ``load``, ``compose`` and ``check`` do what the command line does.

They print nothing to stdout, raise what the command line would say, and leave the process as it was: its arguments,
environment, import path, signals, logs, random states and threads.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from io import StringIO
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any

from dltrain.commands.evaluate import evaluated, require_split
from dltrain.commands.predict import Broken
from dltrain.commands.train import Request
from dltrain.config.command_line import overrides_of_values, parse_flags
from dltrain.config.earlier import packages_of
from dltrain.config.session import hydra_session, without_hydra
from dltrain.config.translate import explained
from dltrain.errors import ConfigError, DataError, Interrupted, TrainingError, UserError
from dltrain.report.metrics import declared_metrics_restored
from dltrain.runs.find import find_run
from dltrain.runs.record import history_of, read_result
from dltrain.system import answer, process
from dltrain.system.machine import shorten_spin
from dltrain.system.process import process_restored

if TYPE_CHECKING:
    import polars as pl
    from torch import nn

    from dltrain.config import Config
    from dltrain.trained.loaded import Loaded, Split

_ONE_AT_A_TIME = RLock()  # random states, signals and Hydra's state exist once in the process


class Run:
    """A run of training; its network is loaded when it is first used.

    ``path`` is the run folder.
    """

    def __init__(self, path: Path, checkpoint: str, overrides: Sequence[str]):
        self.path = path
        self._checkpoint = checkpoint
        self._overrides = overrides

    def __repr__(self) -> str:
        return f"<dltrain.Run '{self.path}'>"

    @property
    def result(self) -> dict[str, Any]:
        """How it ended, as ``result.json`` has it: ``run.result["test"]["accuracy"]``."""
        return read_result(self.path)

    @property
    def metrics(self) -> "pl.DataFrame":
        """A row an epoch, the columns of ``metrics.csv``: ``epoch``, ``step``, ``lr``, ``train/loss``, ..."""
        import polars as pl

        whole = [pl.col(name).cast(pl.Int64) for name in ("epoch", "step")]
        rows = history_of(self.path)
        return pl.from_dicts(rows, infer_schema_length=None).with_columns(whole) if rows else pl.DataFrame()

    @property
    def model(self) -> "nn.Module":
        """The network with its best weights, in evaluation mode on its device; it takes inputs as the data set's
        ``transform`` leaves them, which :meth:`predict` does by itself."""
        with self._in_use() as loaded:
            return loaded.model

    def evaluate(self, split: "Split | None" = None) -> dict[str, Any]:
        """What ``dltrain evaluate`` answers: ``run.evaluate(split="val")["metrics"]["accuracy"]``.

        Args:
            split: ``train``, ``val``, ``test`` or ``all``; by default the test part, of other data all samples.

        Raises:
            UserError: there is no such part, or other data do not fit the run.
        """
        require_split(split)
        with self._in_use() as loaded:
            return evaluated(loaded, split)

    def predict(self, inputs: Any) -> "pl.DataFrame":
        """What ``dltrain predict`` writes, a row a prediction; without the column ``input`` for inputs without a name.

        Args:
            inputs: a path or a list of paths (files, folders, globs). Of a run on tables or series also a polars or
                pandas frame with the columns of its file. Of a run on images also an array (images, height, width,
                channels) or (images, height, width) uint8, a tensor (images, channels, height, width) uint8, or a list
                of such images of any sizes, which are brought to the size and the channels of the run's images.

        Raises:
            DataError: inputs that cannot be used, all of them: there is an answer for each input, or none.
        """
        from dltrain.system.device import computing_threads, threads_of_run

        with self._in_use() as loaded, computing_threads(threads_of_run(loaded.cfg.trainer.threads)):
            return _predicted(loaded, inputs)

    @cached_property
    def _loaded(self) -> "Loaded":
        from dltrain.trained.loaded import load_run

        return load_run(self._checkpoint, self._overrides, measures=True)

    @contextmanager
    def _in_use(self) -> "Iterator[Loaded]":
        with _called():
            loaded = self._loaded
            if loaded.cfg.trust:  # its classes may be in the working directory
                sys.path.insert(0, os.getcwd())
            yield loaded


def train(overrides: Sequence[str] | str = (), /, **values: Any) -> Run:
    """Train as ``dltrain [overrides]``: ``train(["model=cnn", "optim.lr=0.01"])``, or with values of Python,
    ``train(model="cnn", **{"optim.lr": 0.01})``.

    A signal, or an interrupt of a notebook, ends it at the next step; the state is saved, and
    ``train(resume="auto", **{"hydra.run.dir": ...})`` goes on.

    Raises:
        ConfigError: ``problems`` has everything that is wrong with the configuration.
        UserError: a file that cannot be trained on.
        TrainingError: training failed, for example diverged.
        KeyboardInterrupt: it was interrupted.
    """
    with _called() as answered:
        with _requested(overrides, values) as request:
            if request.cfg.trainer.devices != 1:
                alone = "only the command starts several processes; dltrain.load(RUN) takes up what it has trained"
                raise ConfigError([f"trainer.devices={request.cfg.trainer.devices}: {alone}"])
            trust = packages_of(request.cfg)
            request.run()
        path = json.loads(answered.getvalue())["run"]
    return Run(Path(path), path, overrides_of_values({"trust": trust}))


def load(run: str | os.PathLike[str], overrides: Sequence[str] = (), *, trust: Sequence[str] = ()) -> Run:
    """Take up a run folder or a checkpoint in one, with values of its configuration replaced by ``overrides``.

    Args:
        trust: packages whose code it may run, where it was made with others than dltrain's and torch's.

    Raises:
        UserError: there is no such run, or no network in it that can be read.
        ConfigError: it would run code of packages that are not in ``trust``.
    """
    vouched = overrides_of_values({"trust": [trust] if isinstance(trust, str) else list(trust)}) if trust else []
    loaded = Run(find_run(os.fspath(run))[0].resolve(), os.fspath(run), [*overrides, *vouched])
    with loaded._in_use():
        return loaded


def compose(overrides: Sequence[str] | str = (), /, **values: Any) -> "Config":
    """The configuration that :func:`train` would run, checked; what the data set fills in later is not in it.

    Raises:
        ConfigError: ``problems`` has everything that is wrong with it.
    """
    with _called(), _requested(overrides, values) as request:
        return without_hydra(request.cfg)


def check(overrides: Sequence[str] | str = (), /, **values: Any) -> list[str]:
    """Every problem that :func:`train` would meet before its first step, each a sentence; empty where there is none.

    As ``dltrain check`` does, it reads the data and tries a step once the configuration is in order.
    """
    try:
        with _called(), _requested(overrides, values) as request:
            request.check()
    except UserError as error:
        return list(error.problems)
    return []


@contextmanager
def _requested(overrides: Sequence[str] | str, values: dict[str, Any]) -> Iterator[Request]:
    """The run that is asked for; within, Hydra is as it needs it."""
    arguments = [*([overrides] if isinstance(overrides, str) else overrides), *overrides_of_values(values)]
    with hydra_session():
        flags = parse_flags(arguments)
        if flags.shows or flags.sweeps:
            raise ConfigError(
                ["a sweep, or to show a configuration, is for the command line: dltrain -m, dltrain --cfg"]
            )
        yield Request(flags, arguments)


@contextmanager
def _called() -> Iterator[StringIO]:
    """Within, dltrain works as for a command, whose answer on stdout is yielded; errors are the caller's."""
    if process.is_worker():
        raise UserError("from Python dltrain is for one process: start several with the command, torchrun -m dltrain")
    try:
        with (
            _ONE_AT_A_TIME,
            process_restored(),
            declared_metrics_restored(),
            _torch_as_it_starts(),
            answer.captured() as answered,
        ):
            shorten_spin()
            yield answered
    except Interrupted as error:
        if error.number == signal.SIGINT:
            raise KeyboardInterrupt from error
        signal.raise_signal(error.number)  # to whoever handled it before
        raise
    except SystemExit as error:
        raise TrainingError(f"code that is not dltrain's has called sys.exit({error.code})") from error
    except Exception as error:
        explanation = explained(error)
        if explanation is error:
            raise
        raise explanation from error


@contextmanager
def _torch_as_it_starts() -> Iterator[None]:
    """Within, gradients are computed, and new tensors are float32 on the CPU, whatever the caller has set."""
    torch = sys.modules.get("torch")
    if torch is None:  # nobody can have set anything
        yield
        return
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    with torch.inference_mode(False), torch.enable_grad():
        try:
            torch.set_default_dtype(torch.float32)
            if device.type != "cpu":
                torch.set_default_device(None)
            yield
        finally:
            torch.set_default_dtype(dtype)
            if device.type != "cpu":
                torch.set_default_device(device)


def _predicted(loaded: "Loaded", inputs: Any) -> "pl.DataFrame":
    import polars as pl

    from dltrain.data.inputs import read_inputs, read_values
    from dltrain.trained.loaded import columns_of, predicted_rows

    broken = Broken()
    words = _paths_in(inputs)
    if words is None:
        pieces = read_values(inputs, loaded.fitted, loaded.batch_size, broken.report)
    else:
        pieces, _ = read_inputs(words, loaded.fitted, loaded.batch_size, broken.report)
    rows = [row for piece in pieces for row in predicted_rows(loaded, piece)]
    if broken.inputs:
        raise DataError("\n".join([f"inputs that cannot be used: {len(broken.inputs):,}", *broken.lines()]))
    columns = columns_of(loaded.facts)
    typed = [[kind(value) for value, kind in zip(row, columns.values(), strict=True)] for row in rows]
    frame = pl.DataFrame(typed, schema=columns, orient="row")
    return frame.drop("input") if words is None else frame


def _paths_in(inputs: Any) -> list[str] | None:
    """The names of files, where ``inputs`` are such."""
    if isinstance(inputs, str | os.PathLike):
        return [os.fspath(inputs)]
    if isinstance(inputs, list | tuple) and all(isinstance(word, str | os.PathLike) for word in inputs):
        return list(map(os.fspath, inputs))
    return None
