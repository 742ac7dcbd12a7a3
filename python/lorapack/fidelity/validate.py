"""Measured serving runs, replayed and scored: how far the twin is to be trusted.

Each run is replayed as it was (:mod:`lorapack.fidelity.replay`) under a few seeds, whose results
are averaged: the campaign's own draw of arrivals is one draw, and a twin on another differs from it
by the draw even when it is right. What is compared, and over which runs, is in INTERFACE's words:

- throughput, requests, ITL, TPOT: runs that completed;
- TTFT (mean, and against the run's median): runs that were not starved when measured;
- starvation: both sides against 0.9 of the offered load;
- starts and refusals: every row;
- running, KV use and preemptions: reported, with the share of gross misses (over 2x).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from lorapack.fidelity.replay import (
    LESS_KV,
    measured_tps,
    offered_tps,
    profiles_by_model,
    scenario_of,
)
from lorapack.fidelity.scores import errors, verdicts
from lorapack.profile.profile import Profile
from lorapack.twin.result import Result
from lorapack.twin.run import simulate_many

STARVED_BELOW = 0.9
"""Served over offered below which a GPU is starved (the papers' rule)."""

GROSS_MISS = 2.0
"""Factor beyond which running, KV use or preemptions count as grossly missed."""

FULL_KV = 0.95
"""Largest KV use from which a starved run counts as bound by KV."""

RUNS_AT_A_TIME = 64
"""Scenarios handed to the twin at once, so that progress can be told."""

METRICS: Mapping[str, tuple[str, str]] = {
    "throughput": ("simulated_tps", "measured_tps"),
    "requests": ("simulated_completed", "completed"),
    "itl": ("simulated_itl_ms", "mean_itl_ms"),
    "tpot": ("simulated_tpot_ms", "mean_tpot_ms"),
    "ttft": ("simulated_ttft_ms", "mean_ttft_ms"),
    "ttft_p50": ("simulated_ttft_p50_ms", "median_ttft_ms"),
}
"""Metric -> columns of the rows that hold its two sides."""

UNSTARVED_ONLY = ("ttft", "ttft_p50")
"""Metrics judged only where the measured run was not starved: elsewhere they measure the queue."""

LEVELS: Mapping[str, tuple[str, str]] = {
    "mean_running": ("simulated_mean_running", "measured_mean_running"),
    "kv_usage": ("simulated_kv_usage", "measured_kv_usage"),
    "preemptions": ("simulated_preemptions", "preemptions"),
}
"""Levels along the run -> columns that hold their two sides."""


@dataclass(frozen=True)
class Validation:
    """Every run's pair of figures, and what they come to.

    Attributes:
        rows: One row a run: the measured columns, the simulated ones (``simulated_*``), and
            ``regime``, ``starved``, ``began_with_less_kv``.
        simulated_s: Seconds simulated in all.
        wall_s: Seconds it took.
    """

    rows: pl.DataFrame
    simulated_s: float
    wall_s: float

    def summary(self) -> dict[str, Any]:
        """The scores, under INTERFACE's keys."""
        scored = score(self.rows)
        ran = self.rows.filter(pl.col("out_of_memory") == 0)
        full = ran.filter(~pl.col("began_with_less_kv"))
        return {
            **scored,
            "without_runs_that_began_with_less_kv": score(
                self.rows.filter(~pl.col("began_with_less_kv"))
            ),
            "n_runs_that_began_with_less_kv": ran.height - full.height,
            "by_model": _by(self.rows, ["model"]),
            "by_case": _by(self.rows, ["model", "case"]),
            "by_regime": _by(ran, ["regime"]),
            "worst": worst(self.rows),
            "wall_s": self.wall_s,
            "simulated_s": self.simulated_s,
        }


def validate(
    runs: pl.DataFrame,
    profiles: Sequence[Profile],
    *,
    seeds: int = 3,
    seed: int = 0,
    jobs: int | None = None,
    on_done: Callable[[int], None] = lambda _: None,
) -> Validation:
    """Replays measured runs and puts both sides next to each other.

    Args:
        runs: Rows of :func:`lorapack.fidelity.replay.read_runs`.
        profiles: Profiles to choose from by the ``model`` column.
        seeds: Replays of each run, averaged.
        seed: The first seed.
        jobs: Threads; ``None``: all cores.
        on_done: Told how many replays were just done.
    """
    begin = time.perf_counter()
    chosen = profiles_by_model(runs, profiles)
    rows = list(runs.iter_rows(named=True))
    plans = [_plan(row, chosen[row["model"]]) for row in rows]
    ran = [i for i, row in enumerate(rows) if not row["out_of_memory"] and plans[i].starts]
    tasks = [(i, seed + k) for i in ran for k in range(seeds)]
    results: dict[int, list[Result]] = {i: [] for i in ran}
    for at in range(0, len(tasks), RUNS_AT_A_TIME):
        batch = tasks[at : at + RUNS_AT_A_TIME]
        scenarios = [scenario_of(rows[i], chosen[rows[i]["model"]], s) for i, s in batch]
        for (i, _), result in zip(batch, simulate_many(scenarios, jobs=jobs), strict=True):
            results[i].append(result)
        on_done(len(batch))
    simulated = [_simulated(results.get(i, [])) for i in range(len(rows))]
    paired = [
        {**row, **_judged(row, chosen[row["model"]], one), **one, "simulated_starts": plan.starts}
        for row, one, plan in zip(rows, simulated, plans, strict=True)
    ]
    frame = pl.DataFrame(paired, infer_schema_length=None)
    return Validation(
        rows=_flagged(frame),
        simulated_s=sum(r.simulated_s for many in results.values() for r in many),
        wall_s=time.perf_counter() - begin,
    )


def score(rows: pl.DataFrame) -> dict[str, Any]:
    """Scores of some of the rows."""
    ran = rows.filter((pl.col("out_of_memory") == 0) & pl.col("simulated_starts"))
    unstarved = ran.filter(~pl.col("starved"))
    scored: dict[str, Any] = {"n_runs": ran.height}
    for metric, (simulated, measured) in METRICS.items():
        over = unstarved if metric in UNSTARVED_ONLY else ran
        if {simulated, measured} <= set(over.columns):
            scored[metric] = asdict(errors(_column(over, simulated), _column(over, measured)))
    for level, (simulated, measured) in LEVELS.items():
        if {simulated, measured} <= set(ran.columns):
            scored[level] = _level(_column(ran, simulated), _column(ran, measured))
    scored["starvation"] = asdict(verdicts(ran["simulated_starved"], ran["starved"]))
    started = rows["out_of_memory"] == 0
    agree = rows["simulated_starts"] == started
    scored["starts"] = {
        "accuracy": float(agree.mean() or 0.0) if rows.height else math.nan,  # type: ignore[arg-type]
        "n": rows.height,
        "refusals": int((~started).sum()),
    }
    return scored


def worst(rows: pl.DataFrame, n: int = 10) -> list[dict[str, Any]]:
    """The runs furthest off in throughput."""
    off = (pl.col("simulated_tps") / pl.col("measured_tps") - 1) * 100
    names = ["model", "case", "max_loras", "n_adapters", "max_lora_rank", "regime"]
    return (
        rows.filter(pl.col("simulated_tps").is_not_null())
        .with_columns(throughput_error_percent=off)
        .sort(pl.col("throughput_error_percent").abs(), descending=True)
        .head(n)
        .select(
            *names,
            "measured_tps",
            "simulated_tps",
            "throughput_error_percent",
            "began_with_less_kv",
        )
        .to_dicts()
    )


def _plan(run: Mapping[str, Any], profile: Profile) -> Any:  # noqa: ANN401 - MemoryPlan
    return profile.memory_plan(
        max_loras=int(run["max_loras"]),
        max_lora_rank=int(run["max_lora_rank"]),
        max_num_seqs=int(run["max_num_seqs"]),
        max_num_batched_tokens=int(run["max_num_batched_tokens"]),
        block_size=int(run["block_size"]),
    )


def _simulated(results: Sequence[Result]) -> dict[str, Any]:
    """The mean over seeds of what one run came to; nothing known where it was not simulated."""

    def mean(get: Callable[[Result], float]) -> float | None:
        values = [get(result) for result in results]
        return float(np.mean(values)) if values else None

    return {
        "simulated_tps": mean(lambda r: (r.input_tokens + r.output_tokens) / r.simulated_s),
        "simulated_completed": mean(lambda r: r.completed),
        "simulated_itl_ms": mean(lambda r: r.itl_ms.mean),
        "simulated_tpot_ms": mean(lambda r: r.tpot_ms.mean),
        "simulated_ttft_ms": mean(lambda r: r.ttft_ms.mean),
        "simulated_ttft_p50_ms": mean(lambda r: r.ttft_ms.p50),
        "simulated_mean_running": mean(lambda r: r.mean_running),
        "simulated_kv_usage": mean(lambda r: r.kv_usage.mean),
        "simulated_preemptions": mean(lambda r: r.preemptions),
        "simulated_adapter_loads": mean(lambda r: r.adapter_loads),
        "simulated_load_s": mean(lambda r: r.load_s),
    }


def _judged(
    run: Mapping[str, Any], profile: Profile, simulated: Mapping[str, Any]
) -> dict[str, Any]:
    """Offered load and the verdicts that follow from it."""
    offered = offered_tps(run, profile)
    measured = None
    if not run["out_of_memory"]:
        measured = measured_tps(run)
    tps = simulated["simulated_tps"]
    return {
        "offered_tps": offered,
        "measured_tps": measured,
        "starved": measured is not None and measured < STARVED_BELOW * offered,
        "simulated_starved": tps is not None and tps < STARVED_BELOW * offered,
        "measured_mean_running": run.get("mean_running"),
        "measured_kv_usage": run.get("mean_kv"),
    }


def _flagged(rows: pl.DataFrame) -> pl.DataFrame:
    """Adds the regime of each run and whether it began with less KV than its settings say."""
    held = pl.col("measured_mean_running") / pl.col("measured_kv_usage")
    should = pl.col("simulated_mean_running") / pl.col("simulated_kv_usage")
    regime = (
        pl.when(~pl.col("starved"))
        .then(pl.lit("light"))
        .when(pl.col("max_kv") > FULL_KV)
        .then(pl.lit("kv-bound"))
        .when(pl.col("n_adapters") > pl.col("max_loras"))
        .then(pl.lit("slot-bound"))
        .otherwise(pl.lit("compute-bound"))
    )
    less = (held / should < LESS_KV).fill_null(value=False)
    return rows.with_columns(regime=regime, began_with_less_kv=less)


def _level(simulated: np.ndarray[Any, Any], measured: np.ndarray[Any, Any]) -> dict[str, float]:
    """Errors of a level, and the share of runs grossly off; both sides near zero agree."""
    floor = 0.02 * float(np.nanmax(measured)) + 1e-9 if measured.size else 0.0
    a, b = np.maximum(simulated, floor), np.maximum(measured, floor)
    known = np.isfinite(a) & np.isfinite(b)
    ratio = a[known] / b[known]
    return {
        **asdict(errors(simulated, measured)),
        "gross_miss": float(np.mean((ratio > GROSS_MISS) | (ratio < 1 / GROSS_MISS)))
        if ratio.size
        else math.nan,
    }


def _by(rows: pl.DataFrame, keys: list[str]) -> dict[str, dict[str, Any]]:
    groups = rows.group_by(keys, maintain_order=True)
    scored = {"/".join(str(part) for part in key): score(group) for key, group in groups}
    return dict(sorted(scored.items()))


def _column(rows: pl.DataFrame, name: str) -> np.ndarray[Any, Any]:
    return np.asarray(rows[name].cast(pl.Float64).to_numpy())
