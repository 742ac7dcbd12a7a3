"""A file of rows as cells of text that know their line: what every reader starts from."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import polars as pl

from lorapack.errors import InputError, nearest_name

LINE = "lorapack line"
"""The column that holds each row's place: its line, or in Parquet its row."""

_NUMBER = r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$"
_ZONE = r"([-+]\d\d:\d\d)$"


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of a file.

    Attributes:
        file: The file, for errors.
        frame: Columns as found (text from CSV), plus :data:`LINE`.
        row_word: What :data:`LINE` counts: ``line`` or ``row``.
    """

    file: str
    frame: pl.DataFrame
    row_word: str = "line"

    @property
    def columns(self) -> list[str]:
        """Names of the columns in the file."""
        return [name for name in self.frame.columns if name != LINE]

    def need(self, names: Iterable[str]) -> None:
        """Refuses a table that lacks a column.

        Args:
            names: Columns that must be there.

        Raises:
            InputError: One is missing; those present are listed.
        """
        for name in names:
            if name not in self.columns:
                near = nearest_name(name, self.columns)
                hint = f", or say which it is (is it {near}?)" if near else ""
                present = ", ".join(self.columns)
                raise InputError(self.file, "columns", present, f"add column {name}{hint}")

    def numbers(self, name: str) -> pl.Series:
        """A column as finite Float64.

        Args:
            name: The column.

        Returns:
            Its numbers.

        Raises:
            InputError: A cell is no finite number; the first is named.
        """
        cells = self.frame[name]
        numbers: pl.Series
        if cells.dtype == pl.String:
            # Polars takes "inf" and "nan"; the pattern does not.
            found = cells.str.contains(_NUMBER)
            numbers = cells.str.strip_chars().cast(pl.Float64, strict=False)
            good = found.fill_null(value=False) & numbers.is_not_null() & numbers.is_finite()
        elif cells.dtype.is_numeric():
            numbers = cells.cast(pl.Float64)
            good = numbers.is_not_null() & numbers.is_finite()
        else:
            numbers, good = cells, pl.Series([False] * len(cells), dtype=pl.Boolean)
        self.refuse(name, ~good.fill_null(value=False), "give a finite number")
        return numbers

    def tokens(self, name: str, *, at_least: int = 1) -> pl.Series:
        """A column as whole numbers of tokens.

        Args:
            name: The column.
            at_least: The smallest allowed.

        Returns:
            Int64.

        Raises:
            InputError: A cell is no such number; the first is named.
        """
        numbers = self.numbers(name)
        wrong = (numbers < at_least) | (numbers != numbers.floor()) | (numbers > 2**31)
        self.refuse(name, wrong, f"give a whole number of tokens, {at_least} or more")
        whole: pl.Series = numbers.cast(pl.Int64)
        return whole

    def seconds(self, name: str) -> pl.Series:
        """A column of times, as seconds: numbers are seconds already, dates count from 1970.

        Args:
            name: The column.

        Returns:
            Float64 (of dates, exact to the nanosecond only after subtracting: see ``moments``).

        Raises:
            InputError: A cell is neither.
        """
        cells = self.frame[name]
        dated = cells.dtype.is_temporal() or (
            cells.dtype == pl.String and len(cells) > 0 and str(cells[0] or "").strip()[4:5] == "-"
        )
        return self.moments(name) if dated else self.numbers(name)

    def moments(self, name: str) -> pl.Series:
        """A column of dates (up to 9 digits of a second, with or without zone) from the first on.

        Args:
            name: The column.

        Returns:
            Seconds since the earliest of them, Float64.

        Raises:
            InputError: A cell is no such date.
        """
        cells = self.frame[name]
        if cells.dtype.is_temporal():
            times = cells.cast(pl.Datetime("ns"))
        else:
            text = cells.cast(pl.String).str.strip_chars().str.replace("T", " ", literal=True)
            text = text.str.replace("(Z| UTC)$", "+00:00")
            plain = text.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="ns", strict=False)
            zoned = text.filter(text.str.contains(_ZONE).fill_null(value=False))
            if len(zoned) > 0:
                with_zone = text.str.to_datetime(
                    "%Y-%m-%d %H:%M:%S%.f%:z", time_unit="ns", strict=False
                )
                plain = plain.fill_null(with_zone.dt.replace_time_zone(None))
            times = plain
        self.refuse(name, times.is_null(), "give a date such as 2023-11-16 18:15:46.680")
        nanoseconds = times.cast(pl.Int64)
        since_first: pl.Series = (nanoseconds - nanoseconds.min()) / 1e9
        return since_first

    def texts(self, name: str) -> pl.Series:
        """A column as text, blanks as null.

        Args:
            name: The column.

        Returns:
            String.
        """
        cells = self.frame[name]
        text: pl.Series = cells.cast(pl.String).str.strip_chars().replace("", None)
        return text

    def refuse(self, name: str, wrong: pl.Series, mend: str) -> None:
        """Raises for the first row that is wrong.

        Args:
            name: The column to blame.
            wrong: One boolean a row.
            mend: What to write instead.

        Raises:
            InputError: Any row is wrong.
        """
        first = wrong.arg_max() if wrong.any() else None
        if first is not None:
            found = self.frame[name][first]
            place = f"{self.row_word} {self.frame[LINE][first]}, column {name}"
            raise InputError(self.file, place, "" if found is None else found, mend)


def read_table(path: str | os.PathLike[str], keys: Sequence[str] = ()) -> Table:
    """Reads CSV, JSONL or Parquet, plain or gzipped, into cells.

    Args:
        path: The file; its suffix (before ``.gz``) says which.
        keys: Of JSONL, the keys wanted (others may hold long lists); all when empty.

    Returns:
        The table, with at least one row.

    Raises:
        InputError: The file cannot be read, is empty, cut short, or not what its suffix says.
    """
    file = os.fspath(path)
    content = _content(file)
    named = Path(path)
    kind = (named.with_suffix("") if named.suffix.lower() == ".gz" else named).suffix.lower()
    if kind in (".jsonl", ".ndjson"):
        table = _jsonl(file, content, keys)
    elif kind == ".parquet":
        table = _parquet(file, content)
    elif kind in (".csv", ".txt"):
        table = _csv(file, content)
    else:
        raise InputError(file, "name", kind, "a trace is .csv, .jsonl or .parquet (or .csv.gz)")
    if table.frame.height == 0:
        raise InputError(file, None, None, "holds no request: add rows")
    return table


def _content(file: str) -> bytes:
    try:
        content = Path(file).read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except EOFError as error:
        raise InputError(file, None, None, "is cut short: fetch it again") from error
    except OSError as error:
        mend = f"cannot be read: {error.strerror or error}"
        raise InputError(file, None, None, mend) from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise InputError(file, None, None, "is empty: give a header line and rows")
    return content


def _csv(file: str, content: bytes) -> Table:
    content = content.replace(b"\r\n", b"\n")
    skipped = 0
    while content.startswith(b"#"):
        skipped += 1
        content = content.partition(b"\n")[2]
    try:
        frame = pl.read_csv(io.BytesIO(content), infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise _csv_fault(file, content, skipped, error) from error
    frame = frame.rename({name: name.strip() for name in frame.columns})
    lined = frame.with_row_index(LINE, offset=skipped + 2)
    return Table(file, lined.filter(~pl.all_horizontal(pl.exclude(LINE).is_null())))


def _csv_fault(file: str, content: bytes, skipped: int, error: Exception) -> InputError:
    """Where a CSV that Polars refuses is damaged: its own message does not say the line."""
    try:
        text = content.decode()
    except UnicodeDecodeError as bad:
        line = skipped + content.count(b"\n", 0, bad.start) + 1
        value = content[bad.start : bad.start + 4]
        return InputError(file, f"line {line}", value, "save the file as UTF-8")
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    width = 0
    try:
        for row in rows:
            width = width or len(row)
            if len(row) > width:
                place = f"line {skipped + rows.line_num}"
                return InputError(file, place, ",".join(row), f"give {width} cells, not {len(row)}")
    except csv.Error as bad_quotes:
        place = f"line {skipped + rows.line_num}"
        return InputError(file, place, None, f"mend the CSV: {bad_quotes}")
    return InputError(file, None, None, f"mend the CSV: {str(error).splitlines()[0]}")


def _jsonl(file: str, content: bytes, keys: Sequence[str]) -> Table:
    wanted = set(keys)
    rows: list[dict[str, object]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            mend = f"mend the JSON: {error}"
            raise InputError(file, f"line {number}", repr(line[:60]), mend) from error
        if not isinstance(found, dict):
            raise InputError(file, f"line {number}", found, "give one JSON object a line")
        row = {key: value for key, value in found.items() if not wanted or key in wanted}
        rows.append({**row, LINE: number})
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _json_column([row.get(name) for row in rows]) for name in names}
    return Table(file, pl.DataFrame(columns, schema_overrides={LINE: pl.Int64}))


def _json_column(cells: list[object]) -> pl.Series:
    """Numbers as numbers when all are; anything else as text that will be refused as such."""
    kinds = set(map(type, cells)) - {type(None)}
    if kinds <= {int, float}:
        with suppress(OverflowError):  # a whole number beyond floats
            return pl.Series(
                [None if cell is None else float(cell) for cell in cells],  # type: ignore[arg-type]
                dtype=pl.Float64,
            )
    texts = [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]
    return pl.Series(texts, dtype=pl.String)


def _parquet(file: str, content: bytes) -> Table:
    try:
        frame = pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        mend = f"write the Parquet file again, it is damaged or cut short ({reason})"
        raise InputError(file, None, f"{len(content)} bytes", mend) from error
    return Table(file, frame.with_row_index(LINE, offset=1), "row")
