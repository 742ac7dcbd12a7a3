"""What a simulated run came to: totals, a row for each adapter, and the records if they were kept.

Figures are of the window ``[warmup_s, duration_s]``: a request that arrives in it is offered, one
whose last token is made in it is completed. Times are the client's, through the front end.
"""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lorapack.twin.scenario import JUDGED_REQUESTS, STARVED_BELOW, Engine, Scenario

if TYPE_CHECKING:
    import polars as pl

    from lorapack import _native

STATUSES = ("completed", "unfinished", "dropped")
"""How a request ended: all tokens made; cut off by the end of the run; turned away at the door."""


@dataclass(frozen=True)
class Spread:
    """A time's distribution, milliseconds; not a number when nothing was counted.

    Attributes:
        mean: Arithmetic mean, exact.
        p50: Median; quantiles are within 0.4 %.
        p90: 90th percentile.
        p99: 99th percentile.
    """

    mean: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True)
class KvUsage:
    """Share of the usable KV blocks in use, 0..1.

    Attributes:
        mean: Over time.
        max: In the fullest step.
    """

    mean: float
    max: float


class Result:
    """What a run came to.

    Example:
        >>> import lorapack as lp
        >>> fleet = lp.Fleet([lp.Adapter("sql", rank=16, rate_rps=0.5)])
        >>> result = lp.simulate(lp.Profile.load(), fleet, duration_s=120, records=True)
        >>> result.requests.height == result.offered, result.steps.height == result.n_steps
        (True, True)
        >>> result.per_adapter["adapter"].to_list(), 0 < result.ttft_ms.p50 <= result.ttft_ms.p99
        (['sql'], True)

    Attributes:
        scenario: What was run.
        wall_s: What it took here, seconds.
        offered: Requests that arrived in the window, dropped ones included.
        offered_prompt_tokens: Their prompt tokens.
        offered_output_tokens: Their output tokens.
        dropped: Of the offered, those the cap on requests in flight turned away.
        completed: Requests completed in the window.
        input_tokens: Their prompt tokens.
        output_tokens: Their output tokens.
        unfinished: Accepted, but not completed when the run ended.
        ttft_ms: Time to first token, over completed requests.
        ttft_with_unserved_p99_ms: 99th percentile of TTFT over all offered requests: one without a
            token counts with its age at the end, a dropped one as infinite.
        tpot_ms: Time per output token after the first, over completed requests.
        itl_ms: Time between tokens.
        preemptions: Requests sent back to the queue for lack of KV blocks.
        adapter_loads: Copies into a GPU slot.
        disk_loads: Reads from disk.
        load_s: What loads and reads took, seconds.
        mean_running: Requests running, mean over time.
        max_running: Most in a step.
        mean_waiting: Requests waiting, mean over time.
        max_waiting: Most in a step.
        mean_distinct_adapters: Distinct adapters in a batch, mean over time.
        kv_usage: Share of KV blocks in use.
        n_steps: Engine steps.
        lora_series: Time series of ``vllm:lora_requests_info`` at the end; 0 unless scraped.
        lora_series_adapters: Adapters that they name, each as often as it is named.
        busy_s: Time spent in steps, seconds.
        makespan_s: End of the last step, seconds.
        simulated_s: Length of the run, seconds.
    """

    scenario: Scenario
    wall_s: float
    offered: int
    offered_prompt_tokens: int
    offered_output_tokens: int
    dropped: int
    completed: int
    input_tokens: int
    output_tokens: int
    unfinished: int
    ttft_ms: Spread
    ttft_with_unserved_p99_ms: float
    tpot_ms: Spread
    itl_ms: Spread
    preemptions: int
    adapter_loads: int
    disk_loads: int
    load_s: float
    mean_running: float
    max_running: int
    mean_waiting: float
    max_waiting: int
    mean_distinct_adapters: float
    kv_usage: KvUsage
    n_steps: int
    lora_series: int
    lora_series_adapters: int
    busy_s: float
    makespan_s: float
    simulated_s: float

    def __init__(self, scenario: Scenario, outcome: _native.Outcome, wall_s: float) -> None:
        totals = outcome.summary()
        self.scenario = scenario
        self.wall_s = wall_s
        self._outcome = outcome
        for name in _SPREADS:
            setattr(self, name, Spread(**totals.pop(name)))
        self.kv_usage = KvUsage(totals.pop("kv_usage_mean"), totals.pop("kv_usage_max"))
        self.n_steps = totals.pop("steps")
        self.__dict__.update(totals)

    def __repr__(self) -> str:
        return (
            f"Result(served_fraction={self.served_fraction:.4f}, "
            f"throughput_tps={self.throughput_tps:.1f}, completed={self.completed}, "
            f"ttft_p99_ms={self.ttft_ms.p99:.1f}, starved={self.starved})"
        )

    @property
    def engine(self) -> Engine:
        """The engine settings that were simulated."""
        return self.scenario.engine

    @property
    def window_s(self) -> float:
        """Length of the window in which things are counted, seconds."""
        return self.simulated_s - self.scenario.warmup_s

    @property
    def throughput_tps(self) -> float:
        """Prompt and output tokens of completed requests, tokens per second."""
        return _rate(self.input_tokens + self.output_tokens, self.window_s)

    @property
    def offered_tps(self) -> float:
        """Prompt and output tokens of offered requests, tokens per second."""
        return _rate(self.offered_prompt_tokens + self.offered_output_tokens, self.window_s)

    @property
    def served_fraction(self) -> float:
        """Served over offered tokens, 0..1; 1 when nothing was offered.

        After a warm-up, what was in flight at its end may be served on top: that counts up to 1.
        """
        offered = self.offered_prompt_tokens + self.offered_output_tokens
        return 1.0 if offered == 0 else min(1.0, (self.input_tokens + self.output_tokens) / offered)

    @property
    def starved(self) -> bool:
        """Whether less than 0.9 of the offered load was served (the papers' rule)."""
        return self.served_fraction < STARVED_BELOW

    @functools.cached_property
    def per_adapter(self) -> pl.DataFrame:
        """One row an adapter, in fleet order.

        Columns: ``adapter``, ``rank``, ``offered``, ``offered_tokens``, ``completed``,
        ``input_tokens``, ``output_tokens``, ``ttft_mean_ms`` (null without a completed request),
        ``judged_offered``, ``judged_completed`` (of the requests that arrived early enough to be
        judged: how many, and how many of them were completed), ``served_fraction`` (of the judged
        requests; null without any), ``starved`` (below 0.9 over 8 or more judged requests).
        """
        import polars as pl

        # Without a query: its own overhead would be most of the cost of a short run.
        counts = pl.DataFrame(self._outcome.adapters)
        totals = {name: counts[name].to_list() for name in counts.columns}
        served = _ratios(totals["judged_completed"], totals["judged_offered"])
        starved = [
            n >= JUDGED_REQUESTS and share is not None and share < STARVED_BELOW
            for n, share in zip(totals["judged_offered"], served, strict=True)
        ]
        ttft_mean_ms = _ratios(totals["ttft_sum_ms"], totals["completed"])
        ranks = [adapter.rank for adapter in self.scenario.fleet]
        columns = [
            self._names,
            pl.Series("rank", ranks, dtype=pl.UInt32),
            *counts.get_columns()[:5],
            pl.Series("ttft_mean_ms", ttft_mean_ms, dtype=pl.Float64),
            *counts.get_columns()[6:],
            pl.Series("served_fraction", served, dtype=pl.Float64),
            pl.Series("starved", starved, dtype=pl.Boolean),
        ]
        return pl.DataFrame(columns)

    @functools.cached_property
    def requests(self) -> pl.DataFrame | None:
        """One row a request, in order of arrival; ``None`` unless the scenario keeps records.

        The numbers are the twin's own memory, not a copy. Columns: ``adapter``, ``arrival_s``
        (client's send time), ``engine_arrival_s`` (NaN if dropped), ``ttft_ms`` and
        ``first_token_s`` (NaN without a token), ``done_s`` (NaN unless completed),
        ``prompt_tokens``, ``output_tokens``, ``preemptions``, ``status``.
        """
        import polars as pl

        if self._outcome.requests is None:
            return None
        frame = pl.DataFrame(self._outcome.requests)
        statuses = pl.Series(STATUSES, dtype=pl.Enum(STATUSES))
        return frame.with_columns(
            self._names.gather(frame["adapter"]).alias("adapter"),
            statuses.gather(frame["status"]).alias("status"),
        )

    @functools.cached_property
    def steps(self) -> pl.DataFrame | None:
        """One row an engine step; ``None`` unless the scenario keeps records.

        The numbers are the twin's own memory, not a copy. Columns: ``start_s``, ``duration_s``,
        ``batched_tokens``, ``scheduled``, ``running``, ``waiting`` (after scheduling), ``skipped``,
        ``is_new_batch`` (not one more token of each request of the step before),
        ``distinct_adapters``, ``context_tokens``, ``used_blocks``, ``preempted``, ``finished``,
        ``adapter_loads``, ``load_s``.
        """
        import polars as pl

        return None if self._outcome.steps is None else pl.DataFrame(self._outcome.steps)

    def to_dict(self) -> dict[str, Any]:
        """The run as ``lorapack simulate --json`` prints it; times that do not exist are NaN."""
        return {
            "served_fraction": self.served_fraction,
            "throughput_tps": self.throughput_tps,
            "offered_tps": self.offered_tps,
            "offered": self.offered,
            "dropped": self.dropped,
            "completed": self.completed,
            "unfinished": self.unfinished,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            **{name: asdict(getattr(self, name)) for name in _SPREADS},
            "ttft_with_unserved_p99_ms": self.ttft_with_unserved_p99_ms,
            "preemptions": self.preemptions,
            "adapter_loads": self.adapter_loads,
            "disk_loads": self.disk_loads,
            "load_s": self.load_s,
            "mean_running": self.mean_running,
            "max_running": self.max_running,
            "mean_waiting": self.mean_waiting,
            "max_waiting": self.max_waiting,
            "mean_distinct_adapters": self.mean_distinct_adapters,
            "kv_usage": asdict(self.kv_usage),
            "starved": self.starved,
            "makespan_s": self.makespan_s,
            "busy_s": self.busy_s,
            "steps": self.n_steps,
            "per_adapter": self.per_adapter.to_dicts(),
            "profile": self.scenario.profile.name,
            "engine": asdict(self.engine),
            "duration_s": self.scenario.duration_s,
            "warmup_s": self.scenario.warmup_s,
            "seed": self.scenario.seed,
            "max_in_flight": self.scenario.max_in_flight,
            "warm": self.scenario.warm,
            "scrape_interval_s": self.scenario.scrape_interval_s,
            "simulated_s": self.simulated_s,
            "wall_s": self.wall_s,
        }

    @functools.cached_property
    def _names(self) -> pl.Series:
        import polars as pl

        names = [adapter.adapter for adapter in self.scenario.fleet]
        return pl.Series("adapter", names, dtype=pl.Enum(names))


_SPREADS = ("ttft_ms", "tpot_ms", "itl_ms")


def _rate(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 else 0.0


def _ratios(parts: list[float], wholes: list[int]) -> list[float | None]:
    """Part over whole, ``None`` where the whole is nothing."""
    return [part / whole if whole else None for part, whole in zip(parts, wholes, strict=True)]
