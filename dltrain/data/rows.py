"""Rows of tables and the ends of series to predict from, read in bounded memory."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from dltrain.data.base import Fitted, NamedBatch, Report
from dltrain.data.folders import text_of
from dltrain.data.tables.csv_file import open_csv
from dltrain.data.tables.dialect import Dialect, as_numbers, selected, with_notation
from dltrain.data.tables.encoder import TableEncoder
from dltrain.data.tables.frames import (
    TOO_FAR,
    UNREADABLE,
    is_parquet,
    names_of,
    parquet_values,
    require_columns,
    require_plain,
    too_far,
    unreadable,
)
from dltrain.data.tables.steps import Step
from dltrain.data.tables.times import next_times
from dltrain.errors import DataError

_TIMES = 50  # rows at the end of a series that tell its step
_PARQUET_ROWS = 65_536  # read at a time

Source = Path | pl.DataFrame  # which is read as a Parquet file that holds it


def read_tables(sources: Sequence[Source], fitted: Fitted, batch_size: int, report: Report) -> Iterator[NamedBatch]:
    """Features (batch, features) float32 of the rows of ``sources``, each named by its file and its row from 1."""
    encoder, target = TableEncoder.of(fitted.preprocessing), fitted.facts.target_name
    for source in sources:
        name = _name_of(source)
        try:
            for first, frame in _frames(source, encoder.columns, encoder.dialect, target, batch_size, report):
                encoder = encoder.settled(frame, name)
                typed = encoder.cast(frame)
                bad = encoder.faults(frame, typed)
                for row, cause in sorted(bad.items()):
                    report(f"{name}, row {first[row]}", cause)
                good = [row for row in range(frame.height) if row not in bad]
                if good:
                    yield [(name, first[row]) for row in good], encoder.encode(typed[good])
        except DataError as error:
            report(name, str(error))


def read_last_windows(sources: Sequence[Source], fitted: Fitted, report: Report) -> Iterator[NamedBatch]:
    """The last window of each series (1, steps, features) float32, named by its file and the times that follow it."""
    stored, window = fitted.preprocessing, fitted.facts.input_shape[0]
    dialect = Dialect.of(stored)
    time: str | None = stored["time"]
    step = Step(**stored["step"]) if stored.get("step") else None  # earlier versions have left none
    columns: list[str] = stored["columns"]
    wanted = list(dict.fromkeys([*columns, *([time] if time else [])]))
    for source in sources:
        name = _name_of(source)
        try:
            tail, rows = _tail(source, wanted, dialect, max(window, _TIMES))
            written = with_notation(dialect, tail, name)
            values = _window(tail.tail(window), columns, window, name, written)
            for place, (mean, std) in enumerate(zip(stored["mean"], stored["std"], strict=True)):
                if len(beyond := too_far(values[:, place], mean, std)):
                    row, value = rows - window + int(beyond[0]) + 1, values[beyond[0], place]
                    raise DataError(f"'{name}', column '{columns[place]}', row {row}: {value:g} {TOO_FAR}")
            times: list[Any] = list(range(rows + 1, rows + fitted.facts.num_outputs + 1))
            if time:
                layout, first = stored.get("time_layout", ""), rows - tail.height + 1
                times = next_times(tail[time], len(times), name, layout, step, written, first)
            scaled = ((values - np.array(stored["mean"])) / np.array(stored["std"])).astype(np.float32)
            yield [(name, times)], torch.from_numpy(scaled).unsqueeze(0)
        except DataError as error:
            report(name, str(error))


def as_source(frame: Any) -> Source:
    """A path or a frame of polars', collected if it is lazy; one of pandas' with nulls for what it takes as missing."""
    if isinstance(frame, Path | pl.DataFrame):
        return frame
    if isinstance(frame, pl.LazyFrame):
        return frame.collect()
    plain = frame.astype(object).where(frame.notna(), None)  # polars would need pyarrow for it
    return pl.DataFrame({str(name): plain.iloc[:, place].tolist() for place, name in enumerate(plain.columns)})


def _name_of(source: Source) -> str:
    return "the frame" if isinstance(source, pl.DataFrame) else text_of(source)


def _tail(source: Source, columns: Sequence[str], dialect: Dialect, count: int) -> tuple[pl.DataFrame, int]:
    """The last ``count`` rows of a file, and how many it has."""

    def refuse(name: str, cause: str) -> None:
        raise DataError(f"{name}: {cause}; a series must not have gaps")

    tail, last = pl.DataFrame(), 0
    for numbers, frame in _frames(source, columns, dialect, "", max(count, 1024), refuse):
        tail, last = pl.concat([tail, frame] if tail.width else [frame]).tail(count), numbers[-1]
    if not tail.width:
        raise DataError(f"'{_name_of(source)}' has no rows")
    return tail, last


def _window(tail: pl.DataFrame, columns: Sequence[str], window: int, path: str, dialect: Dialect) -> np.ndarray:
    if tail.height < window:
        raise DataError(f"'{path}' has {tail.height} rows; the run reads {window} to forecast what follows")
    numbers = [as_numbers(tail[name], dialect) for name in columns]
    for column in numbers:
        if column.null_count():
            value = tail[column.name][int(column.is_null().arg_true()[-1])]
            cause = "no value" if value is None else f"'{value}', which is no finite number,"
            raise DataError(f"'{path}', column '{column.name}': {cause} among the last {window} rows")
    return np.stack([column.to_numpy() for column in numbers], 1)


def _frames(
    source: Source, columns: Sequence[str], dialect: Dialect, target: str, size: int, report: Report
) -> Iterator[tuple[list[int], pl.DataFrame]]:
    """``columns`` of at most ``size`` rows at a time, with the numbers of the rows, from 1 below the header.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    name = _name_of(source)
    if isinstance(source, Path) and not is_parquet(source):
        blocks = _csv_blocks(source, dialect, target, report)
    else:
        blocks = _typed_blocks(source, columns, dialect)
    try:
        for numbers, block in blocks:
            require_columns(block, columns, name, "columns of the run")
            part = selected(block, columns)
            for offset in range(0, block.height, size):
                yield numbers[offset : offset + size], part[offset : offset + size]
    except UNREADABLE as error:
        raise unreadable(name, error) from error


def _typed_blocks(source: Source, columns: Sequence[str], dialect: Dialect) -> Iterator[tuple[list[int], pl.DataFrame]]:
    """Rows of a Parquet file or a frame."""
    name = _name_of(source)
    if isinstance(source, Path) and name != str(source):
        raise DataError(f"'{name}': the name of a Parquet file must be UTF-8 text; rename it")
    lazy = source.lazy() if isinstance(source, pl.DataFrame) else pl.scan_parquet(source)
    require_columns(pl.DataFrame(schema=lazy.collect_schema()), columns, name, "columns of the run")
    height = int(lazy.select(pl.len()).collect().item())
    for start in range(0, height, _PARQUET_ROWS):
        block = parquet_values(lazy.select(columns).slice(start, _PARQUET_ROWS).collect(), dialect)
        for column in block.get_columns():
            require_plain(column, name)
        yield list(range(start + 1, start + 1 + block.height)), block


def _csv_blocks(path: Path, dialect: Dialect, target: str, report: Report) -> Iterator[tuple[list[int], pl.DataFrame]]:
    def refuse(row: int, line: int, fault: str) -> None:
        report(f"{text_of(path)}, row {row}", fault)

    names, frames = open_csv(path, dialect, refuse)
    names = names_of(names, dialect, path, target)
    empty: list[int] = []  # rows without any value: those at the end of a file do not count
    for numbers, frame in frames:
        filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series().to_list()
        kept: list[int] = []
        for place, (number, has_value) in enumerate(zip(numbers, filled, strict=True)):
            if not has_value:
                empty.append(number)
                continue
            for row in empty:
                report(f"{text_of(path)}, row {row}", "no value in any column")
            empty = []
            kept.append(place)
        frame.columns = names
        yield [numbers[place] for place in kept], frame[kept]
