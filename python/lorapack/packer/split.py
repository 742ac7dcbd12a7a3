"""Adapters that need more than a place: too hot for one GPU, or breaking the level by their clumps.

A client hotter than a GPU is split into the fewest equal shares that each hold alone. One whose
rate would fit, were its requests evenly spread, but whose own clumps break the level even alone on
a GPU, is clumped: it joins others where a GPU still holds with it (its clumps are then few among
many requests), and else is exempt, on GPUs with exempt clients only, held to `batch`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lorapack.errors import Infeasible
from lorapack.packer.bound import dearest_prices_s
from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.placement import Item, replicas
from lorapack.twin.trial import Trial

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.problem import Problem
    from lorapack.twin.trial import Verdict

HOT_WORK = 0.4
"""An adapter that keeps a GPU busier than this, by the bound's count, is tried alone."""

COLD_WORK = 0.2
"""A bursty adapter that keeps a GPU less busy than this, by the bound's count, is never split."""

CLUMPED_CV = 1.5
"""An adapter whose gaps vary more than this is tried alone."""

MAX_REPLICAS = 64
"""No adapter is split further: past it, the level itself cannot be kept."""


@dataclass(frozen=True)
class Split:
    """The fleet as items.

    Attributes:
        items: To be placed under the service level.
        clumped: Break the level alone by their own clumps, mildest first.
    """

    items: tuple[Item, ...]
    clumped: tuple[Item, ...]


def split(
    problem: Problem,
    evaluator: Evaluator,
    rate_factor: float = 1.0,
    known: frozenset[str] = frozenset(),
    thorough: Evaluator | None = None,
) -> Split:
    """Turns adapters into items; tries alone those that might not fit a GPU whole.

    Args:
        problem: The fleet and the pool.
        evaluator: Judges by the problem's service level.
        rate_factor: Margin on rates, as in placement.
        known: Names of adapters that placement found not to hold alone.
        thorough: Has the last word on who is clumped, but for those: of a client with few requests
            a short window says little. None: `evaluator` has.

    Raises:
        Infeasible: An adapter's rank starts on no GPU, or the level cannot be kept for it at any
            rate.
    """
    trier = Alone(problem, evaluator, rate_factor)
    asked_again = None if thorough is None else Alone(problem, thorough, rate_factor)
    suspects = trier.suspects(known)
    verdicts = trier.verdicts(suspects)
    items: list[Item] = []
    clumped: list[Item] = []
    for adapter in problem.fleet:
        verdict = verdicts.get(adapter.adapter)
        if verdict is None or verdict.holds:
            items.append(Item(adapter))
        else:
            shares = trier.divide(adapter, verdict)
            is_clumped = trier.is_clumped(shares[0])
            if is_clumped and asked_again is not None and adapter.adapter not in known:
                is_clumped = asked_again.is_clumped(shares[0])
            (clumped if is_clumped else items).extend(shares)
    return Split(tuple(items), tuple(sorted(clumped, key=clump_size)))


def clump_size(item: Item) -> tuple[float, str]:
    """What clumps are ordered by: requests that come at once, about the squared variation."""
    return (item.load.cv**2 * item.load.rate_rps, item.name)


@dataclass
class Alone:
    """Tries adapters alone on a GPU.

    Attributes:
        problem: The pool.
        evaluator: Who judges.
        rate_factor: Margin on rates.
    """

    problem: Problem
    evaluator: Evaluator
    rate_factor: float = 1.0

    def suspects(self, known: frozenset[str]) -> list[Adapter]:
        """Whoever might not hold alone: the hot, the clumped, and the first of every rank."""
        fleet = self.problem.fleet
        work = self._work(fleet)
        chosen = []
        ranks: set[int] = set()
        checked: set[tuple[int, str | None]] = set()
        for adapter, busy in zip(fleet, work, strict=True):
            if (adapter.rank, adapter.model) not in checked:
                self._check_rank(adapter)
                checked.add((adapter.rank, adapter.model))
            odd = busy > HOT_WORK or adapter.cv > CLUMPED_CV or adapter.rank not in ranks
            if odd or adapter.adapter in known:
                chosen.append(adapter)
            ranks.add(adapter.rank)
        return chosen

    def verdicts(self, adapters: Sequence[Adapter]) -> dict[str, Verdict]:
        """Each adapter's verdict alone, on the kind of GPU that serves it best."""
        trials = [
            (adapter.adapter, trial) for adapter in adapters for trial in self._trials(adapter)
        ]
        found: dict[str, Verdict] = {}
        for (name, _), verdict in zip(
            trials, self.evaluator.judge([trial for _, trial in trials]), strict=True
        ):
            if name not in found or (verdict.holds and not found[name].holds):
                found[name] = verdict
        return found

    def divide(self, adapter: Adapter, verdict: Verdict) -> list[Item]:
        """The fewest equal shares whose rate holds alone, were they evenly spread.

        An adapter far from hot is left whole: what it breaks, it breaks by clumps or by long
        requests, and no split mends that.

        Raises:
            Infeasible: No share does.
        """
        if adapter.cv > 1.0 and self._work([adapter])[0] < COLD_WORK:
            return [Item(adapter)]
        n = self._fewest(replace(adapter, cv=min(adapter.cv, 1.0)))
        if n is None:
            raise _hopeless(adapter, verdict)
        return replicas(adapter, n) if n > 1 else [Item(adapter)]

    def is_clumped(self, item: Item) -> bool:
        """Whether an item breaks the level alone although its rate would hold evenly spread."""
        return item.load.cv > 1.0 and not self.holds(item.load)

    def holds(self, load: Adapter) -> bool:
        """Whether a load holds alone on some kind of GPU."""
        return self.verdicts([load])[load.adapter].holds

    def _fewest(self, adapter: Adapter) -> int | None:
        n = 1
        while n <= MAX_REPLICAS:
            load = replicas(adapter, n)[0].load if n > 1 else adapter
            if self.holds(load):
                return n
            n += max(1, n // 4)
        return None

    def _trials(self, load: Adapter) -> list[Trial]:
        rank = max_lora_rank_for([load])
        slots = 0 if load.is_base else 1
        return [
            Trial(kind.profile, (load,), slots, rank, self.rate_factor)
            for kind in self.problem.kinds_for(load)
        ]

    def _work(self, fleet: Sequence[Adapter]) -> list[float]:
        rates = np.array([adapter.rate_rps for adapter in fleet])
        busiest = np.zeros(len(fleet))
        for kind in self.problem.pool:
            prices = dearest_prices_s(
                kind.profile, fleet, self.evaluator, self.problem.slo.min_served
            )
            busiest = np.maximum(busiest, prices * rates)
        return [float(work) for work in busiest]

    def _check_rank(self, adapter: Adapter) -> None:
        rank = max_lora_rank_for([adapter])
        kinds = self.problem.kinds_for(adapter)
        if adapter.is_base or any(self.evaluator.slot_limit(k.profile, rank) for k in kinds):
            return
        raise Infeasible(
            f"adapter {adapter.adapter} of rank {adapter.rank}: no GPU of the pool starts with one "
            f"slot of rank {rank}",
            "a smaller --max-model-len or a larger GPU; `lorapack memory` shows what is missing",
        )


def _hopeless(adapter: Adapter, verdict: Verdict) -> Infeasible:
    broken = "; ".join(str(violation) for violation in verdict.violations[:2])
    return Infeasible(
        f"adapter {adapter.adapter} breaks the service level alone on a GPU, even split in "
        f"{MAX_REPLICAS}: {broken or verdict.refusal}",
        f"ttft_p99_ms {verdict.ttft_p99_ms:.0f} and served {verdict.served_fraction:.3f} are what "
        "it gets alone",
    )
