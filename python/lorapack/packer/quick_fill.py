"""Greedy by prediction alone, for fleets of any size: the same order, some log n questions a GPU.

Each GPU takes the longest start of what is left that prediction says holds. The sums that physics
needs are kept for every start, so that a question costs the same for ten adapters as for a
thousand; all slots worth trying are asked about in one batch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lorapack.fleet.adapter import at_rates
from lorapack.packer.evaluate import max_lora_rank_for, slot_rules
from lorapack.packer.greedy import HoldsNowhere, too_few
from lorapack.packer.placement import GpuPlacement, Item, apart, item_order
from lorapack.predictor.targets import Prediction
from lorapack.twin.physics import Asking, WorkSums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import SlotRule
    from lorapack.packer.predicted import PredictedJudge
    from lorapack.packer.problem import GpuKind, Problem
    from lorapack.twin.service_level import ServiceLevel

MOST_LEVELLED = 16
"""Plans of more GPUs are left as filled: one GPU's slack is nothing to so many."""

LEVELLINGS = 2
"""Halvings to the most traffic that the same number of GPUs holds."""

MOST_MORE = 0.25
"""Traffic above the margin that is looked for, at most."""


def is_plain(problem: Problem, kinds: Sequence[GpuKind], items: Sequence[Item]) -> bool:
    """Whether nothing but the service level says who goes where."""
    return (
        len(kinds) == 1
        and kinds[0].count is None
        and problem.objective == "gpus"
        and problem.host_memory_gib is None
        and all(item.load.pin is None for item in items)
    )


@dataclass
class QuickFill:
    """Packs items on GPUs of one kind.

    Attributes:
        kind: The GPU.
        judge: Who predicts.
        slo: What is promised.
        margin: Questions are asked at rates this much higher.
    """

    kind: GpuKind
    judge: PredictedJudge
    slo: ServiceLevel
    margin: float
    rules: tuple[SlotRule, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.rules = slot_rules(self.slo)

    def place(self, items: Sequence[Item], max_gpus: int | None = None) -> list[GpuPlacement]:
        """All items on as few GPUs as this finds, the slack of the last one shared out.

        Args:
            items: In any order; the result does not depend on it.
            max_gpus: Stop when more would be needed.

        Raises:
            HoldsNowhere: An item holds on no GPU.
            Infeasible: The GPUs do not suffice.
        """
        ordered = sorted(items, key=item_order)
        gpus = self.fill(ordered, 1.0 + self.margin) or []
        if max_gpus is not None and len(gpus) > max_gpus:
            placed = sum(len(gpu.items) for gpu in gpus[:max_gpus])
            raise too_few(max_gpus, len(ordered) - placed, len(ordered))
        if not 1 < len(gpus) <= MOST_LEVELLED:
            return gpus
        low, high = 1.0 + self.margin, (1.0 + self.margin) * (1.0 + MOST_MORE)
        for _ in range(LEVELLINGS):
            middle = (low * high) ** 0.5
            try:
                other = self.fill(ordered, middle, len(gpus))
            except HoldsNowhere:
                other = None
            low, high, gpus = (low, middle, gpus) if other is None else (middle, high, other)
        return gpus

    def fill(
        self, ordered: list[Item], factor: float, most: int | None = None
    ) -> list[GpuPlacement] | None:
        """GPU after GPU, each to its limit; None if more than `most` are needed."""
        loads = at_rates([item.load for item in ordered], factor)
        left = deque(zip(ordered, loads, strict=True))
        gpus: list[GpuPlacement] = []
        guess = 1
        while left:
            if len(gpus) == most:
                return None
            start = _Start(self, left)
            guess = start.longest(guess)
            gpus.append(GpuPlacement(self.kind, start.take(), start.slots))
        return gpus


@dataclass
class _Start:
    """How much of what is left one GPU takes.

    Attributes:
        fill: Who asks.
        left: Items not yet looked at, and their loads at the rates that are asked about.
        seen: Those looked at, in order.
        chosen: Places in `seen` of those that may share a GPU.
        sums: What the first 1, 2, ... of the chosen ask for.
        takes_slot: How many of the first 1, 2, ... take a slot.
        slots: With which the longest start known holds.
    """

    fill: QuickFill
    left: deque[tuple[Item, Adapter]]
    seen: list[tuple[Item, Adapter]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    sums: list[WorkSums] = field(default_factory=list)
    takes_slot: list[int] = field(default_factory=list)
    slots: int = 0
    _held: int = 0
    _groups: set[str] = field(default_factory=set)
    _rank: int = field(init=False)
    _asking: Asking = field(init=False)

    def __post_init__(self) -> None:
        self._rank = max_lora_rank_for([self.left[0][1]])
        self._asking = Asking.of(self.fill.kind.profile, self._rank)

    def longest(self, guess: int) -> int:
        """How many hold together: galloping from a guess, then bisection.

        Raises:
            HoldsNowhere: Not even the first does.
        """
        broke: int | None = None
        count, step = self._look(guess), max(1, guess // 16)
        while broke is None or broke - self._held > 1:
            if self._holds(count):
                self._held = count
            else:
                broke = count
            if broke is None:
                count, step = self._look(self._held + step), 2 * step
                if count == self._held:
                    break
            elif self._held == 0:
                count, step = max(1, broke - step), 2 * step
                if broke == 1:
                    raise HoldsNowhere(self.left[0][0] if not self.seen else self.seen[0][0])
            else:
                count = (self._held + broke) // 2
        return self._held

    def take(self) -> tuple[Item, ...]:
        """Those that hold; the others go back where they came from."""
        taken = self.chosen[: self._held]
        items = tuple(self.seen[place][0] for place in taken)
        gone = set(taken)
        rest = [pair for place, pair in enumerate(self.seen) if place not in gone]
        self.left.extendleft(reversed(rest))
        return items

    def _look(self, count: int) -> int:
        """Looks at so many that may share a GPU; returns how many there are, at most that."""
        while len(self.chosen) < count and self.left:
            item, load = self.left.popleft()
            self.seen.append((item, load))
            groups = apart(item)
            if not self._groups.isdisjoint(groups):
                continue
            self._groups.update(groups)
            sums = self.sums[-1].copy() if self.sums else WorkSums()
            sums.add(self._asking.work(load))
            self.chosen.append(len(self.seen) - 1)
            self.sums.append(sums)
            before = self.takes_slot[-1] if self.takes_slot else 0
            self.takes_slot.append(before + (not load.is_base))
        return min(count, len(self.chosen))

    def _holds(self, count: int) -> bool:
        """Whether the first so many hold with some slots, of which the best are kept."""
        judge, profile = self.fill.judge, self.fill.kind.profile
        n, sums = self.takes_slot[count - 1], self.sums[count - 1]
        limit = judge.slot_limit(profile, self._rank) if n else 0
        if n and not limit:
            return False
        choices = list(dict.fromkeys(rule.slots(n, limit) for rule in self.fill.rules))
        rows = np.concatenate([judge.row(profile, sums, slots, self._rank) for slots in choices])
        told = [Prediction._make(row) for row in judge.model(profile).predict_many(rows).tolist()]
        holding = [
            (said.ttft_p99_ms, slots)
            for slots, said, row in zip(choices, told, rows, strict=True)
            if not judge.broken(said, row, short=slots < n)
        ]
        if not holding:
            return False
        self.slots = min(holding)[1]
        return True
