"""Running scenarios: one with :func:`simulate`, many side by side with :func:`simulate_many`."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from lorapack import _native
from lorapack.errors import InputError
from lorapack.twin.native import NativeOutcome, NativeScenario, native_scenario
from lorapack.twin.result import Result
from lorapack.twin.scenario import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorapack.fleet.fleet import Fleet
    from lorapack.profile.profile import Profile
    from lorapack.trace.trace import Trace
    from lorapack.twin.arrivals import ArrivalLaw
    from lorapack.twin.lengths import LengthLaw


def simulate(
    profile: Profile,
    fleet: Fleet,
    *,
    max_loras: int | None = None,
    max_lora_rank: int | None = None,
    max_cpu_loras: int | None = None,
    kv_cache_tokens: int | None = None,
    max_model_len: int | None = None,
    max_num_seqs: int | None = None,
    max_num_batched_tokens: int | None = None,
    block_size: int | None = None,
    gpu_memory_utilization: float | None = None,
    long_prefill_token_threshold: int = 0,
    rule_set: str | None = None,
    duration_s: float | None = 3600.0,
    warmup_s: float = 0.0,
    judge_until_s: float | None = None,
    seed: int = 0,
    max_in_flight: int | None = None,
    warm: bool = False,
    scrape_interval_s: float | None = None,
    records: bool = False,
    arrivals: ArrivalLaw | None = None,
    lengths: LengthLaw | None = None,
    trace: Trace | None = None,
) -> Result:
    """Replays one GPU that serves a fleet.

    The GIL is released meanwhile, and Ctrl-C interrupts.

    Args:
        profile: Model, GPU and engine.
        fleet: The adapters on this GPU.
        max_loras: As all that follow: see :class:`Scenario`.
        max_lora_rank: The rank slots are made for.
        max_cpu_loras: Adapters in the CPU cache.
        kv_cache_tokens: KV cache, tokens, the null block counted.
        max_model_len: Longest sequence, tokens.
        max_num_seqs: Requests that may run at once.
        max_num_batched_tokens: Tokens a step may hold.
        block_size: Tokens a KV block.
        gpu_memory_utilization: Share of memory for the engine.
        long_prefill_token_threshold: Cap on a prefill chunk, tokens; 0: none.
        rule_set: Scheduling rules.
        duration_s: End of arrivals and of the window, seconds.
        warmup_s: Start of the window, seconds.
        judge_until_s: End of the arrivals an adapter is judged on, seconds.
        seed: Of every random stream.
        max_in_flight: An arrival that finds so many requests in the system is dropped.
        warm: Start with every adapter loaded.
        scrape_interval_s: From the answer to one scrape of the engine's metrics to the next.
        records: Keep a row for each request and step (``result.requests``, ``result.steps``).
        arrivals: How requests are spread.
        lengths: How long they are.
        trace: Recorded requests.

    Returns:
        The summary; O(requests in flight) memory unless ``records``.

    Raises:
        InputError: A value cannot be used.
        Infeasible: The engine would not start.

    Example:
        >>> from lorapack import Adapter, Fleet, Profile
        >>> fleet = Fleet([Adapter("summaries", rank=16, rate_rps=0.5)])
        >>> result = simulate(
        ...     Profile.load(), fleet, max_loras=1, kv_cache_tokens=65_536, duration_s=60
        ... )
        >>> result.starved, result.offered >= result.completed
        (False, True)
    """
    arguments = dict(locals())
    return run(Scenario(**arguments))


def run(scenario: Scenario) -> Result:
    """Runs one scenario.

    Args:
        scenario: What to run; with its ``records`` set, every request and step is kept.

    Returns:
        What came of it.

    Raises:
        InputError: A value cannot be used.
        Infeasible: The engine would not start.
    """
    started = time.perf_counter()
    outcome = _native.simulate(
        native_scenario(scenario), requests=scenario.records, steps=scenario.records
    )
    return Result(scenario, outcome, time.perf_counter() - started)


def simulate_many(
    scenarios: Sequence[Scenario],
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Result]:
    """Runs many scenarios side by side; no result depends on how many threads there are.

    Args:
        scenarios: What to run. Their ``records`` must be off: an hour's records are large.
        jobs: Threads; ``None``: as many as the process may use cores.
        progress: Told now and then how many are done so far, and at the end.

    Returns:
        One result a scenario, in their order. ``wall_s`` of each is its share of the whole.

    Raises:
        InputError: A value cannot be used.
        Infeasible: An engine would not start.

    Example:
        >>> from lorapack import Adapter, Fleet, Profile
        >>> fleet = Fleet([Adapter("summaries", rank=16, rate_rps=0.5)])
        >>> settings = {"max_loras": 1, "kv_cache_tokens": 65_536, "duration_s": 60.0}
        >>> seeds = [Scenario(Profile.load(), fleet, seed=seed, **settings) for seed in (0, 1)]
        >>> len({result.offered for result in simulate_many(seeds)})
        2
    """
    if jobs is not None and jobs < 1:
        raise InputError("simulate_many", "jobs", jobs, "give 1 or more")
    if any(scenario.records for scenario in scenarios):
        raise InputError("simulate_many", "records", True, "run scenarios with records one by one")
    if not scenarios:
        return []
    started = time.perf_counter()
    natives = [native_scenario(scenario) for scenario in scenarios]
    outcomes = outcomes_of(natives, jobs, progress)
    if progress is not None:
        progress(len(scenarios))
    each = (time.perf_counter() - started) / len(scenarios)
    return [
        Result(scenario, outcome, each)
        for scenario, outcome in zip(scenarios, outcomes, strict=True)
    ]


def outcomes_of(
    natives: Sequence[NativeScenario], jobs: int | None, progress: Callable[[int], None] | None
) -> list[NativeOutcome]:
    """What comes of scenarios in native form, in their order; the GIL is free meanwhile.

    Args:
        natives: The scenarios, by `native_scenario`.
        jobs: Threads; ``None``: all cores this process may use.
        progress: Told how many are done; what it raises ends the runs.
    """
    return _native.simulate_many(natives, threads=jobs or usable_cores(), progress=progress)


def usable_cores() -> int:
    """Cores this process may use, as far as the system says."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
