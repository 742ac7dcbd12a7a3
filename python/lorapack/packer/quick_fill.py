"""Filling GPUs by prediction, for fleets of any size: some log n questions a GPU.

Each GPU takes the longest start of what is left that is expected to hold; where a large item broke
it, it goes on with the first smaller one that fits. Sums are kept as items come and go, so that a
question costs the same for ten adapters as for a thousand. Whom to ask is the caller's: the model
that the twin taught, or physics as the twin set it right.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.fullness import largest_count
from lorapack.packer.greedy import HoldsNowhere, too_few
from lorapack.packer.placement import GpuPlacement, Item, apart, item_order
from lorapack.packer.works import WorkTable
from lorapack.twin.physics import WorkSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack._native import WorkList
    from lorapack.packer.problem import GpuKind, Problem
    from lorapack.packer.works import Works

MOST_LEVELLED = 16
"""Plans of more GPUs are left as filled: one GPU's slack is nothing to so many."""

SHARES = (0.9, 0.5)
"""Shares of the slack with which all GPUs are filled anew, in turn, until one suffices."""

LARGE = 0.02
"""An item of more than this share of a GPU's traffic leaves a gap that is worth a look."""

GAPS = 6
"""Times such a gap is looked into, a GPU."""

FIRST_STEP = 64
"""Steps away from a guess begin at this part of it."""

TOO_FULL = 2.0
"""Any fullness well above 1."""


class Chooser(Protocol):
    """Says with which slots a GPU may be expected to hold."""

    def holds(self, sums: WorkSums, rank: int) -> bool:
        """Whether it does with some slots.

        Args:
            sums: What its adapters ask for.
            rank: The rank that slots are made for.
        """
        ...

    def slots(self, sums: WorkSums, rank: int) -> int | None:
        """The best number of slots, asked with more care; None where it holds with none."""
        ...

    def expected(self, sums: WorkSums, rank: int) -> float:
        """How full it seems at a glance: about 1 where `holds` ends."""
        ...

    def learn(self, sums: WorkSums, rank: int) -> None:
        """Told of a GPU that is full, to which no more was to be added."""
        ...


def is_plain(problem: Problem, kinds: Sequence[GpuKind], items: Sequence[Item]) -> bool:
    """Whether nothing but the service level says who goes where."""
    return (
        len(kinds) == 1
        and kinds[0].count is None
        and problem.host_memory_gib is None
        and all(item.load.pin is None for item in items)
    )


@dataclass
class QuickFill:
    """Packs items on GPUs of one kind.

    Attributes:
        kind: The GPU.
        chooser: Whom to ask.
        margin: Questions are asked at rates this much higher.
        works: What items ask of the GPU.
        believed: By how much more, or less, each item's rate counts; left out: as it is.
    """

    kind: GpuKind
    chooser: Chooser
    margin: float
    works: Works
    believed: Mapping[tuple[str, float], float] = field(default_factory=dict)
    _last: tuple[Sequence[Item], WorkTable] | None = field(default=None, repr=False)

    def place(
        self, items: Sequence[Item], max_gpus: int | None = None, more: int = 0
    ) -> list[GpuPlacement]:
        """All items on as few GPUs as this finds, the slack of the last one shared out.

        Args:
            items: In any order; the result does not depend on it.
            max_gpus: Stop when more would be needed.
            more: GPUs beyond the fewest, over which all are spread.

        Raises:
            HoldsNowhere: An item holds on no GPU.
            Infeasible: The GPUs do not suffice.
        """
        ordered = sorted(items, key=item_order)
        gpus = self.fill(ordered, 1.0 + self.margin) or []
        n_gpus = min(len(gpus) + more, len(ordered))
        if max_gpus is not None and n_gpus > max_gpus:
            placed = sum(len(gpu.items) for gpu in gpus[:max_gpus])
            raise too_few(max_gpus, len(ordered) - placed, len(ordered))
        if n_gpus == len(gpus) and not 1 < n_gpus <= MOST_LEVELLED:
            return gpus
        return self._levelled(ordered, gpus, n_gpus) or gpus

    def _levelled(
        self, ordered: Sequence[Item], gpus: Sequence[GpuPlacement], n_gpus: int
    ) -> list[GpuPlacement] | None:
        """The slack of the last GPU, and of those added, shared out; None where that fails."""
        least, last = 1.0 + self.margin, gpus[-1]
        rank = last.max_lora_rank
        sums = self.works.sums(last.loads, self.kind.profile, rank, least)
        fullness = min(self.chooser.expected(sums, rank), 1.0)
        slack = n_gpus / (len(gpus) - 1 + fullness)
        for share in SHARES:
            found = self._filled(ordered, least * slack**share, n_gpus)
            if found is not None:
                return found
        return None

    def level(
        self, ordered: Sequence[Item], n_gpus: int, between: tuple[float, float], halvings: int
    ) -> tuple[list[GpuPlacement], float] | None:
        """The items on so many GPUs with about the most traffic that they are expected to hold.

        Args:
            ordered: In packing order.
            n_gpus: At most.
            between: Factors on traffic between which the most is looked for.
            halvings: Of what is between.

        Returns:
            The GPUs and the factor; None where not even the least does.
        """
        low, high = between
        gpus = self._filled(ordered, low, n_gpus)
        if gpus is None:
            return None
        best = (gpus, low)
        for _ in range(halvings):
            middle = (low * high) ** 0.5
            gpus = self._filled(ordered, middle, n_gpus)
            if gpus is None:
                high = middle
            else:
                low, best = middle, (gpus, middle)
        return best

    def _filled(
        self, ordered: Sequence[Item], factor: float, most: int
    ) -> list[GpuPlacement] | None:
        """As `fill`; None, too, where an item holds nowhere with so much traffic."""
        try:
            return self.fill(ordered, factor, most)
        except HoldsNowhere:
            return None

    def fill(
        self, ordered: Sequence[Item], factor: float, most: int | None = None
    ) -> list[GpuPlacement] | None:
        """GPU after GPU, each to its limit; None if more than `most` are needed."""
        filling = _Filling(self, ordered, self._table_of(ordered), self.factors(ordered, factor))
        left = list(range(len(ordered) - 1, -1, -1))
        gpus: list[GpuPlacement] = []
        guess = 1
        while left:
            if len(gpus) == most:
                return None
            start = _Start(filling, left)
            guess = start.longest(guess)
            slots = start.settle()
            gpus.append(GpuPlacement(self.kind, start.take(), slots))
        return gpus

    def _table_of(self, ordered: Sequence[Item]) -> WorkTable:
        """What the items ask for; of those asked about last it is known."""
        if self._last is None or self._last[0] is not ordered:
            self._last = (ordered, WorkTable([item.load for item in ordered]))
        return self._last[1]

    def factors(self, items: Sequence[Item], factor: float) -> list[float]:
        """What each item's rate is multiplied with when a factor is asked about."""
        believed = self.believed
        if not believed:
            return [factor] * len(items)
        return [factor * believed.get(item.key, 1.0) for item in items]


@dataclass
class _Filling:
    """Items in packing order, at the rates that are asked about.

    Attributes:
        fill: Who asks.
        items: The items.
        table: What they ask for at their own rates.
        factors: What each one's rate is multiplied with.
    """

    fill: QuickFill
    items: Sequence[Item]
    table: WorkTable
    factors: Sequence[float]
    ranks: list[int] = field(init=False)
    apart: dict[int, tuple[str, ...]] = field(init=False)
    _works: dict[int, WorkList] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ranks = [item.load.rank for item in self.items]
        groups = map(apart, self.items)
        self.apart = {place: own for place, own in enumerate(groups) if own}

    def works(self, rank: int) -> WorkList:
        """What the items ask of a GPU with slots of a rank."""
        if rank not in self._works:
            profile = self.fill.kind.profile
            self._works[rank] = self.table.works(profile, rank, np.array(self.factors))
        return self._works[rank]

    def rate_rps(self, place: int) -> float:
        """The rate that is asked about."""
        return float(self.table.rates_rps[place]) * self.factors[place]


@dataclass
class _Start:
    """How much of what is left one GPU takes.

    Attributes:
        filling: The items.
        left: Places of items not yet looked at, the next one last.
        seen: Those looked at, in order.
        chosen: Of `seen`, the places of those that are to share the GPU.
    """

    filling: _Filling
    left: list[int]
    seen: list[int] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    _sums: WorkSums = field(default_factory=WorkSums)
    _summed: int = 0
    _held: int = 0
    _next: int = 0
    _groups: set[str] = field(default_factory=set)
    _rank: int = field(init=False)
    _works: WorkList = field(init=False)
    _chooser: Chooser = field(init=False)

    def __post_init__(self) -> None:
        self._rank = max_lora_rank_for([self.filling.items[self.left[-1]].load])
        self._works = self.filling.works(self._rank)
        self._chooser = self.filling.fill.chooser

    def longest(self, guess: int) -> int:
        """How many hold together.

        Raises:
            HoldsNowhere: Not even the first does.
        """
        expected, _ = largest_count(self._expected, guess, len(self.left))
        self._gallop(max(expected, 1))
        for _ in range(GAPS):
            if not self._skip_large():
                break
            self._gallop(self._held + 1)
        if self._held < len(self.chosen):
            self._chooser.learn(self._sums_of(self._held), self._rank)
        return self._held

    def settle(self) -> int:
        """The best number of slots, for fewer items where those that seemed to hold do not."""
        while True:
            slots = self._chooser.slots(self._sums_of(self._held), self._rank)
            if slots is not None:
                return slots
            if self._held == 1:
                raise HoldsNowhere(self.filling.items[self.chosen[0]])
            self._held -= max(1, self._held // FIRST_STEP)

    def take(self) -> tuple[Item, ...]:
        """Those that hold; the others go back where they came from."""
        taken = self.chosen[: self._held]
        if taken == self.seen[: self._held]:
            back = self.seen[self._held :]
        else:
            gone = set(taken)
            back = [place for place in self.seen if place not in gone]
        self.left += reversed(back)
        return tuple(self.filling.items[place] for place in taken)

    def _gallop(self, guess: int) -> None:
        """Steps away from a guess that double, then bisection."""
        broke: int | None = None
        count, step = self._look(max(guess, self._held + 1)), max(1, guess // FIRST_STEP)
        if count == self._held:
            return
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
                    raise HoldsNowhere(self.filling.items[self.chosen[0]])
            else:
                count = (self._held + broke) // 2

    def _skip_large(self) -> bool:
        """Whether the next item, that broke, was a large one and a smaller one still fits.

        All between the two are left for the next GPU.
        """
        if self._held == len(self.chosen):
            return False
        broke = self.chosen[self._held]
        if self.filling.rate_rps(broke) <= LARGE * self._sums_of(self._held).rate_rps:
            return False
        found = self._first_that_fits(self.seen.index(broke) + 1)
        if found is None:
            return False
        self.chosen[self._held :] = []
        self._groups = {g for place in self.chosen for g in self.filling.apart.get(place, ())}
        self._see(found + 1)
        self._next = found
        return True

    def _first_that_fits(self, start: int) -> int | None:
        """The first index of an item that fits beside what is held: rank by rank, by bisection."""
        n_all = len(self.seen) + len(self.left)
        while start < n_all:
            end = self._end_of_rank(start, n_all)
            if self._fits(end - 1):
                low, high = start - 1, end - 1
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if self._fits(middle) else (middle, high)
                return high
            start = end
        return None

    def _end_of_rank(self, start: int, n_all: int) -> int:
        """One past the last item of the rank of the one at `start`."""
        ranks = self.filling.ranks
        rank = ranks[self._at(start)]
        low, high = start, n_all
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if ranks[self._at(middle)] == rank else (low, middle)
        return high

    def _at(self, index: int) -> int:
        """The place of an item, looked at or not."""
        n_seen = len(self.seen)
        return self.seen[index] if index < n_seen else self.left[n_seen - 1 - index]

    def _fits(self, index: int) -> bool:
        """Whether one more item is expected to hold beside what is held."""
        sums = self._sums_of(self._held)
        place = [self._at(index)]
        sums.add_of(self._works, place)
        fits = self._chooser.holds(sums, self._rank)
        sums.remove_of(self._works, place)
        return fits

    def _look(self, count: int) -> int:
        """Looks at so many that may share a GPU; returns how many there are, at most that."""
        while (missing := count - len(self.chosen)) > 0:
            self._see(self._next + missing)
            found = self.seen[self._next : self._next + missing]
            if not found:
                break
            self._next += len(found)
            self.chosen += self._joining(found) if self.filling.apart else found
        return min(count, len(self.chosen))

    def _see(self, count: int) -> None:
        """Looks at so many in all, or at all there are."""
        more = min(count - len(self.seen), len(self.left))
        if more > 0:
            self.seen += self.left[: -more - 1 : -1]
            del self.left[-more:]

    def _joining(self, places: Sequence[int]) -> list[int]:
        """Those that may share the GPU with the chosen and each other, who then are chosen."""
        joining, apart_of = [], self.filling.apart
        for place in places:
            groups = apart_of.get(place, ())
            if self._groups.isdisjoint(groups):
                self._groups.update(groups)
                joining.append(place)
        return joining

    def _sums_of(self, count: int) -> WorkSums:
        """What the first so many ask for."""
        sums = self._sums
        if count > self._summed:
            sums.add_of(self._works, self.chosen[self._summed : count])
        elif count < self._summed:
            sums.remove_of(self._works, self.chosen[count : self._summed])
        self._summed = count
        return sums

    def _holds(self, count: int) -> bool:
        """Whether the first so many hold with some slots."""
        return self._chooser.holds(self._sums_of(count), self._rank)

    def _expected(self, count: int) -> float:
        """How full the first so many seem; too full where there are not so many."""
        if self._look(count) < count:
            return TOO_FULL
        return self._chooser.expected(self._sums_of(count), self._rank)
