"""Alibaba ServeGen: production clients, each with its rate, burstiness, lengths and drift.

Two forms are read into the same :class:`Clients`:

- *reduced*: ``clients.csv`` (one row a client) and, beside it, ``hourly_rates.parquet``;
- *raw* (alibaba/ServeGen, Apache-2.0; arXiv 2505.09999): a folder of ``chunk-N-trace.csv`` (no
  header: window start s, rate req/s, cv, ``Gamma`` or ``Weibull``, two parameters) and
  ``chunk-N-dataset.json`` (window start -> ``input_tokens`` and ``output_tokens``, each a histogram
  written as a Python dict in a string).
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections import defaultdict
from pathlib import Path

import polars as pl

from lorapack.errors import InputError
from lorapack.trace.table import Table, read_table

HOUR_S = 3600.0
_QUANTILES = {"p10": 0.1, "p50": 0.5, "p90": 0.9, "p99": 0.99}
_LENGTHS = [f"{side}_{part}" for side in ("input", "output") for part in ("mean", *_QUANTILES)]
_NEEDED = ["client", "mean_rate_rps", "peak_hour_rate_rps", "cv", "gaps"]


@dataclasses.dataclass(frozen=True)
class Clients:
    """Production clients.

    Attributes:
        frame: ``client``, ``mean_rate_rps``, ``peak_hour_rate_rps``, ``cv``, ``gaps`` (lower case),
            and mean, p10, p50, p90, p99 of ``input_`` and ``output_`` tokens (null when unknown).
        hourly: ``client``, ``hour``, ``rate_rps``; ``None`` when there is no such file.
        source: Where they were read from.
    """

    frame: pl.DataFrame
    hourly: pl.DataFrame | None
    source: str


def read_clients(path: str | Path, hourly: str | Path | None = None) -> Clients:
    """Reads clients, reduced or raw.

    Args:
        path: ``clients.csv``, a folder that holds one, or a folder of ServeGen's own chunk files.
        hourly: ``hourly_rates.parquet``; by default the one beside ``clients.csv``, if any.

    Returns:
        The clients, in the file's order.

    Raises:
        InputError: Anything in the files cannot be used.
    """
    path = Path(path)
    if path.is_dir() and (path / "clients.csv").is_file():
        path = path / "clients.csv"
    if path.is_dir():
        return _raw_clients(path)
    beside = path.with_name("hourly_rates.parquet")
    hourly_path = Path(hourly) if hourly is not None else beside if beside.is_file() else None
    frame = _reduced_clients(read_table(path))
    rates = None if hourly_path is None else _hourly_rates(read_table(hourly_path), frame)
    return Clients(frame, rates, str(path))


def _reduced_clients(table: Table) -> pl.DataFrame:
    table.need([*_NEEDED, "input_mean", "output_mean"])
    names = table.texts("client")
    table.refuse("client", names.is_null(), "name the client")
    table.refuse("client", ~names.is_first_distinct(), "name each client once")
    gaps = table.texts("gaps").str.to_lowercase()
    known = gaps.is_in(["gamma", "weibull"]).fill_null(value=False)
    table.refuse("gaps", ~known, "give Gamma or Weibull")
    columns = {"client": names, "gaps": gaps}
    for name in ("mean_rate_rps", "peak_hour_rate_rps", "cv"):
        columns[name] = table.numbers(name)
        table.refuse(name, columns[name] < 0, "give a number of 0 or more")
    for name in _LENGTHS:
        columns[name] = _length_column(table, name)
    return pl.DataFrame(columns)


def _length_column(table: Table, name: str) -> pl.Series:
    """Tokens, null where blank."""
    if name not in table.columns:
        return pl.Series([None] * table.frame.height, dtype=pl.Float64)
    blank = table.texts(name).is_null()
    filled = table.frame.with_columns(pl.when(blank).then(pl.lit("1")).otherwise(name).alias(name))
    numbers = dataclasses.replace(table, frame=filled).numbers(name)
    table.refuse(name, numbers < 0, "give tokens, or leave it blank")
    return numbers.to_frame("n").select(pl.when(~blank).then("n")).to_series()


def _hourly_rates(table: Table, clients: pl.DataFrame) -> pl.DataFrame:
    table.need(["client", "hour", "rate_rps"])
    rates, hours, names = table.numbers("rate_rps"), table.numbers("hour"), table.texts("client")
    table.refuse("rate_rps", rates < 0, "give a rate of 0 or more, requests per second")
    table.refuse("hour", (hours < 0) | (hours != hours.floor()), "give a whole hour from 0 on")
    known = names.is_in(clients["client"].to_list()).fill_null(value=False)
    table.refuse("client", ~known, "name a client of clients.csv")
    return pl.DataFrame({"client": names, "hour": hours.cast(pl.Int64), "rate_rps": rates})


@dataclasses.dataclass(frozen=True)
class _Window:
    start_s: float
    rate_rps: float
    cv: float
    gaps: str


def _raw_clients(folder: Path) -> Clients:
    found = [
        (int(match[1]), file)
        for file in folder.iterdir()
        if (match := re.fullmatch(r"chunk-(\d+)-trace\.csv", file.name))
    ]
    if not found:
        mend = "give clients.csv, or a folder with chunk-N-trace.csv and chunk-N-dataset.json"
        raise InputError(folder, None, None, mend)
    rows, hourly = [], []
    for number, file in sorted(found):
        windows = _windows(file)
        name = f"{folder.name}-{number}"
        hours = _hourly_means(windows)
        hourly += [(name, hour, rate) for hour, rate in hours.items()]
        lengths = _raw_lengths(file.with_name(f"chunk-{number}-dataset.json"), windows)
        rows.append({"client": name, **_raw_rates(windows, hours), **lengths})
    schema = {"client": pl.String, "hour": pl.Int64, "rate_rps": pl.Float64}
    numbers = ["mean_rate_rps", "peak_hour_rate_rps", "cv", *_LENGTHS]
    overrides = {"client": pl.String, "gaps": pl.String, **dict.fromkeys(numbers, pl.Float64)}
    frame = pl.DataFrame(rows, schema=overrides)
    return Clients(frame, pl.DataFrame(hourly, schema=schema, orient="row"), str(folder))


def _windows(file: Path) -> list[_Window]:
    windows = []
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        try:
            start, rate, cv = (float(cell or 0) for cell in cells[:3])
        except ValueError as error:
            mend = "give window start, rate, cv, family and its parameters"
            raise InputError(file, f"line {number}", line, mend) from error
        if not (0 <= start < 1e12 and 0 <= rate < 1e9 and 0 <= cv < 1e6):
            raise InputError(file, f"line {number}", line, "give finite numbers of 0 or more")
        family = cells[3].lower() if len(cells) > 3 else ""
        windows.append(_Window(start, rate, cv, family))
    if not windows:
        raise InputError(file, None, None, "holds no window")
    return windows


def _hourly_means(windows: list[_Window]) -> dict[int, float]:
    """Mean rate of each hour over the windows recorded in it."""
    by_hour: dict[int, list[float]] = defaultdict(list)
    for window in windows:
        by_hour[int(window.start_s // HOUR_S)].append(window.rate_rps)
    return {hour: sum(rates) / len(rates) for hour, rates in sorted(by_hour.items())}


def _raw_rates(windows: list[_Window], hours: dict[int, float]) -> dict[str, object]:
    total = sum(window.rate_rps for window in windows)
    weight = {
        family: sum(window.rate_rps for window in windows if window.gaps == family)
        for family in ("gamma", "weibull")
    }
    weighted = sum(window.cv * window.rate_rps for window in windows)
    return {
        "mean_rate_rps": total / len(windows),
        "peak_hour_rate_rps": max(hours.values()),
        "cv": weighted / total if total > 0 else 1.0,
        "gaps": max(weight, key=lambda family: weight[family]),
    }


def _raw_lengths(file: Path, windows: list[_Window]) -> dict[str, float | None]:
    """Lengths over all windows, each weighted by its requests; blank when the file is not there."""
    if not file.is_file():
        return dict.fromkeys(_LENGTHS)
    try:
        content = json.loads(file.read_bytes())
        by_start = {float(start): histograms for start, histograms in content.items()}
    except (ValueError, AttributeError) as error:
        raise InputError(file, None, None, f"mend the JSON: {error}") from error
    rates = {window.start_s: window.rate_rps for window in windows}
    found: dict[str, float | None] = {}
    for side in ("input", "output"):
        total: dict[float, float] = defaultdict(float)
        for start, histograms in by_start.items():
            place = f"{start:g}.{side}_tokens"
            for tokens, share in _histogram(file, place, histograms, f"{side}_tokens").items():
                total[tokens] += share * rates.get(start, 0.0)
        found.update(_summary(side, total))
    return found


def _histogram(file: Path, place: str, histograms: object, key: str) -> dict[float, float]:
    text = histograms.get(key, "{}") if isinstance(histograms, dict) else ""
    try:
        found = ast.literal_eval(text) if isinstance(text, str) else dict(text)
        histogram = {float(tokens): float(share) for tokens, share in found.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(file, place, text, "give a histogram: {tokens: share, ...}") from error
    if any(not 0 <= share < 1e18 for share in histogram.values()):
        raise InputError(file, place, text, "give shares of 0 or more")
    total = sum(histogram.values())
    return {tokens: share / total for tokens, share in histogram.items()} if total > 0 else {}


def _summary(side: str, weights: dict[float, float]) -> dict[str, float | None]:
    total = sum(weights.values())
    if total <= 0:
        return {name: None for name in _LENGTHS if name.startswith(side)}
    summary: dict[str, float | None] = {
        f"{side}_mean": sum(tokens * weight for tokens, weight in weights.items()) / total
    }
    ordered = sorted(weights.items())
    for name, quantile in _QUANTILES.items():
        passed = 0.0
        for tokens, weight in ordered:
            passed += weight
            if passed >= quantile * total:
                summary[f"{side}_{name}"] = tokens
                break
    return summary
