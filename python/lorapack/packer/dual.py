"""Lower bounds on the number of GPUs, given the share of a GPU that each item takes.

Let y price the items. No GPU holds a set worth more than v, the largest sum of y over any set that
fits one, so at least sum(y) / v GPUs are needed (Farley 1990). With the least share of each item
for its price v is 1 at most, and the items' shares add up. Up to 60 items, prices are improved by
column generation (Gilmore and Gomory 1961), each most valuable set found exactly, and large items
are rounded up where two of them cannot meet (the bound L2 of Martello and Toth 1990). For more,
prices start at 1 / Maxpack and stay near it, and the most valuable set is searched for.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lorapack.packer.linear_program import dearest_prices

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from lorapack.packer.pricing import PricingSearch

    Floats = NDArray[np.float64]

MOST_EXACT = 60
"""Items up to which prices are improved."""

ROUNDS = 80
"""Of column generation, at most."""

GRID = 10_000
"""Parts of a GPU that shares are rounded down to, which makes a bound no larger."""

SMALL = 0.05
"""Shares below which items are not worth rounding up beside."""

CLOSE = 1e-3
"""GPUs between the bound and what fractions of sets reach at which improving ends."""

SEARCHES = 12
"""Rounds of the same where sets are searched for."""

NEAR = 0.01
"""Share of the bound at which those end."""

AROUND_START = (0.5, 1.1)
"""Multiples of 1 / Maxpack between which prices are improved: few rounds go astray."""

FEW_TRIES = 2
"""To find a valuable set, where that is not done thoroughly."""

MOST_ADDED = 8
"""Sets of the plan that are added a round."""


def dual_bound(sizes: Floats, plan: Sequence[Sequence[int]]) -> float:
    """GPUs that no placement goes below, if these are the shares that few items take.

    Args:
        sizes: A row a class of GPU, a column an item; endless where it does not fit.
        plan: Sets that fit, which together hold every item.
    """
    least = sizes.min(axis=0)
    bound = max(float(least.sum()), rounded_up_bound(least))
    if math.ceil(bound - CLOSE) >= len(plan):
        return bound
    return max(bound, _improved(sizes, plan))


def searched_bound(
    search: PricingSearch, plan: Sequence[range], *, improve: bool = True, thorough: bool = True
) -> float:
    """The same for many items, with sets that are searched for: an estimate.

    Args:
        search: Finds valuable sets.
        plan: Sets that fit, one after the other all items.
        improve: Whether prices are improved; else they stay at 1 / Maxpack.
        thorough: Whether sets are looked for thoroughly.
    """
    knots, prices = search.knots, search.shares
    starts = np.array([members.start for members in plan])
    counts = knots.weights(slice(None))
    limits = np.outer(AROUND_START, prices)
    known: list[Floats] = []
    best, reached = 0.0, math.inf
    for _ in range(SEARCHES if improve else 1):
        own = knots.prices(prices)
        found = search.most_valuable(own) if thorough else search.most_valuable(own, FEW_TRIES)
        of_plan = np.add.reduceat(own, starts)
        value = max(max(worth for _, worth in found), float(of_plan.max()))
        best = max(best, float(own.sum()) / value)
        if not improve or best > (1.0 - NEAR) * reached:
            break
        dear = [plan[i] for i in np.argsort(-of_plan)[:MOST_ADDED] if of_plan[i] > 1.0 + CLOSE]
        known += [knots.weights(slice(members.start, members.stop)) for members in dear]
        known += [knots.weights(members) for members, worth in found if worth > 1.0 + CLOSE]
        if not known:
            known = [knots.weights(found[0][0])]
        dearest = dearest_prices(np.array(known), counts, (limits[0], limits[1]))
        prices, again = limits[0] if dearest is None else dearest, prices
        reached = float(counts @ prices)
        if np.array_equal(prices, again):
            break
    return best


def rounded_up_bound(sizes: Floats) -> float:
    """Items over half a GPU have one each; what room they leave, those of no less than k share."""
    best = 0.0
    large = sizes[sizes > 0.5]
    for k in np.unique(sizes[(sizes >= SMALL) & (sizes <= 0.5)]):
        alone = large[large > 1.0 - k]
        shared = large[large <= 1.0 - k]
        small = float(sizes[(sizes >= k) & (sizes <= 0.5)].sum())
        room = len(shared) - float(shared.sum())
        best = max(best, len(alone) + len(shared) + max(0.0, math.ceil(small - room - CLOSE)))
    return max(best, float(len(large)))


def _improved(sizes: Floats, plan: Sequence[Sequence[int]]) -> float:
    """The best Farley bound in rounds of column generation."""
    weights = np.where(np.isfinite(sizes), np.floor(np.minimum(sizes, 2.0) * GRID), 2 * GRID)
    columns = [frozenset(members) for members in plan]
    counts = np.ones(sizes.shape[1])
    best = 0.0
    for _ in range(ROUNDS):
        worth = np.array([_members(own, len(counts)) for own in columns])
        prices = dearest_prices(worth, counts)
        assert prices is not None, "prices of zero are such"
        fractional = float(prices.sum())
        members, value = most_valuable(prices, weights.astype(np.int64))
        best = max(best, fractional / max(value, 1.0))
        if fractional - best < CLOSE or members in columns:
            break
        columns.append(members)
    return best


def _members(members: frozenset[int], n_items: int) -> Floats:
    """A set as a row: 1 for what it holds."""
    row = np.zeros(n_items)
    row[list(members)] = 1.0
    return row


def most_valuable(prices: Floats, weights: NDArray[np.int64]) -> tuple[frozenset[int], float]:
    """The set worth most of those that fit a GPU of some class, exactly (on the grid)."""
    best: tuple[frozenset[int], float] = (frozenset(), 0.0)
    for own in weights:
        inside = [i for i in np.argsort(own, kind="stable") if own[i] <= GRID and prices[i] > 0]
        worth = np.zeros(GRID + 1)
        taken = np.zeros((len(inside), GRID + 1), dtype=bool)
        for row, i in enumerate(inside):
            weight = int(own[i])
            with_it = worth[: GRID + 1 - weight] + prices[i]
            better = with_it > worth[weight:]
            taken[row, weight:] = better
            worth[weight:] = np.where(better, with_it, worth[weight:])
        value = float(worth[GRID])
        if value > best[1]:
            best = (_backwards(inside, taken, own), value)
    return best


def _backwards(
    inside: Sequence[int], taken: NDArray[np.bool_], weights: NDArray[np.int64]
) -> frozenset[int]:
    """The items of the best set, from the table of choices."""
    members, room = set(), GRID
    for row in range(len(inside) - 1, -1, -1):
        if taken[row, room]:
            members.add(int(inside[row]))
            room -= int(weights[inside[row]])
    return frozenset(members)
