"""Prices of very many items by a few numbers: at knots of size, rank by rank, straight between.

What an item takes of a GPU is nearly straight in its size (a slot, and the time its tokens take),
so few knots do; and any prices give a bound, the best of these one that is nearly as good.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Places = NDArray[np.intp]

MOST_KNOTS = 10
"""Of a rank."""


@dataclass(frozen=True)
class Knots:
    """Where prices bend, and where items lie between.

    Attributes:
        places: Rank by rank, ascending: the item nearest to each knot, by size, ascending.
        below: The knot at or below each item.
        share: How far each item is on the way to the next knot.
    """

    places: tuple[Places, ...]
    below: Places
    share: Floats

    @classmethod
    def of(cls, ranks: NDArray[np.int64], sizes: Floats) -> Knots:
        """For items of these rank classes and sizes."""
        places: list[Places] = []
        below, share = np.empty(len(sizes), dtype=np.intp), np.empty(len(sizes))
        first = 0
        for rank in np.unique(ranks):
            own = np.flatnonzero(ranks == rank)
            nearest = _nearest(own, sizes[own])
            at = sizes[nearest]
            inside = np.interp(sizes[own], at, np.arange(len(at), dtype=np.float64))
            lower = np.minimum(inside.astype(np.intp), max(len(at) - 2, 0))
            below[own], share[own] = first + lower, inside - lower
            places.append(nearest)
            first += len(at)
        return cls(tuple(places), below, share)

    @property
    def n(self) -> int:
        """Knots in all."""
        return sum(len(own) for own in self.places)

    def prices(self, at_knots: Floats) -> Floats:
        """The price of each item."""
        above = np.minimum(self.below + 1, self.n - 1)
        prices: Floats = (1.0 - self.share) * at_knots[self.below] + self.share * at_knots[above]
        return prices

    def weights(self, members: Sequence[int] | Places | slice) -> Floats:
        """What the prices at the knots are multiplied with in the price of a set."""
        below, share = self.below[members], self.share[members]
        above = np.minimum(below + 1, self.n - 1)
        weights: Floats = np.bincount(below, 1.0 - share, self.n).astype(np.float64)
        return weights + np.bincount(above, share, self.n)


def _nearest(places: Places, sizes: Floats) -> Places:
    """Items of different sizes, nearest to knots that are each so many times the one before."""
    distinct, first = np.unique(sizes, return_index=True)
    if len(distinct) > MOST_KNOTS:
        wanted = np.geomspace(distinct[0], distinct[-1], MOST_KNOTS)
        chosen = np.unique(np.abs(distinct[None, :] - wanted[:, None]).argmin(axis=1))
        first = first[chosen]
    return places[first]
