"""A dual bound on the predicted surface, after Farley: an estimate of the fewest GPUs.

Let y price the items. No GPU holds a set worth more than v, the largest sum of y over any set that
fits one, so the fleet needs at least sum(y) / v of them (Farley 1990). Prices start at the share
that an item takes of the GPU it is on and are improved by column generation: what is in the most
valuable set is overpriced, and made cheaper. What fits is said by physics, up to the load that
GPUs of this plan were seen to hold, and the most valuable set is searched for (the plan's own GPUs
are among those looked at), not found exactly: so the figure is called an estimate, and the true
bound of `bound` stands beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.guide import SHORT_OF_SLOTS, first_load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lorapack.packer.guide import Guide
    from lorapack.packer.placement import Item
    from lorapack.twin.service_level import ServiceLevel

    Floats = NDArray[np.float64]

LOOKS = 60_000
"""Items looked at in all rounds together: what the estimate may cost."""

FEWEST_ROUNDS, MOST_ROUNDS = 4, 60
"""Rounds of column generation."""

CHEAPER = 0.12
"""By how much what is in the most valuable set is made cheaper in the first round; less later."""


@dataclass(frozen=True)
class Surface:
    """What fits on a GPU, by prediction.

    Attributes:
        guide: Predicts loads.
        limits: The rank slots are made for -> the largest load that holds.
        otherwise: The same for ranks that no GPU of the plan has.
        full: A full GPU of each rank, beside which an item's size is measured.
        seen: Names of sets that were seen to hold, each with the traffic over its own at which it
            no longer did: worth so much more than it is.
    """

    guide: Guide
    limits: Mapping[int, float]
    otherwise: float
    full: Mapping[int, Sequence[Item]]
    seen: Sequence[tuple[frozenset[tuple[str, float]], float]] = ()

    @classmethod
    def of(
        cls, guide: Guide, slo: ServiceLevel, gpus: Sequence[tuple[Sequence[Item], float]]
    ) -> Surface:
        """The surface, given what GPUs hold and the factor on their traffic that is too much."""
        full = [[busier(item, factor) for item in items] for items, factor in gpus]
        limits: dict[int, float] = {}
        largest: dict[int, Sequence[Item]] = {}
        for items in full:
            rank, load = guide.rank(items), guide.load(items)
            if limits.get(rank, 0.0) < load < SHORT_OF_SLOTS:
                limits[rank] = load
            if len(items) > len(largest.get(rank, ())):
                largest[rank] = items
        otherwise = max(limits.values(), default=1.1 * first_load(slo))
        seen = [
            (frozenset((item.name, item.share) for item in items), factor) for items, factor in gpus
        ]
        return cls(guide, limits, otherwise, largest, seen)

    def limit(self, rank: int) -> float:
        """The largest load at a rank."""
        return self.limits.get(rank, self.otherwise)

    def sizes(self, items: Sequence[Item], rank: int) -> Floats:
        """The share of a GPU that each item takes, beside others where such a GPU is known."""
        beside = self.full.get(rank, ())
        before = self.guide.load(beside)
        loads = [self.guide.load_beside(beside, item, rank) - before for item in items]
        return np.maximum(np.array(loads) / self.limit(rank), 1e-9)


def dual_estimate(items: Sequence[Item], surface: Surface) -> float:
    """The best Farley bound found, in GPUs.

    Args:
        items: All that must be placed.
        surface: What fits.
    """
    busy = [item for item in items if item.load.rate_rps > 0]
    if not busy:
        return 0.0
    ranks = sorted({max_lora_rank_for([item.load]) for item in busy})
    sizes = {rank: surface.sizes(busy, rank) for rank in ranks}
    own = [max_lora_rank_for([item.load]) for item in busy]
    prices = np.array([sizes[rank][i] for i, rank in enumerate(own)])
    seen = [
        ([i for i, item in enumerate(busy) if (item.name, item.share) in names], factor)
        for names, factor in surface.seen
    ]
    for known, factor in seen:
        prices[known] /= factor * prices[known].sum()
    best = 0.0
    rounds = int(np.clip(LOOKS // (len(busy) * len(ranks)), FEWEST_ROUNDS, MOST_ROUNDS))
    for number in range(rounds):
        inside, value = _most_valuable(busy, prices, sizes, surface)
        for known, factor in seen:
            worth = factor * float(prices[known].sum())
            if worth > value:
                inside, value = known, worth
        best = max(best, float(prices.sum()) / value)
        prices[inside] *= 1.0 - CHEAPER / (1.0 + 0.1 * number)
    return best


def busier(item: Item, factor: float) -> Item:
    """The item with its traffic multiplied."""
    return replace(item, load=replace(item.load, rate_rps=item.load.rate_rps * factor))


def _most_valuable(
    items: Sequence[Item], prices: Floats, sizes: Mapping[int, Floats], surface: Surface
) -> tuple[list[int], float]:
    """The set worth most of those filled by value for size, or by value alone, for each rank."""
    best: list[int] = []
    most = 0.0
    for rank, own in sizes.items():
        fits = [i for i, item in enumerate(items) if item.load.rank <= rank]
        for value in (prices / own, prices):
            order = sorted(fits, key=lambda i: (-value[i], items[i].load.adapter, items[i].share))
            taken = surface.guide.take([], [items[i] for i in order], surface.limit(rank), rank)
            inside = [order[place] for place in taken]
            worth = float(prices[inside].sum())
            if worth > most:
                best, most = inside, worth
    if not best:  # every item alone is past the limit: the dearest is a set of its own
        dearest = int(np.argmax(prices))
        return [dearest], float(prices[dearest])
    return best, most
