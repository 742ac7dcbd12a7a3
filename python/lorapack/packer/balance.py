"""As few GPUs as the twin lets: physics says who fits, the twin sets physics right, GPU by GPU.

Physics knows the shape of things, what an adapter more and a slot more cost, and is off in the
whole by some tens of per cent, alike for GPUs that are alike. So GPUs are filled by physics, and
the twin finds, for all of them side by side, at how much traffic each would break; from then on
the items of that GPU count for as much more, or less. What all GPUs together are filled is about
the number of GPUs needed; the fleet is spread over so many, and looked at again. The first look is
a quick one; the others are over the window of the proof, in which GPUs break at some per cent less,
and GPUs short of slots, whose queues take long to build up, at up to a tenth less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from lorapack.packer.fullness import LoadSlots, full_at
from lorapack.packer.greedy import HoldsNowhere, too_few
from lorapack.packer.margins import (
    GUESS,
    LADDER,
    TOP,
    WITHIN,
    breaks_at,
    most_traffic,
    must_hold,
    must_hold_on_one,
)
from lorapack.packer.placement import dealt, item_order
from lorapack.packer.quick_fill import QuickFill
from lorapack.twin.physics import WorkSums

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import GpuKind
    from lorapack.packer.verify import Judges

ROUNDS = 5
"""Times a number of GPUs is tried before one more is taken."""

HALVINGS = 10
"""To the most traffic that a number of GPUs is expected to hold."""

NARROWEST, WIDEST = 0.87, 2.0
"""That factor is looked for between these: below, there is no room for all."""

ROUGHLY = 1.005
"""A number of GPUs that is short by less may do: sizes are known to half a per cent."""

SETTLED = 0.01
"""Where what all GPUs are filled changes by less than this share, the next round would be alike."""

LEAST_FULL = 1e-6
"""A GPU without traffic is this full."""

LEAST_HELD = 0.87
"""Share of what it must that the worst GPU is to hold where all GPUs together have room: the rest
is evened out once the verifying seeds have had their say."""

EVEN = 0.985
"""The same where another round would be in vain."""

HANDS = (1, 2, 3, 4, 6)
"""In so many hands items of a rank are dealt to see whether that saves GPUs."""

WORTH_DEALING = 0.05
"""GPUs to be saved by it."""

HOPELESS = 1.012
"""GPUs that are short by more of their number are not tried again."""

ROUGHLY_HELD = LADDER.index(1.03)
"""GPUs that hold less are asked whether one of their busiest items alone is too much."""

SUSPECTS = 2
"""Items looked at on each of those."""

LARGE = 0.3
"""An item that fills less of a GPU than this does not break it alone."""


@dataclass
class Balance:
    """Spreads items over GPUs of one kind.

    Attributes:
        kind: The GPU.
        steer: The twin, on the seeds of the search.
    """

    kind: GpuKind
    steer: Judges
    _fill: QuickFill = field(init=False)
    _slots: LoadSlots = field(init=False)
    _total: float = 0.0

    def __post_init__(self) -> None:
        self._slots = LoadSlots.of(self.kind.profile, self.steer.level, self.steer.slo)
        lessons = self.steer.lessons
        self._fill = QuickFill(self.kind, self._slots, 0.0, lessons.works, lessons.believed)

    def fewest(
        self, items: Sequence[Item], max_gpus: int | None = None, more: int = 0
    ) -> list[GpuPlacement]:
        """All items on the fewest GPUs that are found to hold, or on some more.

        Args:
            items: In any order; the result does not depend on it.
            max_gpus: Stop when more would be needed.
            more: GPUs beyond the fewest.

        Raises:
            HoldsNowhere: An item does not hold even alone.
            Infeasible: The GPUs do not suffice.
        """
        ordered = self._ordered(items)
        lessons, name = self.steer.lessons, self.kind.profile.name
        n_gpus = lessons.n_gpus.get(name) or self._first_number(ordered)
        found = self.over(ordered, n_gpus)
        while found is None and n_gpus < len(ordered):
            # Half of what is short: fewer adapters on each GPU are a little smaller, too.
            short = math.ceil(self._total) - n_gpus
            n_gpus += max(1, short // 2)
            found = self.over(ordered, n_gpus)
        n_gpus = lessons.n_gpus.setdefault(name, n_gpus)
        if more:
            found = self.over(ordered, min(n_gpus + more, len(ordered))) or found
        gpus = found or self._fill.fill(ordered, 1.0)
        assert gpus is not None, "no number of GPUs was set"
        if max_gpus is not None and len(gpus) > max_gpus:
            raise too_few(max_gpus, sum(len(g.items) for g in gpus[max_gpus:]), len(ordered))
        return gpus

    def _ordered(self, items: Sequence[Item]) -> list[Item]:
        """Items in packing order, those of a rank dealt where that saves GPUs.

        GPUs full of cold ones lack slots, while those full of hot ones have some left.
        """
        lessons, name = self.steer.lessons, self.kind.profile.name
        ordered: list[Item] = []
        for rank, run in groupby(sorted(items, key=item_order), key=lambda item: item.load.rank):
            own = list(run)
            if (name, rank) not in lessons.hands:
                lessons.hands[name, rank] = self._best_hands(own)
            ordered += dealt(own, lessons.hands[name, rank])
        return ordered

    def _best_hands(self, items: Sequence[Item]) -> int:
        """In how many hands items of one rank are best dealt, by physics."""
        taken = {hands: self._taken(dealt(items, hands)) for hands in HANDS}
        best = min(taken, key=lambda hands: (taken[hands], hands))
        return best if taken[best] < taken[1] - WORTH_DEALING else 1

    def _taken(self, items: Sequence[Item]) -> float:
        """GPUs that items fill by physics, in that order."""
        gpus = self._fill.fill(items, 1.0)
        assert gpus, "no number of GPUs was set"
        last = gpus[-1]
        sums = self.steer.lessons.works.sums(last.loads, self.kind.profile, last.max_lora_rank)
        return len(gpus) - 1 + min(1.0, self._slots.least_full(sums, last.max_lora_rank)[0])

    def _first_number(self, ordered: Sequence[Item]) -> int:
        """The number of GPUs to try first: what a filling comes to over the window of the proof.

        That of a filling which was set right by a quick look, where there is one.
        """
        for judges in (self.steer, self.steer.of_hour):
            first = self._fill.fill(ordered, 1.0)
            assert first is not None, "no number of GPUs was set"
            self._total = sum(size for _, size in self._learn(first, 1.0, judges))
            if judges is self.steer.of_hour:
                break
        return max(1, math.ceil(self._total))

    def over(self, items: Sequence[Item], n_gpus: int) -> list[GpuPlacement] | None:
        """The items on so many GPUs, each as far from its limit; None where they do not hold.

        A number that was found to do is filled anew by what is believed now.
        """
        ordered = self._ordered(items)
        lessons, name = self.steer.lessons, self.kind.profile.name
        if (name, n_gpus) in lessons.filled:
            level = self._fill.level(ordered, n_gpus, (NARROWEST, WIDEST), HALVINGS)
            return level and level[0]
        best: list[GpuPlacement] | None = None
        most, before = LEAST_HELD, math.inf
        for _ in range(ROUNDS):
            level = self._fill.level(ordered, n_gpus, (NARROWEST, WIDEST), HALVINGS)
            if level is None:
                break
            learnt = self._learn(*level, self.steer.of_hour)
            total = self._total = sum(size for _, size in learnt)
            worst = min(held for held, _ in learnt)
            fits = total <= ROUGHLY * n_gpus
            if fits and worst >= most:
                best, most = level[0], worst
            # Where there is room for all, only the last few GPUs have still to be evened out.
            settled = abs(total - before) < SETTLED * total and (best is not None or not fits)
            if (fits and worst >= EVEN) or settled or total > HOPELESS * n_gpus:
                break
            before = total
        if best is not None:
            lessons.filled.add((name, n_gpus))
        return best

    def _learn(
        self, gpus: Sequence[GpuPlacement], guess: float, judges: Judges
    ) -> list[tuple[float, float]]:
        """Asks the twin at how much traffic GPUs break, and believes it from then on.

        Args:
            gpus: A placement.
            guess: At how many times what they are to hold they are expected to break.
            judges: Who is asked.

        Returns:
            For each GPU the traffic that it holds over what it is to hold, and how full it is.

        Raises:
            HoldsNowhere: An item does not hold even alone.
        """
        rungs = most_traffic(gpus, judges, guess * GUESS, WITHIN)
        broken = [gpu for gpu, rung in zip(gpus, rungs, strict=True) if rung < ROUGHLY_HELD]
        self._check_busiest(broken)
        learnt = []
        for gpu, rung in zip(gpus, rungs, strict=True):
            needed = must_hold_on_one(gpu, self.steer.slo)
            size = self._believe(gpu, breaks_at(gpu, judges), needed)
            learnt.append((LADDER[max(rung, 0)] / needed, size))
        return learnt

    def _check_busiest(self, gpus: Sequence[GpuPlacement]) -> None:
        """What breaks a GPU may be one item that must be divided."""
        busiest = [
            alone
            for gpu in gpus
            for item in sorted(gpu.items, key=lambda item: -item.load.rate_rps)[:SUSPECTS]
            if self._fullness(alone := gpu.with_items([item], 1), 1.0) > LARGE
        ]
        verdicts = self.steer.level.judge(
            [gpu.trial(must_hold(gpu, self.steer.slo)) for gpu in busiest]
        )
        for gpu, verdict in zip(busiest, verdicts, strict=True):
            if not verdict.holds:
                raise HoldsNowhere(gpu.items[0])

    def _believe(self, gpu: GpuPlacement, broke: float | None, needed: float) -> float:
        """Lets a GPU's items count for what the twin says; returns how full the GPU is.

        Args:
            gpu: The GPU.
            broke: At so many times its traffic; None: not even at the most that was asked about.
            needed: Times the traffic that it is to hold.
        """
        factor = (LADDER[TOP] if broke is None else broke) / needed
        if broke is None and (fullness := self._fullness(gpu, factor)) <= 1.0:
            return fullness / factor
        correction = full_at(lambda more: self._fullness(gpu, factor * more))
        for key in {item.key for item in gpu.items}:
            self._correct(key, correction)
        return 1.0 / factor

    def _correct(self, key: tuple[str, float], correction: float) -> None:
        """Lets an item count for more or less, for half of it where it was overdone before.

        GPUs short of slots answer to more than physics says, and would swing from too full to half
        empty and back.
        """
        lessons = self.steer.lessons
        change, last = math.log(correction), lessons.changes.get(key, 0.0)
        if change * last < 0.0:
            change *= last / (last - change)
        lessons.changes[key] = change
        lessons.believed[key] = lessons.believed.get(key, 1.0) * math.exp(change)

    def _fullness(self, gpu: GpuPlacement, factor: float) -> float:
        """How full a GPU is by physics with so much more traffic."""
        rank, sums = gpu.max_lora_rank, WorkSums()
        factors = self._fill.factors(gpu.items, factor)
        for load, own in zip(gpu.loads, factors, strict=True):
            sums.add(self.steer.lessons.works.work(load, self.kind.profile, rank).at_rate(own))
        fullness = self._slots.fullness(sums, gpu.max_loras, rank)
        return max(fullness, LEAST_FULL)
