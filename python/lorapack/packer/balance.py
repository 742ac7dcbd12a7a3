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
from typing import TYPE_CHECKING

from lorapack.packer.fullness import LoadSlots, full_at
from lorapack.packer.greedy import HoldsNowhere, too_few
from lorapack.packer.margins import (
    CROWDED_HEADROOM,
    HEADROOM,
    LADDER,
    TOP,
    WITHIN,
    WORST_OF_SEEDS,
    breaks_at,
    most_traffic,
)
from lorapack.packer.placement import item_order
from lorapack.packer.quick_fill import QuickFill
from lorapack.packer.verify import short_of_slots
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

NARROWEST, WIDEST = 0.9, 2.0
"""That factor is looked for between these: below, there is no room for all."""

ROUGHLY = 1.005
"""A number of GPUs that is short by less may do: sizes are known to half a per cent."""

SETTLED = 0.01
"""Where what all GPUs are filled changes by less than this share, the next round would be alike."""

LEAST_FULL = 1e-6
"""A GPU without traffic is this full."""

LEAST_HELD = 0.9
"""Traffic that the worst GPU is to hold where all GPUs together have room: the rest is evened out
once the verifying seeds have had their say."""

ROUGHLY_HELD = LADDER.index(1.03)
"""GPUs that hold less are asked whether one of their busiest items alone is too much."""

SUSPECTS = 2
"""Items looked at on each of those."""

LARGE = 0.3
"""An item that fills less of a GPU than this does not break it alone."""

SHORT = (1.0 + CROWDED_HEADROOM) / (1.0 + HEADROOM)
"""GPUs short of slots are to hold so many times the traffic: where they break varies twice as much
from seed to seed."""

EVEN_SHARE = 0.5
"""Share of the mean slack that every GPU should have, while rounds are left to even out."""


@dataclass
class Balance:
    """Spreads items over GPUs of one kind.

    Attributes:
        kind: The GPU.
        steer: The twin, on the seeds of the search.
        margin: Every GPU is to hold with this much more traffic on the verifying seeds.
    """

    kind: GpuKind
    steer: Judges
    margin: float
    _fill: QuickFill = field(init=False)
    _slots: LoadSlots = field(init=False)
    _total: float = 0.0
    _aim: float = field(init=False)

    def __post_init__(self) -> None:
        self._slots = LoadSlots.of(self.kind.profile, self.steer.level, self.steer.slo)
        lessons = self.steer.lessons
        self._aim = (1.0 + self.margin) * (1.0 + WORST_OF_SEEDS)
        self._fill = QuickFill(self.kind, self._slots, self.margin, lessons.works, lessons.believed)

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
        ordered = sorted(items, key=item_order)
        lessons, name = self.steer.lessons, self.kind.profile.name
        n_gpus = lessons.n_gpus.get(name) or self._first_number(ordered)
        found = self.over(ordered, n_gpus)
        while found is None and n_gpus < len(ordered):
            # Half of what is short: fewer adapters on each GPU are a little smaller, too.
            short = math.ceil(self._total * self._aim) - n_gpus
            n_gpus += max(1, short // 2)
            found = self.over(ordered, n_gpus)
        n_gpus = lessons.n_gpus.setdefault(name, n_gpus)
        if more:
            found = self.over(ordered, min(n_gpus + more, len(ordered))) or found
        gpus = found or self._fill.fill(ordered, self._aim)
        assert gpus is not None, "no number of GPUs was set"
        if max_gpus is not None and len(gpus) > max_gpus:
            raise too_few(max_gpus, sum(len(g.items) for g in gpus[max_gpus:]), len(ordered))
        return gpus

    def _first_number(self, ordered: Sequence[Item]) -> int:
        """The number of GPUs to try first: what a filling comes to over the window of the proof.

        That of a filling which was set right by a quick look, where there is one.
        """
        for judges in (self.steer, self.steer.of_hour):
            first = self._fill.fill(ordered, self._aim)
            assert first is not None, "no number of GPUs was set"
            self._total = sum(size for _, size in self._learn(first, self._aim, judges))
            if judges is self.steer.of_hour:
                break
        return max(1, math.ceil(self._total * self._aim))

    def over(self, items: Sequence[Item], n_gpus: int) -> list[GpuPlacement] | None:
        """The items on so many GPUs, each as far from its limit; None where they do not hold.

        A number that was found to do is filled anew by what is believed now.
        """
        ordered = sorted(items, key=item_order)
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
            fits = total * self._aim <= ROUGHLY * n_gpus
            if fits and worst >= most:
                best, most = level[0], worst
            even = 1.0 + EVEN_SHARE * (n_gpus / total - 1.0)
            # Where there is room for all, only the last few GPUs have still to be evened out.
            settled = abs(total - before) < SETTLED * total and (best is not None or not fits)
            if (fits and worst >= even) or settled or total > n_gpus:
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
            guess: At how much traffic they are expected to break.
            judges: Who is asked.

        Returns:
            For each GPU the traffic that it holds over what it is to hold, and how full it is.

        Raises:
            HoldsNowhere: An item does not hold even alone.
        """
        rungs = most_traffic(gpus, judges, guess, WITHIN)
        broken = [gpu for gpu, rung in zip(gpus, rungs, strict=True) if rung < ROUGHLY_HELD]
        self._check_busiest(broken)
        learnt = []
        for gpu, rung in zip(gpus, rungs, strict=True):
            needed = SHORT if short_of_slots(gpu) else 1.0
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
        verdicts = self.steer.level.judge([gpu.trial(1.0 + self.margin) for gpu in busiest])
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
