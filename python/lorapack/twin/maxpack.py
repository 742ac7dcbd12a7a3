"""Maxpack: the most adapters of one kind that a GPU serves within a service level.

The count is found by galloping and bisection; at each, slots are walked over the choices worth
having, and one that holds is enough. The curve keeps every trial, and is filled in with slots on
both sides at the best count and at an overloaded one, so that it shows the rise of throughput with
slots (adapters stop waiting for one another) and its fall (slots take KV memory and make every step
dearer).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.errors import Infeasible
from lorapack.fleet.adapter import Adapter
from lorapack.twin.scenario import rounded_up_rank
from lorapack.twin.service_level import ServiceLevel, service_level
from lorapack.twin.trial import QUARTER, Horizon, Trial, TwinJudge, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorapack.profile.profile import Profile

SHARES = (1.0, 0.85, 0.7, 0.5, 0.35, 0.25)
"""Slots tried as shares of the adapters."""

COUNTS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""Slots tried as plain numbers."""

OVERLOAD = 1.5
"""The curve is filled in at so many times the best count, too: below it, all that is offered is
served whatever the slots; beyond, throughput shows what they are worth."""

LARGEST_COUNT = 20_000
"""No search goes further: adapters this cold are bound by something else."""


@dataclass(frozen=True)
class CurvePoint:
    """One trial of the search.

    Attributes:
        adapters: Adapters on the GPU.
        max_loras: Slots.
        starts: Whether the engine starts.
        holds: Whether the service level is kept on every seed.
        throughput_tps: Served tokens per second, mean over seeds.
        served_fraction: Served over offered tokens, the least of the seeds.
        ttft_p99_ms: 99th percentile of TTFT, unserved counted, the worst of the seeds.
        kv_cache_tokens: KV capacity left beside the slots.
        preemptions: In all seeds.
    """

    adapters: int
    max_loras: int
    starts: bool
    holds: bool
    throughput_tps: float
    served_fraction: float
    ttft_p99_ms: float | None
    kv_cache_tokens: int
    preemptions: int


@dataclass(frozen=True)
class Maxpack:
    """What the search found.

    Attributes:
        maxpack: The most adapters that hold; 0 if not even one does.
        max_loras: The slots it takes; 0 if none does.
        rate_rps: Of each adapter.
        rank: Of each adapter.
        slo: The service level's name.
        curve: Every trial, by adapters, then slots.
    """

    maxpack: int
    max_loras: int
    rate_rps: float
    rank: int
    slo: str
    curve: tuple[CurvePoint, ...]

    def to_dict(self) -> dict[str, object]:
        """INTERFACE.md's keys."""
        return {
            "maxpack": self.maxpack,
            "max_loras": self.max_loras,
            "rate_rps": self.rate_rps,
            "rank": self.rank,
            "slo": self.slo,
            "curve": [vars(point) for point in self.curve],
        }


def maxpack(
    profile: Profile,
    *,
    rate_rps: float,
    rank: int,
    slo: str | ServiceLevel = "interactive",
    prompt_tokens: float | None = None,
    output_tokens: float | None = None,
    cv: float = 1.0,
    seeds: Sequence[int] = (0,),
    horizon: Horizon = QUARTER,
    jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Maxpack:
    """Finds the most adapters of one rate and rank that a GPU serves, and with how many slots.

    Args:
        profile: Model, GPU and engine.
        rate_rps: Requests per second of each adapter.
        rank: LoRA rank of each adapter.
        slo: The service level or its name.
        prompt_tokens: Mean prompt, tokens; None: the profile's.
        output_tokens: Mean output, tokens; None: the profile's.
        cv: Coefficient of variation of the gaps between requests.
        seeds: A count holds when it does on all of them.
        horizon: The window to judge on.
        jobs: Threads; None: all cores.
        progress: Told after each round how many trials were made so far.

    Raises:
        Infeasible: No engine of this profile starts with one slot of that rank.

    Example:
        >>> import lorapack as lp
        >>> found = maxpack(lp.Profile.load(), rate_rps=4.0, rank=8)
        >>> found.maxpack >= 4, found.max_loras <= found.maxpack
        (True, True)
    """
    level = service_level(slo) if isinstance(slo, str) else slo
    judge = TwinJudge(level, horizon, tuple(seeds), jobs)
    adapter = Adapter(
        "adapter",
        rank,
        rate_rps,
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        cv=cv,
    )
    limit = judge.slot_limit(profile, rounded_up_rank(rank))
    if limit == 0:
        plan = judge.memory(profile, 1, rounded_up_rank(rank))
        raise Infeasible(
            f"no engine of {profile.name} starts with one slot of rank {rounded_up_rank(rank)}: "
            f"{plan.refusal}",
            "; ".join(map(str, plan.mends)) or None,
        )
    search = _Search(profile, adapter, judge, limit, progress or (lambda _: None))
    return search.run()


class _Search:
    """Trials made so far, by (adapters, slots)."""

    def __init__(
        self,
        profile: Profile,
        adapter: Adapter,
        judge: TwinJudge,
        limit: int,
        progress: Callable[[int], None],
    ) -> None:
        self.profile = profile
        self.adapter = adapter
        self.judge = judge
        self.limit = limit
        self.progress = progress
        self.made: dict[tuple[int, int], Verdict] = {}

    def run(self) -> Maxpack:
        """The search: over counts first, any slots; then slots around the best."""
        best, broke = 0, None
        count = 1
        while broke is None or broke - best > 1:
            if self._holds(count):
                best = count
            else:
                broke = count
            count = 2 * best or 1 if broke is None else (best + broke) // 2
            if broke is None and count > LARGEST_COUNT:
                break
        self._fill_in(max(best, 1))
        self._fill_in(math.ceil(OVERLOAD * max(best, 1)))
        return Maxpack(
            maxpack=best,
            max_loras=self._best_slots(best),
            rate_rps=self.adapter.rate_rps,
            rank=self.adapter.rank,
            slo=self.judge.slo.name,
            curve=tuple(self._point(key) for key in sorted(self.made)),
        )

    def _holds(self, count: int) -> bool:
        """Whether some number of slots serves the count; the last best ones are asked first."""
        slots = self._slots(count)
        favoured = [s for s in slots if s in self._won(count)]
        for batch in (favoured, [s for s in slots if s not in favoured]):
            if any(verdict.holds for verdict in self._try([(count, s) for s in batch])):
                return True
        return False

    def _won(self, count: int) -> set[int]:
        """Slots that held for smaller counts, carried over as numbers and as shares."""
        winners = [key for key, verdict in self.made.items() if verdict.holds][-2:]
        return {min(self.limit, count, s) for _, s in winners} | {
            max(1, min(self.limit, -(-s * count // n))) for n, s in winners
        }

    def _slots(self, count: int) -> list[int]:
        most = min(count, self.limit)
        found = {max(1, min(most, -(-count * round(100 * share) // 100))) for share in SHARES}
        found |= {slots for slots in COUNTS if slots <= most}
        return sorted(found | {s for s in self._won(count) if s <= most}, reverse=True)

    def _fill_in(self, count: int) -> None:
        """Every choice of slots at a count, the first that the engine refuses included."""
        beyond = [slots for slots in COUNTS if self.limit < slots <= 2 * self.limit][:1]
        wanted = self._slots(count) + [s for s in COUNTS if count < s <= self.limit][:2] + beyond
        self._try([(count, slots) for slots in wanted])

    def _try(self, keys: Sequence[tuple[int, int]]) -> list[Verdict]:
        fresh = [key for key in keys if key not in self.made]
        verdicts = self.judge.judge([self._trial(*key) for key in fresh])
        self.made.update(zip(fresh, verdicts, strict=True))
        self.progress(len(self.made))
        return [self.made[key] for key in keys]

    def _trial(self, count: int, slots: int) -> Trial:
        adapters = tuple(
            replace(self.adapter, adapter=f"adapter-{index:05d}") for index in range(count)
        )
        return Trial(self.profile, adapters, slots, rounded_up_rank(self.adapter.rank))

    def _best_slots(self, count: int) -> int:
        holding = [
            (verdict.ttft_p99_ms, slots)
            for (n, slots), verdict in self.made.items()
            if n == count and verdict.holds
        ]
        return min(holding)[1] if holding else 0

    def _point(self, key: tuple[int, int]) -> CurvePoint:
        verdict = self.made[key]
        starts = verdict.refusal is None
        return CurvePoint(
            adapters=key[0],
            max_loras=key[1],
            starts=starts,
            holds=verdict.holds,
            throughput_tps=verdict.throughput_tps,
            served_fraction=verdict.served_fraction,
            ttft_p99_ms=verdict.ttft_p99_ms if starts else None,
            kv_cache_tokens=self.judge.kv_cache_tokens(
                self.profile, key[1], rounded_up_rank(self.adapter.rank)
            ),
            preemptions=sum(run.preemptions for run in verdict.results),
        )
