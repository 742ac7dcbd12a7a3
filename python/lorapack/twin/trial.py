"""Trials: can one GPU, holding these adapters with these slots, keep this service level?

The memory rule answers first, exactly: an engine that does not start holds nothing. The twin
answers the rest, over one or more seeds, warm, and remembers every answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lorapack.fleet.fleet import Fleet
from lorapack.twin.run import simulate_many
from lorapack.twin.scenario import Scenario
from lorapack.twin.service_level import Violation, judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.profile.memory import MemoryPlan
    from lorapack.profile.profile import Profile
    from lorapack.twin.result import Result
    from lorapack.twin.service_level import ServiceLevel


@dataclass(frozen=True)
class Horizon:
    """The window a trial is judged on.

    Attributes:
        duration_s: End of the run, seconds.
        warmup_s: Start of the window, seconds. What was in flight then stands in for what is in
            flight at the end, so that short windows judge as long ones do; the longest answers take
            minutes on a full GPU.
        judge_until_s: An adapter is judged on requests that arrive before, seconds.
    """

    duration_s: float = 3600.0
    warmup_s: float = 0.0
    judge_until_s: float = 3420.0


HOUR = Horizon()
"""What every GPU of a plan is verified on."""

QUARTER = Horizon(duration_s=900.0, warmup_s=240.0, judge_until_s=720.0)
"""What searches judge on: a sixth of the hour's cost, and on all but the cliff the same answer."""


FEW_SLOTS = 8
"""Slots asked about first where the most of them are looked for."""


@dataclass(frozen=True)
class Trial:
    """One GPU to be judged.

    Attributes:
        profile: Model, GPU and engine.
        adapters: What it is to hold, in canonical order.
        max_loras: LoRA slots; 0 switches LoRA off.
        max_lora_rank: The rank slots are made for.
        rate_factor: All rates are multiplied by it: above one is a margin.
        max_cpu_loras: Adapters in the CPU cache; None: all of them.
    """

    profile: Profile
    adapters: tuple[Adapter, ...]
    max_loras: int
    max_lora_rank: int
    rate_factor: float = 1.0
    max_cpu_loras: int | None = None

    @property
    def cpu_loras(self) -> int:
        """Adapters in the CPU cache, which the engine wants to hold the slots and one at least."""
        if self.max_cpu_loras is not None:
            return self.max_cpu_loras
        return max(self.max_loras, n_adapters(self.adapters), 1)


@dataclass(frozen=True)
class Verdict:
    """What became of a trial: figures are the worst over its seeds, means where named so.

    Attributes:
        trial: What was judged.
        violations: What of the service level was broken, of all seeds; empty: it holds.
        refusal: Why the engine does not start, or None.
        served_fraction: Least served / offered tokens.
        ttft_p99_ms: Largest 99th percentile of time to first token, unserved counted.
        throughput_tps: Mean tokens per second of completed requests.
        results: The twin's own answers, one a seed; empty if the engine does not start.
    """

    trial: Trial
    violations: tuple[Violation, ...] = ()
    refusal: str | None = None
    served_fraction: float = 0.0
    ttft_p99_ms: float = float("inf")
    throughput_tps: float = 0.0
    results: tuple[Result, ...] = field(default=(), repr=False)

    @property
    def holds(self) -> bool:
        """Whether the engine starts and nothing was broken on any seed."""
        return self.refusal is None and not self.violations


@dataclass
class TwinJudge:
    """Judges trials with the twin; the packer's evaluator of record.

    Attributes:
        slo: The service level.
        horizon: The window.
        seeds: One simulation each; a trial holds when all do.
        jobs: Threads; None: all cores. No answer depends on it.
        host_memory_gib: Host memory of a GPU for adapters in the CPU cache; None: ample.
        simulations: How many were run so far.
    """

    slo: ServiceLevel
    horizon: Horizon = HOUR
    seeds: tuple[int, ...] = (0,)
    jobs: int | None = None
    host_memory_gib: float | None = None
    simulations: int = 0
    _verdicts: dict[tuple[object, ...], Verdict] = field(default_factory=dict, repr=False)
    _memory: dict[tuple[int, int, int], MemoryPlan] = field(default_factory=dict, repr=False)

    def judge(self, trials: Sequence[Trial]) -> list[Verdict]:
        """Judges all trials, in order; those not seen before run side by side.

        Args:
            trials: What to judge; the same trial twice costs once.

        Returns:
            One verdict a trial.
        """
        keys = [_key(trial) for trial in trials]
        fresh = {
            key: trial for key, trial in zip(keys, trials, strict=True) if key not in self._verdicts
        }
        started = {key: trial for key, trial in fresh.items() if self._refuse(key, trial) is None}
        self._simulate(started)
        return [self._verdicts[key] for key in keys]

    def memory(self, profile: Profile, max_loras: int, max_lora_rank: int) -> MemoryPlan:
        """What the memory rule says of an engine of this profile."""
        key = (id(profile), max_loras, max_lora_rank)
        if key not in self._memory:
            self._memory[key] = profile.memory_plan(max_loras, max_lora_rank if max_loras else 0)
        return self._memory[key]

    def slot_limit(self, profile: Profile, max_lora_rank: int) -> int:
        """The most LoRA slots of that rank with which the engine starts; 0 if none does."""
        if not self.memory(profile, 1, max_lora_rank).starts:
            return 0
        low, high = 1, FEW_SLOTS
        while self.memory(profile, high, max_lora_rank).starts:
            low, high = high, max(high + 1, self._last_slot(profile, max_lora_rank, high))
        step = 1
        while high - low > 1:
            # The limit is near where it first broke: steps down from there double.
            aim, step = max(high - step, (low + high) // 2), 2 * step
            if self.memory(profile, aim, max_lora_rank).starts:
                low = aim
            else:
                high = aim
        return low

    def _last_slot(self, profile: Profile, rank: int, slots: int) -> int:
        """Where one sequence would just fit, by a straight line through 1 and so many slots."""
        first, last = (self.memory(profile, n, rank).kv_cache_tokens for n in (1, slots))
        if last >= first or slots == 1:
            return 2 * slots
        room = first - profile.engine.max_model_len
        return min(1 + room * (slots - 1) // (first - last), 16 * slots)

    def kv_cache_tokens(self, profile: Profile, max_loras: int, max_lora_rank: int) -> int:
        """KV capacity of an engine, tokens; 0 if it does not start."""
        plan = self.memory(profile, max_loras, max_lora_rank)
        return plan.kv_cache_tokens if plan.starts else 0

    def refusal(self, trial: Trial) -> str | None:
        """Why the engine of a trial does not start, or lacks host memory; None: it runs."""
        plan = self.memory(trial.profile, trial.max_loras, trial.max_lora_rank)
        return plan.refusal or self._host_refusal(trial, plan)

    def _refuse(self, key: tuple[object, ...], trial: Trial) -> Verdict | None:
        refusal = self.refusal(trial)
        if refusal is None:
            return None
        verdict = Verdict(trial, refusal=refusal)
        self._verdicts[key] = verdict
        return verdict

    def _host_refusal(self, trial: Trial, plan: MemoryPlan) -> str | None:
        """Whether host memory is too short for the largest adapters that the cache may hold."""
        if self.host_memory_gib is None:
            return None
        ranks = sorted((adapter.rank for adapter in trial.adapters), reverse=True)
        short = plan.host_gib(ranks[: trial.cpu_loras]) > self.host_memory_gib
        return "host_memory" if short else None

    def _simulate(self, trials: Mapping[tuple[object, ...], Trial]) -> None:
        scenarios = [
            scenario_of(trial, self.horizon, seed)
            for trial in trials.values()
            for seed in self.seeds
        ]
        results = simulate_many(scenarios, jobs=self.jobs)
        self.simulations += len(scenarios)
        per_trial = len(self.seeds)
        for index, (key, trial) in enumerate(trials.items()):
            own = results[index * per_trial : (index + 1) * per_trial]
            self._verdicts[key] = verdict_of(trial, own, self.slo)


def scenario_of(trial: Trial, horizon: Horizon, seed: int) -> Scenario:
    """The warm scenario the twin runs for a trial."""
    fleet = Fleet(trial.adapters)
    if trial.rate_factor != 1.0:
        fleet = fleet.scaled(trial.rate_factor)
    return Scenario(
        profile=trial.profile,
        fleet=fleet,
        max_loras=trial.max_loras,
        max_lora_rank=trial.max_lora_rank if trial.max_loras else None,
        max_cpu_loras=trial.cpu_loras,
        duration_s=horizon.duration_s,
        warmup_s=horizon.warmup_s,
        judge_until_s=horizon.judge_until_s,
        seed=seed,
        warm=True,
    )


def verdict_of(trial: Trial, results: Iterable[Result], slo: ServiceLevel) -> Verdict:
    """Joins the runs of one trial, one a seed, into the worst of them."""
    runs = tuple(results)
    return Verdict(
        trial,
        violations=tuple(v for run in runs for v in judge(slo, run)),
        served_fraction=min(run.served_fraction for run in runs),
        ttft_p99_ms=max(run.ttft_with_unserved_p99_ms for run in runs),
        throughput_tps=sum(run.throughput_tps for run in runs) / len(runs),
        results=runs,
    )


def n_adapters(adapters: Iterable[Adapter]) -> int:
    """How many of these take a LoRA slot: the base model itself (rank 0) takes none."""
    return sum(1 for adapter in adapters if adapter.rank > 0)


def at_rate(trial: Trial, factor: float) -> Trial:
    """The same trial with all rates multiplied."""
    return replace(trial, rate_factor=trial.rate_factor * factor)


def _key(trial: Trial) -> tuple[object, ...]:
    return (
        id(trial.profile),
        trial.adapters,
        trial.max_loras,
        trial.max_lora_rank,
        trial.rate_factor,
        trial.max_cpu_loras,
    )
