"""GPUs while items are moved between them, one by one: by physics as the twin set it right.

What a GPU's items add up to is scaled so that physics says full where the twin said so. A move goes
where the item adds least for what it frees. Where nobody has room whose slots are large enough, the
item is handed on: to a full GPU with such slots that holds some of lower rank, which then give way.
And where a GPU has time left but no slot, a hot item comes in for a cold one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lorapack.packer.fullness import full_at
from lorapack.packer.placement import apart
from lorapack.packer.problem import serves
from lorapack.packer.verify import short_of_slots
from lorapack.twin.physics import WorkSums

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lorapack._native import Work
    from lorapack.packer.fullness import LoadSlots
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.works import Works

LOOKED_AT = 6
"""Items of a GPU that a move chooses among: from low rank to high, from cold to hot."""

TOO_LARGE = 1.5
"""An item that frees more than so many times what must be freed counts for no more."""

EMPTIER = 0.3
"""What a full GPU counts for against an empty one, beside what an item adds for what it frees."""

LEAST_TAKEN = 0.3
"""Nothing counts for less than this part of its share of a GPU's traffic."""

TINY = 1e-9
"""Any rate above zero."""

JUST_FULL = 0.999
"""GPUs take items up to here, where nobody has more room."""

ROOMY = 0.97
"""GPUs less full than this have time left that is worth a swap."""

LEAST_FREED = 1e-4
"""A swap that frees less gets nowhere."""

MOST_ASKED = 4
"""GPUs that an item is handed to before it stays; what is handed on further, to one."""

ANY_RANK = 1 << 30
"""Above every rank."""

NONE: frozenset[int] = frozenset()
"""No places."""


@dataclass
class Room:
    """A GPU and the room that it has.

    Attributes:
        gpu: As it was before items were moved.
        slots_of: Physics of the GPU.
        works: What items ask of it.
        must: Times its traffic that it is to hold.
        scale: What rates are multiplied with for physics to say full where the twin does.
        more_slots: Slots over those that physics would choose.
    """

    gpu: GpuPlacement
    slots_of: LoadSlots
    works: Works
    must: float
    scale: float = 1.0
    more_slots: float = 1.0
    items: list[Item] = field(init=False)
    rank: int = field(init=False)
    full: float = field(init=False)
    slots: int = field(init=False)
    changed: bool = field(init=False, default=False)
    _sums: WorkSums = field(init=False, repr=False)
    _groups: set[str] = field(init=False, repr=False)
    _rate_rps: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.items = list(self.gpu.items)
        self.rank, self.slots = self.gpu.max_lora_rank, self.gpu.max_loras
        self._rate_rps = sum(item.load.rate_rps for item in self.items)
        self._groups = {group for item in self.items for group in apart(item)}
        self.scale_by(self.scale)

    def scale_by(self, scale: float) -> None:
        """Takes rates so many times."""
        self.scale = scale
        self._sums = WorkSums()
        for item in self.items:
            self._sums.add(self._work(item))
        self._settle()

    def breaks_at(self, factor: float) -> None:
        """Told at how many times its traffic the GPU breaks."""
        self.scale_by(full_at(lambda more: self._fullness(factor * more)))

    @property
    def size(self) -> float:
        """What of a GPU its traffic takes, as much as it must hold: 1 is full."""
        return 1.0 / full_at(lambda more: self._fullness(self.scale * self.must * more))

    def _fullness(self, factor: float) -> float:
        """How full the GPU is with so many times its traffic, by physics alone."""
        profile = self.gpu.kind.profile
        sums = self.works.sums((item.load for item in self.items), profile, self.rank, factor)
        return self.slots_of.fullness(sums, self.slots, self.rank)

    def may_take(self, item: Item) -> bool:
        """Whether the GPU is such that the item may be on it, full or not."""
        return (
            item.load.rank <= self.rank
            and not self.gpu.exempt
            and self._groups.isdisjoint(apart(item))
            and serves(self.gpu.kind, item.load)
        )

    def holds_below(self, rank: int) -> bool:
        """Whether it holds an item of lower rank."""
        return any(item.load.rank < rank for item in self.items)

    def added(self, item: Item) -> float:
        """What an item more would add to how full it is, and a slot more if it has one each."""
        work = self._work(item)
        self._sums.add(work)
        n = self._sums.n_adapters
        one_each = self.slots == n - 1 < self.slots_of.guide.slot_limit(self.rank)
        full = self.slots_of.fullness(self._sums, n if one_each else self.slots, self.rank)
        self._sums.remove(work)
        return max(full - self.full, self._least(item))

    def added_for(self, item: Item, other: Item) -> float:
        """What an item would add in place of one of its own."""
        come, gone = self._work(item), self._work(other)
        self._sums.add(come)
        self._sums.remove(gone)
        full = self.slots_of.fullness(self._sums, self.slots, self.rank)
        self._sums.add(gone)
        self._sums.remove(come)
        return full - self.full

    def freed(self, item: Item) -> float:
        """What one of its items less would free."""
        work = self._work(item)
        self._sums.remove(work)
        n = self._sums.n_adapters
        full = self.slots_of.fullness(self._sums, min(self.slots, n), self.rank)
        self._sums.add(work)
        return max(self.full - full, self._least(item))

    def _least(self, item: Item) -> float:
        """What an item takes at least, whatever physics says of a GPU short of slots."""
        share = item.load.rate_rps / max(self._rate_rps, item.load.rate_rps, TINY)
        return LEAST_TAKEN * share * self.full

    def put(self, item: Item) -> None:
        """Takes an item in."""
        self.items.append(item)
        self._sums.add(self._work(item))
        self._groups.update(apart(item))
        self._rate_rps += item.load.rate_rps
        self._change()

    def drop(self, item: Item) -> None:
        """Lets one of its items go."""
        self.items.remove(item)
        self._sums.remove(self._work(item))
        self._groups.difference_update(apart(item))
        self._rate_rps -= item.load.rate_rps
        self._change()

    def moved(self) -> GpuPlacement:
        """The GPU as it is now."""
        return self.gpu.with_items(self.items, self.slots) if self.changed else self.gpu

    def _change(self) -> None:
        self.changed = True
        self._settle()

    def _settle(self) -> None:
        """The slots that are best now, once anything has changed, and how full the GPU is."""
        n, limit = self._sums.n_adapters, self.slots_of.guide.slot_limit(self.rank)
        if self.changed and n:
            _, best = self.slots_of.least_full(self._sums, self.rank)
            self.slots = max(1, min(n, limit, round(best * self.more_slots)))
        self.full = self.slots_of.fullness(self._sums, self.slots, self.rank)

    def _work(self, item: Item) -> Work:
        work = self.works.work(item.load, self.gpu.kind.profile, self.rank)
        return work.at_rate(self.scale * self.must)


def relieve(rooms: Sequence[Room], overfull: Iterable[int], level: float) -> None:
    """Moves items off GPUs that are too full, to where there is room.

    Args:
        rooms: All GPUs.
        overfull: Places of those.
        level: How full GPUs may be; fuller only where there is no other way.
    """
    moves = _Moves(rooms, level)
    for place in sorted(overfull, key=lambda i: (-rooms[i].full, i)):
        moves.lighten(place, level, ANY_RANK)


@dataclass
class _Moves:
    """Moves made, which can be taken back.

    Attributes:
        rooms: All GPUs.
        level: How full they may be.
        made: Item, from where, to where.
    """

    rooms: Sequence[Room]
    level: float
    made: list[tuple[Item, int, int]] = field(default_factory=list)

    def lighten(self, place: int, goal: float, below: int, above: frozenset[int] = NONE) -> bool:
        """Moves items off a GPU until it is no fuller than a goal, as far as that goes.

        That comes to an end: nothing is put on the GPU meanwhile but colder items for hotter ones.

        Args:
            place: Of the GPU.
            goal: How full it may be; where it is no more than full, only what is easy is moved.
            below: Only items of lower rank may leave it: what is handed on does not come back.
            above: Places of those who hand on to it.
        """
        own, shut = self.rooms[place], above | {place}
        while own.full > goal:
            found = self._cheapest(place, goal, below, self.level, shut) or self._cheapest(
                place, goal, below, JUST_FULL, shut
            )
            if found is not None:
                self._make(found[0], place, found[1])
            elif own.full <= JUST_FULL:
                break
            elif not (self._swap(place, shut) or self._hand_on(place, goal, below, shut)):
                return False
        return True

    def _swap(self, place: int, shut: frozenset[int]) -> bool:
        """Lets a hot item go to a GPU that has time left, for the coldest of its own."""
        own = self.rooms[place]
        if short_of_slots(own.gpu):
            return False
        best: tuple[float, Item, int, Item] | None = None
        for other, room in enumerate(self.rooms):
            if other in shut or room.full >= ROOMY or room.rank > own.rank:
                continue
            cold = min(room.items, key=lambda item: (item.load.rate_rps, item.name))
            for item in self._looked_at(own, ANY_RANK) if own.may_take(cold) else ():
                if item.load.rate_rps <= cold.load.rate_rps or not room.may_take(item):
                    continue
                added, freed = room.added_for(item, cold), -own.added_for(cold, item)
                if freed < LEAST_FREED or room.full + added > JUST_FULL:
                    continue
                if best is None or added / freed < best[0]:
                    best = (added / freed, item, other, cold)
        if best is None:
            return False
        _, item, other, cold = best
        self._make(item, place, other)
        self._make(cold, other, place)
        return True

    def _hand_on(self, place: int, goal: float, below: int, shut: frozenset[int]) -> bool:
        """Moves an item to a full GPU that lets go of as much of lower rank, if there is one."""
        above, most = shut, MOST_ASKED if shut == {place} else 1
        for _ in range(most):
            found = self._cheapest(place, goal, below, math.inf, shut)
            if found is None:
                return False
            so_far = len(self.made)
            self._make(found[0], place, found[1])
            if self.lighten(found[1], JUST_FULL, found[0].load.rank, above):
                return True
            self._take_back(so_far)
            shut |= {found[1]}
        return False

    def _cheapest(
        self, place: int, goal: float, below: int, most: float, shut: frozenset[int]
    ) -> tuple[Item, int] | None:
        """The item that adds least for what it frees, and where.

        Args:
            place: What it leaves.
            goal: How full that may be.
            below: Its rank is lower.
            most: How full it may make the other GPU; without end: any that holds lower ranks.
            shut: Places that are out of the question, its own among them.
        """
        own = self.rooms[place]
        best: tuple[float, Item, int] | None = None
        for item in self._looked_at(own, below):
            freed = min(own.freed(item), TOO_LARGE * (own.full - goal))
            for other, room in enumerate(self.rooms):
                suits = room.full < most if most < math.inf else self._gives_way(other, item)
                if other in shut or not suits or not room.may_take(item):
                    continue
                added = room.added(item)
                cost = added / freed + EMPTIER * room.full
                if room.full + added <= most and (best is None or cost < best[0]):
                    best = (cost, item, other)
        return None if best is None else best[1:]

    def _gives_way(self, place: int, item: Item) -> bool:
        """Whether a full GPU might let go of something else for an item."""
        own = self.rooms[place]
        return own.holds_below(item.load.rank) or any(
            room.full < ROOMY and room.rank == own.rank
            for other, room in enumerate(self.rooms)
            if other != place
        )

    def _looked_at(self, own: Room, below: int) -> list[Item]:
        items = [item for item in own.items if item.load.rank < below and item.load.rate_rps > 0.0]
        if len(own.items) < 2 or not items:
            return []
        items.sort(key=lambda item: (item.load.rank, item.load.rate_rps, item.name))
        chosen = np.unique(np.linspace(0, len(items) - 1, LOOKED_AT).round().astype(int))
        return [items[i] for i in chosen]

    def _make(self, item: Item, place: int, other: int) -> None:
        self.rooms[place].drop(item)
        self.rooms[other].put(item)
        self.made.append((item, place, other))

    def _take_back(self, n_kept: int) -> None:
        while len(self.made) > n_kept:
            item, place, other = self.made.pop()
            self.rooms[other].drop(item)
            self.rooms[place].put(item)
