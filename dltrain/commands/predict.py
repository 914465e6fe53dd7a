"""``dltrain predict``: predict from new inputs with the network of a run.

Predictions go to a file as they come, CSV, JSON lines or Parquet, which is there once it is whole.
"""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from dltrain.commands.arguments import inputs_of, run_of, take_keys
from dltrain.errors import DataError, DltrainError, UserError, in_one_line
from dltrain.runs.find import path_of
from dltrain.system import process
from dltrain.system.answer import give, on_terminal, print_json, stdout
from dltrain.system.files import written_whole
from dltrain.system.log import can_redraw, log_to
from dltrain.trained.launch.start import launched

log = logging.getLogger(__name__)

_SHOWN = 20  # rows, on a terminal
_LISTED = 10  # broken inputs, in a message
_SUFFIXES = (".csv", ".jsonl", ".parquet")
_USAGE = "dltrain predict RUN INPUT... [out=FILE]"

Write = Callable[[Sequence[Any]], object]  # takes a row


def predict(arguments: Sequence[str]) -> None:
    """Predict from files; rows go to ``out``, or to stdout.

    Raises:
        UserError: the run or an input cannot be used at all.
        DltrainError: some inputs were broken; the others were predicted.
    """
    words, given = take_keys(arguments, ["out"])
    run, words = run_of(words, _USAGE)
    inputs, overrides = inputs_of(words)
    if not inputs:
        raise UserError(f"there is nothing to predict from: {_USAGE}")
    out = path_of(given["out"]) if "out" in given else None
    if out:
        require_writable(out)
    if launched("predict", arguments, overrides):
        return
    _predict(run, inputs, overrides, out)


def _predict(run: str, inputs: Sequence[str], overrides: Sequence[str], out: Path | None) -> None:
    from dltrain.data.inputs import is_stream, read_inputs
    from dltrain.distributed.rendezvous import join_group
    from dltrain.system.device import computing_threads, threads_of_run
    from dltrain.trained.loaded import load_run

    log_to(None, speaks=process.rank() == 0)
    if process.size() > 1 and any(map(is_stream, inputs)):
        raise UserError("several processes cannot read from one pipe: write it to a file, or trainer.devices=1")
    loaded = load_run(run, overrides)
    broken = Broken()
    threads = computing_threads(threads_of_run(loaded.cfg.trainer.threads))  # as in training, so with the same bits
    with threads, join_group(loaded.precision.device) as process_group:
        pieces, files = read_inputs(inputs, loaded.fitted, loaded.batch_size, broken.report)
        rows = _rows(loaded, pieces, broken, process_group)
        if process_group.is_main:
            _write(loaded, rows, broken, files if loaded.facts.kind == "image" else None, out)
        else:
            for _ in rows:
                pass


def _write(loaded: Any, rows: Iterator[list[Any]], broken: "Broken", total: int | None, out: Path | None) -> None:
    """Write the rows as they come, with a progress bar of ``total`` files where that is known."""
    from dltrain.trained.loaded import columns_of

    columns = columns_of(loaded.facts)
    shown: list[list[Any]] = []
    count = 0
    with _progress(total) as advance:
        first = next(rows, None)
        if first is None:
            raise DataError(broken.summary("predicted"))
        broken.log_from_now_on()
        with _output(out, columns) as write:
            for count, row in enumerate(chain([first], rows), 1):
                write(row)
                advance(1)
                shown += [row] if count <= _SHOWN else []
    if on_terminal():
        from dltrain.commands.tables import show_predictions

        show_predictions(list(columns), shown, count, out)
    elif out:
        answer = {"status": "done", "run": str(loaded.folder), "checkpoint": str(loaded.checkpoint), "out": str(out)}
        print_json({**answer, "rows": count, "broken": [name for name, _ in broken.inputs]})
    if broken.inputs:
        raise DltrainError(f"broken inputs left out: {len(broken.inputs):,}; rows predicted: {count:,}")


class Broken:
    """Inputs that cannot be read; they are logged once it is certain that there are others."""

    def __init__(self) -> None:
        self.inputs: list[tuple[str, str]] = []
        self._log = False
        self._taken = 0

    def take(self) -> list[tuple[str, str]]:
        """Return those that were reported since the last call."""
        new, self._taken = self.inputs[self._taken :], len(self.inputs)
        return new

    def report(self, name: str, cause: str) -> None:
        self.inputs.append((name, cause))
        if self._log:
            self._warn(name, cause)

    def log_from_now_on(self) -> None:
        self._log = True
        for name, cause in self.inputs:
            self._warn(name, cause)

    def _warn(self, name: str, cause: str) -> None:
        log.warning("%s", in_one_line(f"{name}: {cause}"))

    def summary(self, done: str) -> str:
        """Return the message for inputs of which none can be ``done``: predicted, for example."""
        return "\n".join([f"nothing can be {done}:", *self.lines()]) if self.inputs else "the inputs have no rows"

    def lines(self) -> list[str]:
        """Return a line for each of the first, with its cause, and how many more there are."""
        lines = [in_one_line(f"{name}: {cause}") for name, cause in self.inputs[:_LISTED]]
        more = len(self.inputs) - len(lines)
        return [*lines, f"and {more} more"] if more else lines


def _rows(loaded: Any, pieces: Iterator[Any], broken: Broken, process_group: Any) -> Iterator[list[Any]]:
    """Yield the rows of all pieces in order, in rank 0; each of n processes computes every n-th piece."""
    from dltrain.trained.loaded import predicted_rows

    rank, size = process_group.rank, process_group.size
    for together in iter(lambda: list(islice(pieces, size)), []):
        computed = list(predicted_rows(loaded, together[rank])) if rank < len(together) else []
        for sender, (rows, inputs) in enumerate(process_group.gather((computed, broken.take()))):
            if sender > 0 and loaded.facts.kind == "image":  # of tables all processes have read all
                for name_and_cause in inputs:
                    broken.report(*name_and_cause)
            yield from rows
        broken.take()


@contextmanager
def _output(out: Path | None, columns: dict[str, type]) -> Iterator[Write]:
    """Open what takes the rows: the file ``out``, or stdout unless it is a terminal."""
    if out:
        with writing(out, columns) as write:
            yield write
    elif on_terminal():
        yield lambda row: None
    else:
        give()  # before the header: a line of JSON after it would be a row
        yield csv_writer(stdout(), columns)


@contextmanager
def _progress(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr where that is a terminal; yields a function that takes how many more samples are done."""
    if not can_redraw():
        yield lambda count: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from dltrain.system.console import Console

    columns = (TextColumn("predicting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda count: progress.advance(task, count)


def csv_writer(file: TextIO, columns: Mapping[str, type]) -> Write:
    """Write the header; returns a function that writes a row."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    return writer.writerow


def _json_writer(file: TextIO, columns: Mapping[str, type]) -> Write:
    def write(row: Sequence[Any]) -> None:
        file.write(json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) + "\n")

    return write


@contextmanager
def writing(path: Path, columns: Mapping[str, type]) -> Iterator[Write]:
    """Within, rows may be written to ``path``, whose suffix decides the format; an error leaves no file.

    Raises:
        UserError: another suffix, or the file cannot be written.
    """
    require_writable(path)
    try:
        with written_whole(path) as text:
            with open(text, "w", newline="", encoding="utf-8") as file:
                yield (_json_writer if path.suffix == ".jsonl" else csv_writer)(file, columns)
            if path.suffix == ".parquet":
                with written_whole(text) as whole:
                    _to_parquet(text, whole, columns)
    except OSError as error:
        raise UserError(f"'{path}' cannot be written: {error}") from error


def require_writable(path: Path) -> None:
    """Raise :class:`UserError` for a file of another format than those above, or in a folder that does not exist."""
    if path.suffix not in _SUFFIXES:
        raise UserError(f"out={path} must end with {', '.join(_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise UserError(f"out={path}: there is no folder '{path.parent}'")


def _to_parquet(text: Path, path: Path, columns: Mapping[str, type]) -> None:
    """By way of CSV, because a Parquet file can only be written as a stream from a source that polars reads itself."""
    import polars as pl

    types = {str: pl.String, int: pl.Int64, float: pl.Float64}
    pl.scan_csv(text, schema={name: types[kind] for name, kind in columns.items()}).sink_parquet(path)
