"""Filling the gap that a large item left: the largest of the smaller ones that still fit.

Within a rank the list falls in rate, so the first that fits is found by bisection, and as many from
there on as hold by galloping.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from lorapack.packer.fill import FAVOURED_RULES, PrefixFill
from lorapack.packer.placement import Item, compatible, item_order

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.evaluate import SlotSearch
    from lorapack.twin.trial import Verdict

MAX_GAPS = 4
"""Gaps filled a GPU: each is smaller than the last."""


def top_up(
    chosen: list[Item], rest: Sequence[Item], search: SlotSearch, verdict: Verdict
) -> Verdict:
    """Adds to `chosen` what of `rest` fits beside it.

    Args:
        chosen: What the GPU holds; grows in place.
        rest: In packing order.
        search: Judges, with the slots that won last first.
        verdict: On what it holds so far.

    Returns:
        The verdict on what it holds in the end.
    """
    left = list(rest)
    for _ in range(MAX_GAPS):
        left = compatible(chosen, left)
        start = _first_fitting(chosen, left, search)
        if start is None:
            break
        fill = PrefixFill(
            tuple(item.load for item in (*chosen, *left[start:])), search, least=len(chosen) + 1
        )
        found = fill.longest(len(chosen) + 1)
        if found is None:
            break
        verdict, n_more = found, fill.held - len(chosen)
        chosen += left[start : start + n_more]
        left = left[start + n_more :]
    return verdict


def _first_fitting(chosen: Sequence[Item], left: Sequence[Item], search: SlotSearch) -> int | None:
    """The place of the largest item that fits, of the first rank of which any does."""

    def fits(place: int) -> bool:
        joined = sorted([*chosen, left[place]], key=item_order)
        loads = tuple(item.load for item in joined)
        return search.first_holding(loads, FAVOURED_RULES) is not None

    end = 0
    for _, run in groupby(left, key=lambda item: item.load.rank):
        start, end = end, end + len(list(run))
        if not fits(end - 1):
            continue
        low, high = start - 1, end - 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fits(middle) else (middle, high)
        return high
    return None
