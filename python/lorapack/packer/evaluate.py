"""Can this set of adapters live on one GPU, and with how many slots?

The packer asks one question of whoever can answer it (the twin, a predictor, a stand-in of the
tests); here is the question's form, and the search over slots around it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from lorapack.twin.scenario import rounded_up_rank
from lorapack.twin.trial import Trial, Verdict, n_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.profile.profile import Profile
    from lorapack.twin.service_level import ServiceLevel


class Evaluator(Protocol):
    """Whoever can say whether a GPU keeps its promise."""

    def judge(self, trials: Sequence[Trial]) -> list[Verdict]:
        """One verdict a trial, in order."""
        ...

    def slot_limit(self, profile: Profile, max_lora_rank: int) -> int:
        """The most slots of that rank with which the engine starts; 0 if it does with none."""
        ...

    def kv_cache_tokens(self, profile: Profile, max_loras: int, max_lora_rank: int) -> int:
        """KV capacity of an engine, tokens; 0 if it does not start."""
        ...


@dataclass(frozen=True)
class SlotRule:
    """A way to choose slots that carries over from one number of adapters to the next.

    Attributes:
        share: Slots as a share of the adapters, rounded up; or
        count: Slots as a plain number, at most one an adapter.
    """

    share: float | None = None
    count: int | None = None

    def slots(self, n: int, limit: int) -> int:
        """Slots for `n` adapters where memory allows `limit`; at least 1 for any adapter."""
        if n == 0:
            return 0
        wanted = math.ceil(self.share * n) if self.share is not None else self.count
        assert wanted is not None, "a rule has a share or a count"
        return max(1, min(wanted, n, limit))


def slot_rules(slo: ServiceLevel) -> tuple[SlotRule, ...]:
    """The rules worth trying, likeliest first.

    A slot each, fewer by steps, and plain numbers; few slots pay only where starving some is
    allowed (`papers`) or nobody waits for latency.
    """
    counts = [96, 64, 48]
    if slo.ttft_p99_ms is None:
        counts += [40, 32, 24]
    shares = [1.0, 0.85, 0.7]
    # The memory limit is the share 1.0 cut at the limit: SlotRule.slots does it.
    return tuple([SlotRule(share=s) for s in shares] + [SlotRule(count=c) for c in counts])


def max_lora_rank_for(adapters: Sequence[Adapter]) -> int:
    """The rank that slots must be made for: the largest, rounded up to what the engine takes."""
    largest = max((adapter.rank for adapter in adapters), default=0)
    return rounded_up_rank(largest)


@dataclass
class SlotSearch:
    """Finds slots with which a set holds, remembering which rule won last.

    Attributes:
        evaluator: Who answers.
        profile: Of the GPU.
        rules: In the order of their chances; reordered as rules win.
        rate_factor: All trials are judged at rates times this.
        width: Trials asked at once (the cores there are).
    """

    evaluator: Evaluator
    profile: Profile
    rules: list[SlotRule]
    rate_factor: float = 1.0
    width: int = 2

    def trial(self, adapters: tuple[Adapter, ...], rule: SlotRule) -> Trial | None:
        """The trial of these adapters under a rule; None where memory has no slot at all."""
        rank = max_lora_rank_for(adapters)
        n = n_adapters(adapters)
        limit = self.evaluator.slot_limit(self.profile, rank) if n else 0
        if n and not limit:
            return None
        return Trial(self.profile, adapters, rule.slots(n, limit), rank, self.rate_factor)

    def first_holding(
        self, adapters: tuple[Adapter, ...], n_rules: int | None = None
    ) -> Verdict | None:
        """A verdict that holds, by the first rule that gives one; None if none does.

        Args:
            adapters: The set.
            n_rules: Only the first so many rules; None: all.
        """
        pending = self._distinct_trials(adapters, self.rules[:n_rules])
        while pending:
            batch, pending = pending[: self.width], pending[self.width :]
            verdicts = self.evaluator.judge([trial for _, trial in batch])
            for (rule, _), verdict in zip(batch, verdicts, strict=True):
                if verdict.holds:
                    self._promote(rule)
                    return verdict
        return None

    def best(self, adapters: tuple[Adapter, ...]) -> Verdict | None:
        """The verdict with the shortest wait among those that hold; None if none does."""
        trials = [trial for _, trial in self._distinct_trials(adapters, self.rules)]
        holding = [verdict for verdict in self.evaluator.judge(trials) if verdict.holds]
        return min(holding, key=_wait, default=None)

    def _distinct_trials(
        self, adapters: tuple[Adapter, ...], rules: Sequence[SlotRule]
    ) -> list[tuple[SlotRule, Trial]]:
        found: dict[int, tuple[SlotRule, Trial]] = {}
        for rule in rules:
            trial = self.trial(adapters, rule)
            if trial is not None:
                found.setdefault(trial.max_loras, (rule, trial))
        return list(found.values())

    def _promote(self, rule: SlotRule) -> None:
        self.rules.remove(rule)
        self.rules.insert(0, rule)


def _wait(verdict: Verdict) -> tuple[float, float, int]:
    return (verdict.ttft_p99_ms, -verdict.served_fraction, verdict.trial.max_loras)
