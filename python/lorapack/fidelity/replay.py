"""A measured serving run as a scenario of the twin: the same adapters, rates, slots and clients.

The columns are those of ``data/vllm-h100/serving_runs.csv``. A run's ranks and rates are two short
lists dealt round robin to its adapters and then shuffled apart; how they fell in the measured run
is not known, so a replay draws its own deal from the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from lorapack.errors import InputError
from lorapack.fleet.adapter import Adapter
from lorapack.fleet.fleet import Fleet
from lorapack.profile.profile import Profile
from lorapack.twin.scenario import Scenario

MAX_IN_FLIGHT = 25_200
"""Requests that the campaign's load generator held in flight at most (it ran out of ports)."""

SCRAPE_INTERVAL_S = 2.0
"""From the answer to one poll of the engine's metrics to the next: the campaign's poller slept so
long (the least gap in its time series)."""

FURTHER_REQUESTS = 1.0
"""Requests that an adapter's client sent beyond what its rate says.

Light runs hold 0.8 to 1.2 an adapter more in the cases that show it best: vLLM's own serving
benchmark, too, sends a first request before it waits for a gap. Load, not counted as offered."""

LESS_KV = 0.85
"""A run that held under this share of the twin's running requests per KV use began with less KV."""

NEEDED_COLUMNS = (
    "model",
    "case",
    "max_loras",
    "n_adapters",
    "max_lora_rank",
    "adapter_ranks",
    "adapter_rates_rps",
    "max_num_seqs",
    "max_num_batched_tokens",
    "block_size",
    "out_of_memory",
    "duration_s",
    "completed",
    "input_tokens",
    "output_tokens",
)
"""What a file of runs must have; other measured columns are compared where they are there."""

RUN_KEYS = ("model", "case", "max_loras", "n_adapters", "max_lora_rank")
"""What names a run, in the runs and in the time series."""


def read_runs(path: Path) -> pl.DataFrame:
    """Reads measured runs.

    Raises:
        InputError: The file is no CSV of that kind.
    """
    try:
        runs = pl.read_csv(path, infer_schema_length=None)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(path, None, None, f"is not a CSV of runs: {error}") from error
    missing = [name for name in NEEDED_COLUMNS if name not in runs.columns]
    if missing:
        raise InputError(path, "header", None, f"add the columns {', '.join(missing)}")
    return runs


def fleet_of(run: Mapping[str, Any], seed: int) -> Fleet:
    """The run's adapters: ranks and rates dealt round robin, then shuffled apart.

    Args:
        run: A row of the runs.
        seed: Of the two shuffles.
    """
    n = int(run["n_adapters"])
    ranks = _dealt([int(rank) for rank in str(run["adapter_ranks"]).split()], n)
    rates = _dealt([float(rate) for rate in str(run["adapter_rates_rps"]).split()], n)
    random = np.random.default_rng([seed, n])
    random.shuffle(ranks)
    random.shuffle(rates)
    more_rps = FURTHER_REQUESTS / float(run["duration_s"])
    return Fleet(
        Adapter(f"adapter-{i:04d}", rank=int(rank), rate_rps=float(rate) + more_rps)
        for i, (rank, rate) in enumerate(zip(ranks, rates, strict=True))
    )


def scenario_of(
    run: Mapping[str, Any], profile: Profile, seed: int, *, records: bool = False
) -> Scenario:
    """The run as it was, on the given profile.

    Args:
        run: A row of the runs.
        profile: The profile of its model.
        seed: Of the deal, and of the twin.
        records: Whether the result is to keep every step and request.
    """
    return Scenario(
        profile,
        fleet_of(run, seed),
        max_loras=int(run["max_loras"]),
        max_lora_rank=int(run["max_lora_rank"]),
        max_cpu_loras=max(int(run["n_adapters"]), int(run["max_loras"])),
        max_num_seqs=int(run["max_num_seqs"]),
        max_num_batched_tokens=int(run["max_num_batched_tokens"]),
        block_size=int(run["block_size"]),
        duration_s=float(run["duration_s"]),
        seed=seed,
        max_in_flight=MAX_IN_FLIGHT,
        scrape_interval_s=SCRAPE_INTERVAL_S,
        records=records,
    )


def profiles_by_model(runs: pl.DataFrame, profiles: Sequence[Profile]) -> dict[str, Profile]:
    """Chooses a profile for each value of the ``model`` column.

    A profile serves the models whose name begins with its own model's.

    Raises:
        InputError: A model has no profile.
    """
    chosen = {}
    for model in sorted(set(runs["model"].to_list())):
        fitting = [p for p in profiles if str(model).startswith(p.model.name)]
        if not fitting:
            names = ", ".join(p.model.name for p in profiles)
            raise InputError("runs", "column model", model, f"profiles are for {names}")
        chosen[str(model)] = fitting[0]
    return chosen


def measured_tps(run: Mapping[str, Any]) -> float:
    """Throughput of a run that started: tokens of completed requests, a second."""
    return float((run["input_tokens"] + run["output_tokens"]) / run["duration_s"])


def offered_tps(run: Mapping[str, Any], profile: Profile) -> float:
    """Offered load, tokens a second: the rates' sum times the profile's mean tokens."""
    n = int(run["n_adapters"])
    rates = _dealt([float(rate) for rate in str(run["adapter_rates_rps"]).split()], n)
    lengths = profile.lengths
    return float(rates.sum()) * (lengths.prompt.mean_tokens + lengths.output.mean_tokens)


def _dealt(values: Sequence[float], n: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([values[i % len(values)] for i in range(n)], dtype=np.float64)
