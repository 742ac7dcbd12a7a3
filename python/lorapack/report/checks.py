"""What other commands wrote, held against what figures take of it: a report is given any file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorapack.errors import InputError

if TYPE_CHECKING:
    import polars as pl

_OF_A_METHOD = ("n_gpus", "cost_per_hour", "kwh_per_hour", "starved_gpus")


def methods_of(path: Path, rows: Sequence[object]) -> list[Mapping[str, Any]]:
    """Rows of `lorapack compare`.

    Args:
        path: The file, for errors.
        rows: Its `methods`.

    Returns:
        The same.

    Raises:
        InputError: A row is none, names no method, or holds something else for a number.
    """
    checked: list[Mapping[str, Any]] = []
    for index, row in enumerate(rows):
        place = f"methods[{index}]"
        mend = "give what `lorapack compare --json` wrote"
        if not isinstance(row, dict) or not isinstance(row.get("method"), str):
            raise InputError(path, place, row, mend)
        for key in _OF_A_METHOD:
            if row.get(key) is not None and not _is_amount(row[key]):
                raise InputError(path, f"{place}.{key}", row[key], mend)
        checked.append(row)
    return checked


def curve_of(path: Path, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """An answer of `lorapack maxpack`.

    Args:
        path: The file, for errors.
        answer: The whole object, with a `curve`.

    Returns:
        The same.

    Raises:
        InputError: The answer or a trial holds something else for a number.
    """
    mend = "give what `lorapack maxpack --json` wrote"
    for key in ("maxpack", "max_loras"):
        if answer.get(key) is not None and not _is_amount(answer[key]):
            raise InputError(path, key, answer[key], mend)
    for index, row in enumerate(answer["curve"]):
        place = f"curve[{index}]"
        if not isinstance(row, dict):
            raise InputError(path, place, row, mend)
        for key in ("adapters", "max_loras"):
            if not _is_amount(row.get(key)):
                raise InputError(path, f"{place}.{key}", row.get(key), mend)
        if row.get("throughput_tps") is not None and not _is_amount(row["throughput_tps"]):
            raise InputError(path, f"{place}.throughput_tps", row["throughput_tps"], mend)
    return answer


def numbers_in(path: Path, frame: pl.DataFrame, columns: Iterable[str]) -> pl.DataFrame:
    """A table whose columns are numbers or blank: what is not finite becomes blank.

    Args:
        path: The file, for errors.
        frame: The table.
        columns: Those that are drawn; ones that are not there are passed over.

    Returns:
        The table.

    Raises:
        InputError: A cell of one is no number.
    """
    import polars as pl

    for name in set(columns) & set(frame.columns):
        numbers = frame[name].cast(pl.Float64, strict=False)
        wrong = frame[name].filter(numbers.is_null() & frame[name].is_not_null())
        if len(wrong):
            raise InputError(path, f"column {name}", wrong[0], "give numbers")
        finite = pl.when(numbers.is_finite()).then(numbers)
        frame = frame.with_columns(frame.select(finite.alias(name)))
    return frame


def _is_amount(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0  # type: ignore[arg-type, operator]
