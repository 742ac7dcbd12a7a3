"""Rows become adapters: CSV, Parquet, JSON and TOML, each error with its file, place and mend.

Every format becomes a :class:`RawFleet` (columns of cells, and a word for where each cell stands);
:func:`checked` then does the same for all: known columns, cells of the right kind within limits, no
name twice. It works a column at a time, so that 100,000 adapters take about a second.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from lorapack.errors import InputError, did_you_mean, nearest_name
from lorapack.fleet.adapter import (
    COLUMN,
    COLUMNS,
    Column,
    assemble,
    fault_of_lengths,
    well_formed,
)
from lorapack.fleet.fleet import Fleet
from lorapack.fleet.peft_adapter import read_peft_adapter

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FORMATS = (".csv", ".parquet", ".json", ".toml")
"""Suffixes of the files a fleet is read from and written to."""

PROVENANCE_KEY = "lorapack.provenance"
"""Where a Parquet file keeps the provenance, as JSON."""


@dataclass(frozen=True)
class RawFleet:
    """Columns of cells as they were found.

    Attributes:
        file: The file, for errors.
        columns: Name -> cells; CSV's are text, the others' of any type; ``None`` is blank.
        header: Where the column names stand, for errors.
        place: Where a cell stands, from the row's index and the column's name.
        provenance: The header's rule.
    """

    file: str
    columns: Mapping[str, list[object]]
    header: str
    place: Callable[[int, str], str]
    provenance: Mapping[str, str] = field(default_factory=dict)


def read_fleet(path: str | os.PathLike[str], *, need_rates: bool = True) -> Fleet:
    """Reads a fleet; see :meth:`Fleet.read`.

    Args:
        path: ``.csv``, ``.parquet``, ``.json`` or ``.toml``.
        need_rates: Whether the column ``rate_rps`` must be there.

    Returns:
        The fleet, in the file's order.

    Raises:
        InputError: Anything in it cannot be used.
    """
    file = os.fspath(path)
    form = _FORMS.get(Path(path).suffix.lower())
    if form is None:
        raise InputError(file, "name", Path(path).suffix, f"a fleet is one of {', '.join(FORMATS)}")
    content = file_bytes(file)
    if not content.strip():
        raise InputError(file, None, None, "is empty: give at least a header line and an adapter")
    raw = _with_ranks(form(file, content))
    if not need_rates and "rate_rps" not in raw.columns:
        blank: list[object] = [0.0] * len(next(iter(raw.columns.values()), []))
        raw = replace(raw, columns={**raw.columns, "rate_rps": blank})
    return checked(raw)


def file_bytes(file: str) -> bytes:
    """A file's bytes.

    Args:
        file: Its path.

    Returns:
        All of them.

    Raises:
        InputError: It cannot be read.
    """
    try:
        return Path(file).read_bytes()
    except OSError as error:
        mend = f"cannot be read: {error.strerror or error}"
        raise InputError(file, None, None, mend) from error


def utf8_text(file: str, content: bytes) -> str:
    """Bytes as text, without the byte order mark some editors write.

    Args:
        file: Where they are from, for the error.
        content: All of the file.

    Returns:
        The text.

    Raises:
        InputError: The bytes are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # Lines are counted up to the bad byte, which is where an editor would show it.
        line = content.count(b"\n", 0, error.start) + 1
        bad = content[error.start : error.start + 4]
        raise InputError(file, f"line {line}", bad, "save the file as UTF-8") from error


def checked(raw: RawFleet) -> Fleet:
    """Turns raw columns into a fleet, or says what is wrong first.

    Args:
        raw: Columns of cells.

    Returns:
        The fleet.

    Raises:
        InputError: A column is unknown or missing, a cell cannot be used, a name stands twice.
    """
    _check_columns(raw)
    n_rows = len(next(iter(raw.columns.values())))
    if n_rows == 0:
        raise InputError(raw.file, None, None, "holds no adapter: add a row for each")
    columns = {name: _cells(raw, COLUMN[name], cells) for name, cells in raw.columns.items()}
    _check_names(raw, columns["adapter"])
    adapters = assemble(columns)
    if "lengths" in columns or "prompt_sigma" in columns or "output_sigma" in columns:
        for index, adapter in enumerate(adapters):
            found = fault_of_lengths(adapter)
            if found is not None:
                name, value, mend = found
                raise InputError(raw.file, raw.place(index, name), value, mend)
    return Fleet(adapters, raw.provenance)


def _with_ranks(raw: RawFleet) -> RawFleet:
    """Fills ranks left blank from the adapters' own folders, named relative to the fleet's file."""
    paths = raw.columns.get("path")
    if paths is None:
        return raw
    ranks = list(raw.columns.get("rank", [None] * len(paths)))
    for index, (rank, path) in enumerate(zip(ranks, paths, strict=True)):
        if rank is None and isinstance(path, str):
            try:
                ranks[index] = read_peft_adapter(Path(raw.file).parent / path).rank
            except InputError as error:
                mend = f"give the rank, or a PEFT folder to read it from ({error})"
                raise InputError(raw.file, raw.place(index, "path"), path, mend) from error
    return replace(raw, columns={**raw.columns, "rank": ranks})


def _check_columns(raw: RawFleet) -> None:
    present = list(raw.columns)
    unknown = [name for name in present if name not in COLUMN]
    for column in COLUMNS:
        if column.required and column.name not in raw.columns:
            near = nearest_name(column.name, unknown)
            mend = f"add column {column.name}" + (f", or rename {near} to it" if near else "")
            raise InputError(raw.file, raw.header, ", ".join(present), mend)
    for name in unknown:
        raise InputError(
            raw.file, raw.header, name, f"unknown column: {did_you_mean(name, COLUMN)}"
        )


def _check_names(raw: RawFleet, names: Sequence[object]) -> None:
    first: dict[object, int] = {}
    for index, name in enumerate(names):
        earlier = first.setdefault(name, index)
        if earlier != index:
            place, before = raw.place(index, "adapter"), raw.place(earlier, "adapter")
            raise InputError(raw.file, place, name, f"stands in {before} too: name each once")


def _cells(raw: RawFleet, column: Column, cells: list[object]) -> Sequence[object]:
    """A column's cells in Python's own types, each checked."""
    at_once = _cells_at_once(column, cells)
    if at_once is not None:
        return at_once
    convert = _CONVERTERS[column.kind]
    blank_is_wrong, default, result = column.required, column.default, []
    for index, cell in enumerate(cells):
        if cell is None and not blank_is_wrong:
            result.append(default)
            continue
        value = convert(cell)
        if not well_formed(column, value):
            found = "" if cell is None else cell
            raise InputError(raw.file, raw.place(index, column.name), found, column.mend)
        result.append(value)
    return result


def _cells_at_once(column: Column, cells: list[object]) -> Sequence[object] | None:
    """The same for a column without blanks and faults, without looking at each cell by itself."""
    types = set(map(type, cells))
    if types == {str}:
        joined = "".join(cells)  # type: ignore[arg-type]
        if not joined.isascii() or not joined.isprintable() or "_" in joined or " " in joined:
            return None
        if column.kind in ("name", "text"):
            return cells if all(cells) else None
    if column.kind not in ("integer", "number") or not types <= {str, int, float}:
        return None
    try:
        values = list(map(float, cells))  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        return None
    # A NaN compares false with everything, so it hides in min and max, but not in the sum.
    if not (column.low <= min(values) and max(values) <= column.high) or math.isnan(sum(values)):
        return None
    if column.kind == "number":
        return values
    return list(map(int, values)) if all(map(float.is_integer, values)) else None


def _to_integer(cell: object) -> object:
    """A whole number, also from text and from 8.0 (as tools write columns that had blanks)."""
    number = _to_number(cell)
    if isinstance(number, float) and number.is_integer():
        return int(number)
    return number


def _to_number(cell: object) -> object:
    if isinstance(cell, str):
        try:
            # Python reads 1_000 as a number; a file that says so was not meant for us.
            return cell if "_" in cell or not cell.isascii() else float(cell)
        except ValueError:
            return cell
    if isinstance(cell, int) and not isinstance(cell, bool):
        return float(cell) if abs(cell) < 2**53 else cell
    return cell


def _to_text(cell: object) -> object:
    return str(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell


def _to_choice(cell: object) -> object:
    return cell.lower() if isinstance(cell, str) else cell


_CONVERTERS: dict[str, Callable[[object], object]] = {
    "integer": _to_integer,
    "number": _to_number,
    "name": lambda cell: cell,
    "text": _to_text,
    "choice": _to_choice,
}


def _read_csv(file: str, content: bytes) -> RawFleet:
    text = utf8_text(file, content)
    provenance, body, skipped = _csv_header(text)
    reader = csv.reader(io.StringIO(body, newline=""), strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    before = 0  # lines read before this row: a quoted cell may span several
    try:
        for row in reader:
            if any(row):
                rows.append(row)
                lines.append(skipped + before + 1)
            before = reader.line_num
    except csv.Error as error:
        place = f"line {skipped + reader.line_num}"
        raise InputError(file, place, None, f"mend the CSV: {error}") from error
    if not rows:
        raise InputError(file, None, None, "holds no header line: write the column names first")
    names = [name.strip() for name in rows[0]]
    header = f"line {lines[0]} (the header)"
    _check_header(file, header, names)
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            mend = f"give {len(names)} cells, as the header does, not {len(row)}"
            raise InputError(file, f"line {line}", ",".join(row), mend)
    columns: dict[str, list[object]] = {
        name: [cell.strip() or None for cell in cells]
        for name, *cells in zip(names, *rows[1:], strict=True)
    }
    return RawFleet(
        file, columns, header, lambda i, name: f"line {lines[i + 1]}, column {name}", provenance
    )


def _csv_header(text: str) -> tuple[dict[str, str], str, int]:
    """Leading ``# key: value`` lines, the rest, and how many lines were taken."""
    provenance: dict[str, str] = {}
    start = skipped = 0
    while text.startswith("#", start):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end + 1
        key, colon, value = text[start + 1 : end].strip().partition(":")
        key, value = (key.strip(), value.strip()) if colon else ("comment", key.strip())
        if key and value:
            provenance[key] = f"{provenance[key]}; {value}" if key in provenance else value
        start, skipped = end, skipped + 1
    return provenance, text[start:], skipped


def _check_header(file: str, place: str, names: list[str]) -> None:
    if len(names) == 1 and any(mark in names[0] for mark in ";\t|"):
        raise InputError(file, place, names[0], "separate the columns with commas")
    for index, name in enumerate(names):
        if name == "":
            raise InputError(file, place, f"column {index + 1}", "give every column a name")
        if name in names[:index]:
            raise InputError(file, place, name, "name each column once")


def _read_parquet(file: str, content: bytes) -> RawFleet:
    import polars as pl

    try:
        # From memory: as a path, a name with brackets would be taken for a pattern.
        frame = pl.read_parquet(io.BytesIO(content))
        metadata = pl.read_parquet_metadata(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        mend = f"write the Parquet file again, it is damaged or cut short ({reason})"
        raise InputError(file, None, f"{len(content)} bytes", mend) from error
    columns = {name: frame[name].to_list() for name in frame.columns}
    return RawFleet(
        file,
        columns,
        "columns",
        lambda i, name: f"row {i + 1}, column {name}",
        _stored_provenance(file, metadata.get(PROVENANCE_KEY, "{}")),
    )


def _stored_provenance(file: str, text: str) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in json.loads(text).items()}
    except (ValueError, AttributeError) as error:
        raise InputError(file, f"metadata {PROVENANCE_KEY}", text, "write a JSON object") from error


def _read_json(file: str, content: bytes) -> RawFleet:
    text = utf8_text(file, content)
    try:
        found = json.loads(text, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(file, place, None, f"mend the JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(file, None, None, f"mend the JSON: {error}") from error
    if isinstance(found, list):
        found = {"adapters": found}
    return _from_document(file, found)


def _once_each(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        doubled = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {doubled!r} stands twice in one object")
    return found


def _read_toml(file: str, content: bytes) -> RawFleet:
    try:
        found = tomllib.loads(utf8_text(file, content))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(file, None, None, f"mend the TOML: {error}") from error
    return _from_document(file, found)


def _from_document(file: str, found: object) -> RawFleet:
    """JSON's or TOML's tree: ``adapters`` (or ``[[adapter]]``) and ``provenance``."""
    if not isinstance(found, dict):
        raise InputError(file, None, found, "give a list of adapters, or an object that holds one")
    keys = ("adapters", "adapter", "provenance")
    for key in found:
        if key not in keys:
            raise InputError(file, "top level", key, f"unknown key: {did_you_mean(key, keys)}")
    key = "adapter" if "adapter" in found else "adapters"
    rows = found.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(file, key, rows, "give a list of adapters, each with its keys")
    if not rows:
        raise InputError(file, key, None, "holds no adapter: add one")
    provenance = found.get("provenance", {})
    if not isinstance(provenance, dict):
        raise InputError(file, "provenance", provenance, "give texts by name")
    for index, row in enumerate(rows):
        _check_keys(file, f"{key}[{index}]", row)
    names = [column.name for column in COLUMNS if any(column.name in row for row in rows)]
    return RawFleet(
        file,
        {name: [row.get(name) for row in rows] for name in names},
        key,
        lambda i, name: f"{key}[{i}].{name}",
        {str(name): str(text) for name, text in provenance.items()},
    )


def _check_keys(file: str, place: str, row: Mapping[str, object]) -> None:
    for name in row:
        if name not in COLUMN:
            raise InputError(file, place, name, f"unknown key: {did_you_mean(name, COLUMN)}")


_FORMS: dict[str, Callable[[str, bytes], RawFleet]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".json": _read_json,
    ".toml": _read_toml,
}
