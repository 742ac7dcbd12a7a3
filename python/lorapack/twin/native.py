"""A scenario as the native module takes it: integers, tables, adapters by number.

The only way in. Floats end here: every time is rounded to whole picoseconds once.
"""

from __future__ import annotations

import functools
import hashlib
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from lorapack import _native
from lorapack.errors import InputError, did_you_mean
from lorapack.twin.arrivals import OwnGaps
from lorapack.twin.lengths import OwnLengths
from lorapack.twin.scenario import LONGEST_S, Engine, Scenario

if TYPE_CHECKING:
    import polars as pl

    from lorapack.fleet.adapter import Adapter
    from lorapack.fleet.fleet import Fleet
    from lorapack.profile.front_end import FrontEnd
    from lorapack.profile.step_time import StepTime
    from lorapack.trace.trace import Trace

NativeScenario: TypeAlias = _native.Scenario
NativeOutcome: TypeAlias = _native.Outcome

PICOSECONDS = 1_000_000_000_000
"""In a second: the unit in which the twin counts."""

JUDGED_TAIL_S = 180.0
"""Requests that arrive in the last 3 minutes of the window (a twentieth, if it is shorter than an
hour) do not count towards an adapter's judged share: the end cuts them off, not the engine."""


def native_scenario(scenario: Scenario) -> _native.Scenario:
    """The scenario as the twin takes it.

    Args:
        scenario: What to run.

    Returns:
        All of it in the native module's own classes.

    Raises:
        Infeasible: The engine would not start.
        InputError: The trace names an adapter that the fleet has not, or holds what cannot be run.
    """
    engine, profile, trace = scenario.engine, scenario.profile, scenario.trace
    adapters, shapes = _adapters(scenario)
    return _native.Scenario(
        adapters=adapters,
        length_shapes=shapes,
        trace=None if trace is None else _trace(trace, scenario.fleet),
        engine=native_engine(engine),
        step_time=native_step_time(
            profile.step_time,
            engine.max_loras,
            engine.max_lora_rank,
            engine.max_num_batched_tokens,
            cpu_loras=min(engine.max_cpu_loras, sum(a.rank > 0 for a in scenario.fleet)),
            offered_rps=_offered_rps(scenario),
        ),
        front_end=native_front_end(profile.front_end),
        duration_ps=None if scenario.duration_s is None else _picoseconds(scenario.duration_s),
        warmup_ps=_picoseconds(scenario.warmup_s),
        judge_until_ps=_picoseconds(_judge_until_s(scenario)),
        seed=scenario.seed,
        max_in_flight=scenario.max_in_flight,
        warm=scenario.warm,
        scrape_interval_ps=(
            None if scenario.scrape_interval_s is None else _picoseconds(scenario.scrape_interval_s)
        ),
    )


def native_engine(engine: Engine) -> _native.EngineSettings:
    """The engine's settings as the twin takes them."""
    return _native.EngineSettings(
        rule_set=engine.rule_set,
        block_size=engine.block_size,
        num_blocks=engine.kv_cache_tokens // engine.block_size,
        max_loras=engine.max_loras,
        max_cpu_loras=engine.max_cpu_loras,
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        # 0.8.5 starts when a sequence fits only with the null block's help: it would never end.
        max_model_len=min(engine.max_model_len, engine.usable_tokens + 1),
        long_prefill_token_threshold=engine.long_prefill_token_threshold,
    )


@functools.lru_cache(maxsize=64)
def native_step_time(
    step_time: StepTime,
    max_loras: int,
    max_lora_rank: int,
    max_num_batched_tokens: int,
    cpu_loras: int,
    offered_rps: float,
) -> _native.StepTime:
    """The prices of a step as the twin takes them; the same object for the same arguments."""
    tables = step_time.tables(
        max_loras, max_lora_rank, max_num_batched_tokens, cpu_loras, offered_rps
    )
    return _native.StepTime(
        base_ps=tables.base,
        distinct_adapter_ps=tables.distinct_adapter,
        request_ps=tables.request_ps,
        context_token_ps=tables.context_token_ps,
        mixed_context_token_ps=tables.mixed_context_token_ps,
        attention_pair_ps=tables.attention_pair_ps,
        skipped_ps=tables.skipped_ps,
        waiting_ps=tables.waiting_ps,
        mapping_ps=tables.mapping_ps,
        mapping_request_ps=tables.mapping_request_ps,
    )


@functools.lru_cache(maxsize=64)
def native_front_end(front_end: FrontEnd) -> _native.FrontEnd:
    """The front end as the twin takes it; the same object for the same arguments."""
    tables = front_end.tables()
    return _native.FrontEnd(
        request_ps=tables.request_ps,
        first_use_ps=tables.first_use_ps,
        first_token_fixed_ps=tables.first_token_fixed_ps,
        first_token_request_ps=tables.first_token_request_ps,
        first_token_step_ppm=tables.first_token_step_ppm,
        series_ps=tables.series_ps,
        series_adapter_ps=tables.series_adapter_ps,
    )


@functools.lru_cache(maxsize=2**17)
def stream_key(adapter: str) -> int:
    """The number that names an adapter's random streams: of its name alone, on every machine.

    Args:
        adapter: The adapter's name.

    Returns:
        64 bits of BLAKE2b.

    Example:
        >>> stream_key("summaries") == stream_key("summaries") != stream_key("translations")
        True
    """
    digest = hashlib.blake2b(adapter.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _picoseconds(seconds: float) -> int:
    return round(seconds * PICOSECONDS)


def _judge_until_s(scenario: Scenario) -> float:
    if scenario.judge_until_s is not None:
        return scenario.judge_until_s
    if scenario.duration_s is None:
        return LONGEST_S
    return scenario.duration_s - min(JUDGED_TAIL_S, (scenario.duration_s - scenario.warmup_s) / 20)


def _adapters(scenario: Scenario) -> tuple[list[_native.Adapter], list[_native.LengthShape]]:
    """The adapters, and the length shapes that they point to."""
    loads_ps = _loads_ps(scenario)
    draw = (scenario.lengths or OwnLengths()).bound(scenario.profile.lengths)
    indices: dict[_native.LengthShape, int] = {}
    adapters = []
    for adapter in scenario.fleet:
        shape, prompt_scale, output_scale = draw(adapter)
        gpu_load_ps, disk_load_ps = loads_ps[adapter.rank]
        native = _native.Adapter(
            key=stream_key(adapter.adapter),
            is_base=adapter.is_base,
            arrivals=_arrivals(scenario, adapter),
            length_shape=indices.setdefault(shape, len(indices)),
            prompt_scale=prompt_scale,
            output_scale=output_scale,
            gpu_load_ps=gpu_load_ps,
            disk_load_ps=disk_load_ps,
        )
        adapters.append(native)
    return adapters, list(indices)


def _loads_ps(scenario: Scenario) -> dict[int, tuple[int, int]]:
    """By rank: picoseconds from CPU to slot, and from disk to CPU."""
    loading, max_lora_rank = scenario.profile.adapter_loading, scenario.engine.max_lora_rank
    return {
        rank: (loading.gpu_load_ps(rank, max_lora_rank), loading.disk_load_ps(rank))
        for rank in {adapter.rank for adapter in scenario.fleet}
    }


def _arrivals(scenario: Scenario, adapter: Adapter) -> _native.Arrivals:
    trace_alone = scenario.arrivals is None and scenario.trace is not None
    if adapter.rate_rps == 0.0 or trace_alone:
        return _native.Arrivals.none()
    return (scenario.arrivals or OwnGaps()).native(adapter)


def _offered_rps(scenario: Scenario) -> float:
    """Requests offered, a second: the fleet's rates, and the trace's rows over its span."""
    trace = scenario.trace
    generated = 0.0
    if scenario.arrivals is not None or trace is None:
        generated = sum(adapter.rate_rps for adapter in scenario.fleet)
    if trace is None or trace.frame.height < 2:
        return generated
    first, last = trace.frame["arrival_s"][0], trace.frame["arrival_s"][-1]
    span_s = scenario.duration_s or float(last - first)
    return generated + (trace.frame.height / span_s if span_s > 0 else 0.0)


def _trace(trace: Trace, fleet: Fleet) -> _native.Trace:
    """The trace's rows, adapters by their place in the fleet."""
    import polars as pl

    index = {adapter.adapter: i for i, adapter in enumerate(fleet)}
    _check_trace(trace, index)
    frame = trace.frame
    places = frame["adapter"].replace_strict(index, return_dtype=pl.UInt32)
    return _native.Trace(
        arrival_ps=np.rint(frame["arrival_s"].to_numpy() * PICOSECONDS).astype(np.uint64),
        adapter=places.to_numpy(),
        prompt_tokens=frame["prompt_tokens"].cast(pl.UInt32).to_numpy(),
        output_tokens=frame["output_tokens"].cast(pl.UInt32).to_numpy(),
    )


def _check_trace(trace: Trace, index: dict[str, int]) -> None:
    frame = trace.frame
    if not trace.names_adapters:
        mend = "names no adapter: `lorapack fleet from-trace` deals its requests to some"
        raise InputError(trace.source, "column adapter", None, mend)
    for name in frame["adapter"].unique(maintain_order=True):
        if name not in index:
            mend = f"is not in the fleet: {did_you_mean(name, list(index)[:10_000])}"
            raise InputError(trace.source, "column adapter", name, mend)
    _check_range(trace, frame["arrival_s"], 0, LONGEST_S)
    _check_range(trace, frame["prompt_tokens"], 1, 2**31)
    _check_range(trace, frame["output_tokens"], 1, 2**31)


def _check_range(trace: Trace, column: pl.Series, low: float, high: float) -> None:
    wrong = column.filter(~column.is_between(low, high))
    if len(wrong):
        mend = f"give numbers from {low:.0f} to {high:.0f}"
        raise InputError(trace.source, f"column {column.name}", wrong[0], mend)
