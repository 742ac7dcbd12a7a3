"""Items moved off GPUs that are too full, by the cheapest ways to where there is room.

Few GPUs have room for what another must let go of: their slots are of a lower rank, or all taken.
So items are handed on. A way leads from a GPU that is too full over others, each of which lets go
of as much as it is given, to one that has room; the cheapest is that on which the least arrives.
Where none leads anywhere, an item is exchanged for a colder one.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np

from lorapack.packer.margins import TINY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from lorapack.packer.placement import Item
    from lorapack.packer.rooms import Room

LOOKED_AT = 6
"""Items of a GPU that a move chooses among: from low rank to high, from cold to hot."""

TOO_LARGE = 1.5
"""An item that frees more than so many times what must be freed counts for no more."""

EMPTIER = 0.3
"""What a full GPU counts for against an empty one, beside what arrives there for what leaves."""

EACH_STEP = 1.02
"""What a way gets dearer by with each GPU on it, however little is lost."""

MOST_LOST = 3.0
"""Ways on which more arrives, as a multiple of what leaves, are not gone."""

JUST_FULL = 0.999
"""GPUs take items up to here, where nobody has more room."""

LEAST_FREED = 1e-4
"""An exchange that frees less gets nowhere."""

MOST_WAYS = 40
"""Ways gone, or found closed, for one GPU."""

MOST_LET_GO = 6
"""Items that a GPU on the way may have to let go of for the one that it is given."""


def relieve(rooms: Sequence[Room], overfull: Iterable[int], level: float) -> None:
    """Moves items off GPUs that are too full, to where there is room.

    Args:
        rooms: All GPUs.
        overfull: Places of those.
        level: How full GPUs may be; fuller only where there is no other way.
    """
    moves = _Moves(rooms)
    for place in sorted(overfull, key=lambda i: (-rooms[i].full, i)):
        moves.lighten(place, level, level)


def vacate(rooms: Sequence[Room], place: int, level: float) -> bool:
    """Moves all items off a GPU, to where there is room; or none, where there is not enough.

    Args:
        rooms: All GPUs.
        place: Of that one.
        level: How full others may be; fuller only where there is no other way.
    """
    moves = _Moves(rooms)
    moves.lighten(place, 0.0, level, MOST_WAYS + len(rooms[place].items))
    if not rooms[place].items:
        return True
    moves.take_back()
    return False


@dataclass(frozen=True)
class _Offer:
    """An item that may go from one GPU to another.

    Attributes:
        item: The item.
        freed: What the one is less full without it.
        added: What the other is fuller with it.
    """

    item: Item
    freed: float
    added: float

    def arriving(self, amount: float) -> float:
        """What arrives where such items go until so much is freed."""
        return self.added if self.freed >= amount else amount * self.added / max(self.freed, TINY)

    def loss(self, amount: float) -> float:
        """What arrives for what was to be freed: more is no gain."""
        return self.added / max(min(self.freed, TOO_LARGE * amount), TINY)


@dataclass
class _Moves:
    """Moves made, which can be taken back.

    Attributes:
        rooms: All GPUs.
        made: Item, from where, to where.
    """

    rooms: Sequence[Room]
    made: list[tuple[Item, int, int]] = field(default_factory=list)
    _leaving: list[list[tuple[Item, float]] | None] = field(init=False)
    _offers: list[list[list[_Offer] | None]] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.rooms)
        self._leaving = [None] * n
        self._offers = [[None] * n for _ in range(n)]

    def lighten(self, place: int, goal: float, level: float, most_ways: int = MOST_WAYS) -> None:
        """Moves items off a GPU until it is no fuller than a goal, as far as that goes.

        Args:
            place: Of the GPU.
            goal: How full it may be; 0: all items go.
            level: How full others may be; fuller only where there is no other way.
            most_ways: Ways gone, or found closed.
        """
        own, closed = self.rooms[place], set[tuple[int, int]]()
        for _ in range(most_ways):
            if not own.items or (own.full <= goal and goal > 0.0):
                break
            way = self._cheapest_way(place, goal, level, closed) or self._cheapest_way(
                place, goal, JUST_FULL, closed
            )
            if way is None:
                if own.full <= JUST_FULL or not self._exchange(place):
                    break
            elif not self._go(way, own.full - goal):
                closed.add((way[-2], way[-1]))

    def _cheapest_way(
        self, start: int, goal: float, most: float, closed: set[tuple[int, int]]
    ) -> list[int] | None:
        """Places from a GPU that is too full to one with room, by what is lost (Dijkstra 1959).

        Args:
            start: The first.
            goal: How full that may be.
            most: How full the last may get.
            closed: Steps that led nowhere.
        """
        lost, amounts, before = {start: 1.0}, {start: self.rooms[start].full - goal}, {start: start}
        ahead = [(1.0, start)]
        best: tuple[float, int] = (MOST_LOST, start)
        while ahead and ahead[0][0] < best[0]:
            so_far, place = heapq.heappop(ahead)
            if so_far > lost[place]:
                continue
            full, amount = self.rooms[place].full, amounts[place]
            if place != start and full + amount <= most:
                best = min(best, (so_far + EMPTIER * full, place))
                continue
            for other in range(len(self.rooms)):
                if so_far * EACH_STEP >= lost.get(other, MOST_LOST) or (place, other) in closed:
                    continue
                offer = self._best(place, other, amount)
                if offer is None:
                    continue
                more = so_far * max(offer.loss(amount), 1.0) * EACH_STEP
                if more < lost.get(other, MOST_LOST):
                    lost[other], before[other] = more, place
                    # One item leaves the first GPU at a time.
                    amounts[other] = offer.added if place == start else offer.arriving(amount)
                    heapq.heappush(ahead, (more, other))
        return None if best[1] == start else _way_to(best[1], before)

    def _best(self, place: int, other: int, amount: float) -> _Offer | None:
        offers = self._between(place, other)
        return min(offers, key=lambda offer: offer.loss(amount), default=None)

    def _between(self, place: int, other: int) -> list[_Offer]:
        """What may go from one GPU to another as they are now."""
        known = self._offers[place][other]
        if known is None:
            known = list(self._offered(place, other)) if place != other else []
            self._offers[place][other] = known
        return known

    def _offered(self, place: int, other: int) -> Iterator[_Offer]:
        room = self.rooms[other]
        for item, freed in self._may_leave(place):
            if room.may_take(item):
                yield _Offer(item, freed, room.added(item))

    def _may_leave(self, place: int) -> list[tuple[Item, float]]:
        """Some items of a GPU as it is now, and what each frees."""
        known = self._leaving[place]
        if known is None:
            own = self.rooms[place]
            known = [(item, own.freed(item)) for item in _some(own)]
            self._leaving[place] = known
        return known

    def _forget(self, place: int) -> None:
        """What is known of a GPU that changes."""
        self._leaving[place] = None
        self._offers[place] = [None] * len(self.rooms)
        for offers in self._offers:
            offers[place] = None

    def _go(self, way: Sequence[int], amount: float) -> bool:
        """Moves an item off the first GPU, and what must give way along the way; or nothing."""
        so_far = len(self.made)
        for step, (place, other) in enumerate(pairwise(way)):
            own = self.rooms[place]
            for _ in range(MOST_LET_GO if step else 1):
                excess = own.full - JUST_FULL if step else amount
                offer = self._best(place, other, excess) if excess > 0.0 else None
                if offer is None:
                    break
                self._make(offer.item, place, other)
        if all(self.rooms[place].full <= JUST_FULL for place in way[1:]):
            return True
        self.take_back(so_far)
        return False

    def _exchange(self, place: int) -> bool:
        """Lets an item go to a GPU that has room, for a colder one of its own."""
        best = min(self._exchanges(place), key=lambda found: found[0], default=None)
        if best is None:
            return False
        _, item, other, back = best
        self._make(item, place, other)
        self._make(back, other, place)
        return True

    def _exchanges(self, place: int) -> Iterator[tuple[float, Item, int, Item]]:
        """What is added for what is freed, the item that goes, where to, the one that comes."""
        own = self.rooms[place]
        for other, room in enumerate(self.rooms):
            if other == place or room.full >= JUST_FULL:
                continue
            hot = [i for i in _some(own) if i.load.rank <= room.rank and room.may_take(i)]
            cold = [i for i in _some(room) if i.load.rank <= own.rank and own.may_take(i)]
            for item, back in product(hot, cold):
                if back.load.rate_rps >= item.load.rate_rps:
                    continue
                added, freed = room.added_for(item, back), -own.added_for(back, item)
                if freed >= LEAST_FREED and room.full + added <= JUST_FULL:
                    yield added / freed, item, other, back

    def _make(self, item: Item, place: int, other: int) -> None:
        self._move(item, place, other)
        self.made.append((item, place, other))

    def take_back(self, n_kept: int = 0) -> None:
        """Undoes all moves but the first so many."""
        while len(self.made) > n_kept:
            item, place, other = self.made.pop()
            self._move(item, other, place)

    def _move(self, item: Item, place: int, other: int) -> None:
        self.rooms[place].drop(item)
        self.rooms[other].put(item)
        self._forget(place)
        self._forget(other)


def _way_to(place: int, before: dict[int, int]) -> list[int]:
    way = [place]
    while before[way[-1]] != way[-1]:
        way.append(before[way[-1]])
    return way[::-1]


def _some(own: Room) -> list[Item]:
    """Some items of a GPU, from low rank to high and from cold to hot."""
    items = sorted(own.items, key=lambda item: (item.load.rank, item.load.rate_rps, item.name))
    chosen = np.unique(np.linspace(0, len(items) - 1, min(LOOKED_AT, len(items))).round())
    return [items[int(i)] for i in chosen]
