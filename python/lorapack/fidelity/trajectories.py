"""Running, waiting and KV use along a run: the engine's polled metrics against the twin's steps.

The polls are uneven and begin before the load does (a warm-up request), so both sides are brought
to one-minute means from the moment the load begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lorapack.errors import InputError
from lorapack.fidelity.replay import RUN_KEYS, scenario_of
from lorapack.profile.profile import Profile
from lorapack.twin.result import Result
from lorapack.twin.run import run as run_twin
from lorapack.twin.run import usable_cores

BIN_S = 60.0
"""Width of the bins in which both sides are averaged, seconds."""

SIGNALS = ("running", "waiting", "kv_usage")
"""What is compared."""

Floats = NDArray[np.float64]


def read_timeseries(path: Path) -> pl.DataFrame:
    """Reads polled metrics of runs (columns of ``serving_timeseries.parquet``).

    Raises:
        InputError: The file is no Parquet of that kind.
    """
    try:
        series = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(path, None, None, f"is not Parquet: {error}") from error
    missing = [n for n in (*RUN_KEYS, "t_s", *SIGNALS) if n not in series.columns]
    if missing:
        raise InputError(path, "columns", None, f"add {', '.join(missing)}")
    return series


def trajectories(
    runs: Sequence[dict[str, Any]],
    profiles: dict[str, Profile],
    series: pl.DataFrame,
    *,
    seed: int = 0,
    jobs: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> pl.DataFrame:
    """One row a run and minute: each signal as measured and as simulated.

    Args:
        runs: Measured rows that started.
        profiles: The profile of each model.
        series: Rows of :func:`read_timeseries`.
        seed: Of the replays.
        jobs: Threads.
        on_done: Told how many replays were just done.
    """
    polled = dict(series.group_by(RUN_KEYS))
    known = [run for run in runs if tuple(run[name] for name in RUN_KEYS) in polled]

    def one(run: dict[str, Any]) -> pl.DataFrame:
        key = tuple(run[name] for name in RUN_KEYS)
        scenario = scenario_of(run, profiles[run["model"]], seed, records=True)
        named = dict(zip(RUN_KEYS, key, strict=True))
        paired = _paired(named, polled[key], run, run_twin(scenario))
        on_done(1)
        return paired

    with ThreadPoolExecutor(jobs or usable_cores()) as pool:
        return pl.concat(pool.map(one, known))


def scores(paired: pl.DataFrame) -> dict[str, Any]:
    """Errors along the runs, by signal.

    ``level_mape`` compares a run's means; ``along_percent`` is the mean distance along the run over
    the measured mean (runs whose measured mean is under 1 % of the largest are left out of both);
    ``gross_miss`` is the share of runs whose means differ by more than a factor of two.
    """
    scored: dict[str, Any] = {}
    for signal in SIGNALS:
        measured, simulated = pl.col(f"measured_{signal}"), pl.col(f"simulated_{signal}")
        by_run = paired.group_by(RUN_KEYS, maintain_order=True).agg(
            measured.mean().alias("measured"),
            simulated.mean().alias("simulated"),
            (simulated - measured).abs().mean().alias("distance"),
        )
        levels = by_run.select("measured", "simulated", "distance").to_numpy().astype(np.float64)
        levels = levels[levels[:, 0] > 0.01 * levels[:, 0].max(initial=0.0)]
        ratio, distance = levels[:, 1] / levels[:, 0], levels[:, 2] / levels[:, 0]
        scored[signal] = {
            "n": len(levels),
            "level_mape": float(np.mean(np.abs(ratio - 1)) * 100),
            "level_median_error": float((np.median(ratio) - 1) * 100),
            "along_percent": float(np.median(distance) * 100),
            "gross_miss": float(np.mean((ratio > 2) | (ratio < 0.5))),
        }
    return scored


def load_begins_s(polls: pl.DataFrame) -> float:
    """When the load begins in a run's own clock: the last quiet poll after the warm-up request."""
    head = polls.sort("t_s").head(40)
    quiet = head.filter((pl.col("running") == 0) & (pl.col("waiting") == 0))
    busy = head.filter(pl.col("running") + pl.col("waiting") > 1)
    if quiet.height == 0 or busy.height == 0:
        return 0.0
    begins = busy["t_s"].min()
    before = quiet.filter(pl.col("t_s") < begins)
    return float(before["t_s"].max()) if before.height else 0.0  # type: ignore[arg-type]


def _paired(
    key: dict[str, Any], polls: pl.DataFrame, run: dict[str, Any], result: Result
) -> pl.DataFrame:
    polls = polls.sort("t_s")
    begins = load_begins_s(polls)
    n_bins = int(float(run["duration_s"]) // BIN_S)
    times = polls["t_s"].to_numpy() - begins
    minute = np.floor(times / BIN_S).astype(np.int64)
    inside = (minute >= 0) & (minute < n_bins)
    columns: dict[str, Any] = {"minute": np.arange(n_bins)}
    for signal in SIGNALS:
        values = polls[signal].cast(pl.Float64).to_numpy()[inside]
        columns[f"measured_{signal}"] = _bin_means(minute[inside], values, n_bins)
    for signal, values in _simulated(result, n_bins).items():
        columns[f"simulated_{signal}"] = values
    frame = pl.DataFrame(columns).with_columns(pl.lit(v).alias(k) for k, v in key.items())
    return frame.drop_nans().select(*RUN_KEYS, *columns)


def _bin_means(index: NDArray[np.int64], values: Floats, n_bins: int) -> Floats:
    count = np.bincount(index, minlength=n_bins)
    total = np.bincount(index, weights=values, minlength=n_bins)
    means = np.full(n_bins, np.nan)
    means[count > 0] = total[count > 0] / count[count > 0]
    return means


def _simulated(result: Result, n_bins: int) -> dict[str, Floats]:
    """Time-weighted means in each bin; between steps the engine is idle."""
    steps = result.steps
    assert steps is not None, "replayed with records"
    start, took = steps["start_s"].to_numpy(), steps["duration_s"].to_numpy()
    minute = np.minimum((start / BIN_S).astype(np.int64), n_bins - 1)
    engine = result.scenario.engine
    usable = max(1, engine.kv_cache_tokens // engine.block_size - 1)
    signals = {
        "running": steps["running"].to_numpy().astype(np.float64),
        "waiting": steps["waiting"].to_numpy().astype(np.float64),
        "kv_usage": steps["used_blocks"].to_numpy() / usable,
    }
    return {
        name: np.bincount(minute, weights=values * took, minlength=n_bins)[:n_bins] / BIN_S
        for name, values in signals.items()
    }
