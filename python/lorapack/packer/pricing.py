"""The most valuable set that a GPU holds, searched for among the items of a large fleet.

Whether a set fits is asked of physics, which the plan's own GPUs set right: the items of a GPU that
breaks at t times its traffic count for so much more, or less, that physics says so, too. A search
sets out from GPUs that are full of small, middling and large items; over and over it keeps some of
the best set known, and fills the GPU anew with the items that are worth most for what they add.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lorapack.packer.bound import dearest_prices_s
from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.fullness import LoadSlots, full_at, largest_count
from lorapack.packer.knots import Knots
from lorapack.packer.works import WorkTable
from lorapack.twin.physics import WorkSums

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import GpuKind
    from lorapack.packer.surface import Full
    from lorapack.packer.works import Works
    from lorapack.twin.physics import WorkList
    from lorapack.twin.service_level import ServiceLevel

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

BESIDE = 8
"""Items of a rank whose sizes are reckoned beside a set; others lie between, by size."""

LEAST_GROWN = 0.1
"""Nothing counts for less than this share of 1 / Maxpack, whatever it seems to add."""

MOST_SEARCHED = 4_000
"""Items among which a search goes; of more, every so many-th by size."""

KEPT = (0.0, 0.75, 0.5, 0.75, 0.5)
"""Shares of the best set known that a search keeps in turn, the rest being filled anew."""

STARTS = (0.1, 0.6, 1.0)
"""Quantiles of the sizes that a search sets out from."""

PASSED_OVER = 8
"""Items tried in the gap that is left."""

MOST_COPIES = 5_000
"""Of an item on one GPU that are asked about."""

MOST_BELIEVED = 30.0
"""Times as full as physics says: a GPU said to break that is fuller has hardly any traffic."""

LESS = 0.8
"""Share of the engine time of so many of an item that smaller ones are guessed to fill."""

NEAR = 0.02
"""Share to which such a number is known."""


@dataclass
class GpuClass:
    """A kind of GPU with slots of one rank.

    Attributes:
        slots: Physics of the GPU.
        rank: The rank that its slots are made for.
        works: What all items ask for, at the rates that are believed.
    """

    slots: LoadSlots
    rank: int
    works: WorkList

    def sums(self, places: Sequence[int]) -> WorkSums:
        """What items ask for in all."""
        sums = WorkSums()
        sums.add_of(self.works, places)
        return sums

    def sizes_beside(self, sums: WorkSums, places: Iterable[int]) -> Floats:
        """What each of some items adds to the fullness of a GPU that holds others."""
        before, slots = self.slots.least_full(sums, self.rank)
        one_each = slots == sums.n_adapters < self.slots.guide.slot_limit(self.rank)
        sizes = []
        for place in places:
            sums.add_of(self.works, [place])
            more = sums.n_adapters
            after = self.slots.fullness(sums, more if one_each else slots, self.rank)
            sums.remove_of(self.works, [place])
            sizes.append(after - before)
        return np.array(sizes)

    def most_copies(self, place: int, guess: float = 1.0) -> float:
        """How many of an item a GPU would hold, were there so many: its Maxpack."""
        copies = np.full(MOST_COPIES, place)
        fullness = self._fullness_of_first(copies, WorkSums())
        return max(1.0, largest_count(fullness, round(guess), MOST_COPIES, NEAR)[1])

    def take(self, order: Places, guess: int, kept: Sequence[int] = ()) -> list[int]:
        """The longest start of an ordered list that fits, then what of the next few still does.

        Args:
            order: Places, the best first.
            guess: How many of them fit.
            kept: Places of items that are on the GPU already.
        """
        sums = self.sums(kept)
        fullness = self._fullness_of_first(order, sums)
        held = largest_count(fullness, guess, len(order))[0]
        fullness(held)
        members: list[int] = [*kept, *order[:held].tolist()]
        for place in order[held + 1 : held + 1 + PASSED_OVER].tolist():
            sums.add_of(self.works, [place])
            if self._fullness(sums) <= 1.0:
                members.append(place)
            else:
                sums.remove_of(self.works, [place])
        return members

    def _fullness_of_first(self, order: Places, sums: WorkSums) -> Callable[[int], float]:
        """How full the first so many of an ordered list make a GPU, which `sums` then says, too.

        Args:
            order: Places.
            sums: What is on the GPU already.
        """
        summed = 0

        def fullness(count: int) -> float:
            nonlocal summed
            sums.add_of(self.works, order[summed:count].tolist())
            sums.remove_of(self.works, order[count:summed].tolist())
            summed = count
            return self._fullness(sums)

        return fullness

    def _fullness(self, sums: WorkSums) -> float:
        return self.slots.least_full(sums, self.rank)[0]


@dataclass
class PricingSearch:
    """Looks for the set worth most on any GPU to be had.

    Attributes:
        classes: Of GPUs.
        ranks: The rank class of each item.
        knots: Of prices.
        shares: 1 / Maxpack of the items at the knots.
        searched: Places of the items among which the search goes.
    """

    classes: Sequence[GpuClass]
    ranks: NDArray[np.int64]
    knots: Knots
    shares: Floats
    searched: Places
    _last: dict[int, list[int]] = field(default_factory=dict, repr=False)
    _draw: np.random.Generator = field(init=False, repr=False)
    _sizes: Floats = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._sizes = self.knots.prices(self.shares)
        self._draw = np.random.default_rng(0)

    def most_valuable(
        self, prices: Floats, tries: int = len(KEPT)
    ) -> list[tuple[list[int], float]]:
        """The sets found and what each is worth, the best of every class of GPU.

        Asked again, it goes on from what it found, and may find more.

        Args:
            prices: Of all items.
            tries: To better the best set known.
        """
        found = []
        for index, gpu in enumerate(self.classes):
            inside = (self.ranks[self.searched] <= gpu.rank) & (prices[self.searched] > 0.0)
            places = self.searched[inside]
            if not len(places):
                continue
            tried = [self._last[index]] if index in self._last else self._starts(gpu, places)
            best = max(tried, key=lambda members: float(prices[members].sum()))
            worth = float(prices[best].sum())
            for share in KEPT[:tries]:
                kept = self._draw.permutation(best)[: round(share * len(best))].tolist()
                sizes = self._sizes_beside(gpu, gpu.sums(kept or best))
                left = np.setdiff1d(places, kept) if kept else places
                order = left[np.argsort(-prices[left] / sizes[left], kind="stable")]
                members = gpu.take(order, max(len(best) - len(kept), 1), kept)
                if (own := float(prices[members].sum())) > worth:
                    best, worth = members, own
            self._last[index] = best
            found.append((best, worth))
        return found

    def _starts(self, gpu: GpuClass, places: Places) -> list[list[int]]:
        """GPUs full of small items, of middling ones and of large ones, to set out from.

        What an item adds depends on what it is beside, and no search gets from a GPU that is out of
        time to one that is out of slots.
        """
        logs = np.log(self._sizes[places])
        return [
            gpu.take(
                places[np.argsort(np.abs(logs - like), kind="stable")], round(1 / math.exp(like))
            )
            for like in np.quantile(logs, STARTS)
        ]

    def _sizes_beside(self, gpu: GpuClass, sums: WorkSums) -> Floats:
        """What items add beside others: known for some of each rank, between them by size."""
        sizes: Floats = self._sizes.copy()
        for rank in np.unique(self.ranks):
            if rank > gpu.rank:
                continue
            places = self.searched[self.ranks[self.searched] == rank]
            some = _spread_out(places, self._sizes[places], BESIDE)
            grown = gpu.sizes_beside(sums, some.tolist()) / self._sizes[some]
            between = np.interp(self._sizes[places], self._sizes[some], grown)
            sizes[places] *= np.maximum(between, LEAST_GROWN)
        return sizes


def search_on_plan(
    full: Sequence[Full],
    kinds: Sequence[GpuKind],
    evaluator: Evaluator,
    slo: ServiceLevel,
    works: Works,
) -> PricingSearch:
    """A search on the surface that the GPUs of a plan show; items are numbered as they hold them.

    Args:
        full: The GPUs.
        kinds: GPUs to be had.
        evaluator: For what memory allows.
        slo: The service level.
        works: What adapters ask of GPUs.
    """
    slots = {id(kind): LoadSlots.of(kind.profile, evaluator, slo) for kind in kinds}
    items = [item for entry in full for item in entry.gpu.items]
    beliefs = _beliefs(full, slots, works)
    own = {rank: max_lora_rank_for([i.load]) for rank, i in {i.load.rank: i for i in items}.items()}
    ranks = np.array([own[item.load.rank] for item in items])
    table = WorkTable([item.load for item in items])
    classes = {
        (id(kind), rank): GpuClass(slots[id(kind)], rank, table.works(kind.profile, rank, beliefs))
        for kind in kinds
        for rank in np.unique(ranks).tolist()
        if slots[id(kind)].guide.slot_limit(rank)
    }
    work = _work(items, kinds, evaluator, slo) * beliefs
    knots = Knots.of(ranks, work)
    searched = _spread_out(np.arange(len(items)), work, MOST_SEARCHED)
    shares = [
        1.0 / _maxpacks(list(classes.values()), ranks, work, at.tolist()) for at in knots.places
    ]
    return PricingSearch(
        list(classes.values()),
        ranks,
        knots,
        np.concatenate(shares),
        searched,
    )


def _work(
    items: Sequence[Item], kinds: Sequence[GpuKind], evaluator: Evaluator, slo: ServiceLevel
) -> Floats:
    """Engine time that each item takes at least, on the kind of GPU where it takes least."""
    loads = [item.load for item in items]
    prices = [dearest_prices_s(kind.profile, loads, evaluator, slo.min_served) for kind in kinds]
    rates = np.array([load.rate_rps for load in loads])
    work: Floats = np.min(prices, axis=0) * rates
    return work


def _maxpacks(
    classes: Sequence[GpuClass], ranks: NDArray[np.int64], work: Floats, places: Sequence[int]
) -> Floats:
    """How many of each item a GPU would hold, on the class of GPU that holds most.

    Args:
        classes: Of GPUs.
        ranks: The rank class of each item.
        work: Engine time that each item takes.
        places: Of items of one rank, the smallest first.
    """
    best = np.ones(len(places))
    for gpu in classes:
        filled = 0.0
        for i in range(len(places) - 1, -1, -1) if gpu.rank == ranks[places[0]] else ():
            # As much work as of the next larger item, a little less for the slots.
            count = gpu.most_copies(places[i], LESS * filled / work[places[i]])
            filled = count * work[places[i]]
            best[i] = max(best[i], count)
    return best


def _beliefs(full: Sequence[Full], slots: Mapping[int, LoadSlots], works: Works) -> Floats:
    """By how much more each item's rate counts: as its GPU says, or those near that were asked.

    A GPU that hardly has traffic says nothing.
    """
    told = {
        i: _belief(entry.gpu, entry.factor, slots[id(entry.gpu.kind)], works)
        for i, entry in enumerate(full)
        if entry.factor is not None
    }
    known = {i: belief for i, belief in told.items() if belief <= MOST_BELIEVED}
    each = np.interp(np.arange(len(full)), [*known], [*known.values()]) if known else np.ones(1)
    beliefs: Floats = np.repeat(np.broadcast_to(each, len(full)), [len(e.gpu.items) for e in full])
    return beliefs


def _belief(gpu: GpuPlacement, factor: float, slots: LoadSlots, works: Works) -> float:
    """What rates must be multiplied with for physics to say that it breaks where it does.

    With the slots that are best by physics: a plan's are the best by who judged it.
    """
    rank = gpu.max_lora_rank

    def fullness(belief: float) -> float:
        sums = works.sums(gpu.loads, gpu.kind.profile, rank, factor * belief)
        return slots.least_full(sums, rank)[0]

    return full_at(fullness)


def _spread_out(places: Places, keys: Floats, n: int) -> Places:
    """About `n` of some places, from the least key to the largest."""
    order: Places = places[np.argsort(keys, kind="stable")]
    if len(order) > n:
        order = order[np.unique(np.linspace(0, len(order) - 1, n).astype(np.intp))]
    return order
