"""What whole serving runs say of the step time, seen through the twin.

A run of an hour is some 100,000 steps of all shapes, of which only totals were measured. The twin
replays the run and tells which shapes it was made of; two totals then say how long those steps
took. A saturated run completes more the shorter its steps are: its throughput counts. A run that
serves all that is offered shows its steps in the time per output token. By how much a total moves
with the step time (the *gain*: load feeds back on batch size) is found by a second replay with
every step a little longer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sparse

from lorapack.fidelity.calibrate.observations import Floats, Observations
from lorapack.fidelity.replay import LESS_KV, fleet_of, measured_tps, scenario_of
from lorapack.profile.profile import Profile
from lorapack.profile.step_time import StepTime
from lorapack.twin.result import Result
from lorapack.twin.run import run, usable_cores

STRETCH = 1.03
"""Factor on every step's price in the second replay."""

SATURATED_BELOW = 0.97
"""Served share of the load below which throughput shows the step time."""

LIGHT_ABOVE = 0.9
"""Served share of the load above which the time per token shows it."""

SMALLEST_GAIN = 0.4
"""A total that follows the step time less than this says nothing of it."""

TOTAL_NOISE = 0.007
"""Relative noise of a run's totals from one draw of arrivals and lengths to another."""

FEEDBACK_NOISE = 0.015
"""Further noise, for each unit of gain above one: the draw's load feeds back as the step's does."""


@dataclass(frozen=True)
class MeanShape:
    """The mean shape of a replay's steps, under one weighting of them.

    Attributes are those of :class:`Observations` rows; `step_ms` is the twin's own mean.
    """

    tokens: Floats
    adapters: Floats
    requests: float
    context_tokens: float
    mixed_context_tokens: float
    attention_pairs: float
    skipped: float
    waiting: float
    new_batches: float
    new_requests: float
    load_ms: float
    step_ms: float


@dataclass(frozen=True)
class Totals:
    """A replay's totals, without the steps behind them.

    Attributes:
        tps: Tokens of completed requests a second.
        offered_tps: Tokens of all that arrived, a second.
        completed: Requests completed.
        tpot_ms: Mean time per output token.
        itl_ms: Mean time between tokens.
        ttft_ms: Mean time to first token.
        ttft_p50_ms: Its median.
        running_per_kv: Mean running requests over the mean share of KV in use.
        lora_series: Time series of ``vllm:lora_requests_info`` at the end.
        lora_series_adapters: Adapters that they name.
    """

    tps: float
    offered_tps: float
    completed: int
    tpot_ms: float
    itl_ms: float
    ttft_ms: float
    ttft_p50_ms: float
    running_per_kv: float
    lora_series: int
    lora_series_adapters: int

    @classmethod
    def of(cls, result: Result) -> Totals:
        """The totals of a result."""
        return cls(
            tps=(result.input_tokens + result.output_tokens) / result.simulated_s,
            offered_tps=result.offered_tps,
            completed=result.completed,
            tpot_ms=result.tpot_ms.mean,
            itl_ms=result.itl_ms.mean,
            ttft_ms=result.ttft_ms.mean,
            ttft_p50_ms=result.ttft_ms.p50,
            running_per_kv=result.mean_running / max(result.kv_usage.mean, 1e-9),
            lora_series=result.lora_series,
            lora_series_adapters=result.lora_series_adapters,
        )


@dataclass(frozen=True)
class Replayed:
    """A measured run and what the twin made of it.

    Attributes:
        run: The measured row.
        totals: The twin's.
        by_step: Mean over steps: what throughput sees.
        by_request: Mean over requests in steps: what the time per token sees.
    """

    run: dict[str, Any]
    totals: Totals
    by_step: MeanShape
    by_request: MeanShape


def replay_with_shapes(
    runs: Sequence[dict[str, Any]], profile: Profile, seed: int, jobs: int | None = None
) -> list[Replayed]:
    """Replays runs and keeps the mean shapes of their steps.

    Args:
        runs: Measured rows of one model that started.
        profile: What to replay them with.
        seed: One seed for all.
        jobs: Threads.
    """
    with ThreadPoolExecutor(jobs or usable_cores()) as pool:
        return list(pool.map(lambda one: _replayed(one, profile, seed), runs))


def _replayed(measured: dict[str, Any], profile: Profile, seed: int) -> Replayed:
    result = run(scenario_of(measured, profile, seed, records=True))
    steps = result.steps
    assert steps is not None, "replayed with records"
    steps = steps.filter(pl.col("scheduled") > 0)
    shape = _StepShapes(steps, profile)
    return Replayed(
        run=measured,
        totals=Totals.of(result),
        by_step=shape.mean(np.full(steps.height, 1 / steps.height)),
        by_request=shape.mean(shape.scheduled / shape.scheduled.sum()),
    )


def observations_of(
    replayed: Sequence[Replayed], longer: Sequence[Totals], max_tokens: int
) -> Observations:
    """Rows for the fit: throughput of saturated runs, time per token of the others.

    Args:
        replayed: Runs as the twin sees them.
        longer: The same runs with every step longer by :data:`STRETCH`.
        max_tokens: Largest token count of a step.
    """
    shapes, columns = [], []
    for one, other in zip(replayed, longer, strict=True):
        if began_with_less_kv(one.run, one.totals):
            continue
        for which, shape, simulated, moved, measured in _totals(one, other):
            own = shape.step_ms - shape.load_ms
            stretch = np.log((STRETCH * own + shape.load_ms) / shape.step_ms)
            gain = float(np.log(moved / simulated) / stretch)
            if gain < SMALLEST_GAIN:
                continue
            noise = TOTAL_NOISE + FEEDBACK_NOISE * max(0.0, gain - 1)
            shapes.append(shape)
            columns.append(
                (
                    int(one.run["max_loras"]),
                    int(one.run["max_lora_rank"]),
                    float(one.run["n_adapters"]),
                    fleet_of(one.run, 0).rate_rps,
                    shape.step_ms * (measured / simulated) ** (1 / gain),
                    gain,
                    (TOTAL_NOISE / noise) ** 2,
                    which,
                )
            )
    slots, ranks, adapters, offered, times, gains, weights, sources = zip(*columns, strict=True)
    scalars = {
        name: np.array([getattr(shape, name) for shape in shapes])
        for name in (field.name for field in fields(MeanShape))
        if name not in ("tokens", "adapters", "step_ms")
    }
    return Observations(
        tokens=_stacked([shape.tokens for shape in shapes], max_tokens),
        adapters=_stacked([shape.adapters for shape in shapes], max_tokens),
        max_loras=np.array(slots, dtype=np.int64),
        max_lora_rank=np.array(ranks, dtype=np.int64),
        cpu_loras=np.array(adapters),
        offered_rps=np.array(offered),
        measured_ms=np.array(times),
        gain=np.array(gains),
        weight=np.array(weights) / np.sum(weights),
        logged=np.zeros(len(weights)),
        source=np.array(sources),
        **scalars,
    )


def stretched(step_time: StepTime, factor: float = STRETCH) -> StepTime:
    """Every price longer by a factor."""
    longer = {
        field.name: getattr(step_time, field.name) * factor
        for field in fields(step_time)
        if field.name.endswith(("_ms", "_ns"))
    }
    return replace(step_time, attention_tflops=step_time.attention_tflops / factor, **longer)


def began_with_less_kv(run: dict[str, Any], totals: Totals) -> bool:
    """Whether the measured run held far fewer requests in its KV than its settings allow."""
    held = float(run["mean_running"]) / max(float(run["mean_kv"]), 1e-9)
    return held < LESS_KV * totals.running_per_kv


def _totals(one: Replayed, other: Totals) -> Iterator[tuple[str, MeanShape, float, float, float]]:
    """Measured totals as times: name, shape, simulated, simulated with longer steps, measured."""
    run, totals = one.run, one.totals
    measured = measured_tps(run)
    served = measured / totals.offered_tps
    if served < SATURATED_BELOW:
        yield "throughput", one.by_step, 1 / totals.tps, 1 / other.tps, 1 / measured
    if served > LIGHT_ABOVE:
        measured_ms = float(run["mean_tpot_ms"])
        yield "time per token", one.by_request, totals.tpot_ms, other.tpot_ms, measured_ms


class _StepShapes:
    """The columns of a replay's steps that a mean shape is made of."""

    def __init__(self, steps: pl.DataFrame, profile: Profile) -> None:
        self.steps = steps
        self.scheduled = steps["scheduled"].to_numpy().astype(np.float64)
        prompts = profile.lengths.pairs()[0].astype(np.float64)
        self.pairs_per_token = float((prompts**2).mean() / prompts.mean() / 2)

    def mean(self, share: Floats) -> MeanShape:
        """The mean over steps, each counting for its share."""
        batched = self.steps["batched_tokens"].to_numpy()
        distinct = self.steps["distinct_adapters"].to_numpy().astype(np.float64)
        context = self.steps["context_tokens"].to_numpy().astype(np.float64)
        step_s, prefill = self._of(share, "duration_s"), batched - self.scheduled
        mixed = prefill > 0
        new = share * self.steps["is_new_batch"].to_numpy()
        return MeanShape(
            tokens=np.bincount(batched, weights=share).astype(np.float64),
            adapters=np.bincount(batched, weights=share * distinct).astype(np.float64),
            requests=float(share @ self.scheduled),
            context_tokens=float((share * ~mixed) @ context),
            mixed_context_tokens=float((share * mixed) @ context),
            attention_pairs=float(share @ prefill) * self.pairs_per_token,
            skipped=self._of(share, "skipped"),
            waiting=self._of(share, "waiting"),
            new_batches=float(new.sum()),
            new_requests=float(new @ self.scheduled),
            load_ms=self._of(share, "load_s") * 1e3,
            step_ms=step_s * 1e3,
        )

    def _of(self, share: Floats, column: str) -> float:
        return float(share @ self.steps[column].to_numpy().astype(np.float64))


def _stacked(rows: Sequence[Floats], max_tokens: int) -> sparse.csr_matrix:
    full = [sparse.csr_matrix(np.pad(row, (0, max_tokens + 1 - row.size))) for row in rows]
    return sparse.csr_matrix(sparse.vstack(full, format="csr"))
