"""GPUs while items are moved between them, one by one: by physics as the twin set it right.

What a GPU's items add up to is scaled so that physics says full where the twin said so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.fullness import full_at
from lorapack.packer.margins import TINY
from lorapack.packer.placement import apart
from lorapack.packer.problem import serves

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack._native import Work
    from lorapack.packer.fullness import LoadSlots
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.works import Works
    from lorapack.twin.physics import WorkSums

LEAST_TAKEN = 0.3
"""Nothing counts for less than this part of its share of a GPU's traffic."""

MOST_RAISED = 64
"""Slots of a GPU whose slots may be made for a higher rank: few hot ones cost little more."""


@dataclass
class Room:
    """A GPU and the room that it has.

    Attributes:
        gpu: As it was before items were moved.
        slots_of: Physics of the GPU.
        works: What items ask of it.
        must: Times its traffic that it is to hold.
        scale: What rates are multiplied with for physics to say full where the twin does.
    """

    gpu: GpuPlacement
    slots_of: LoadSlots
    works: Works
    must: float
    scale: float = 1.0
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
        self._sum_up(self.rank)
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
        sums = self._asked(self.items, self.rank, factor)
        return self.slots_of.fullness(sums, self.slots, self.rank)

    def may_take(self, item: Item) -> bool:
        """Whether the GPU is such that the item may be on it, full or not."""
        return (
            (item.load.rank <= self.rank or self._may_be_raised(item))
            and not self.gpu.exempt
            and self._groups.isdisjoint(apart(item))
            and serves(self.gpu.kind, item.load)
        )

    def _may_be_raised(self, item: Item) -> bool:
        rank = max_lora_rank_for([item.load])
        return len(self.items) < min(MOST_RAISED, self.slots_of.guide.slot_limit(rank))

    def added(self, item: Item) -> float:
        """What an item more would add to how full it is, and a slot more if it has one each."""
        if item.load.rank > self.rank:
            return self._added_raised(item)
        work = self._work(item)
        self._sums.add(work)
        n = self._sums.n_adapters
        one_each = self.slots == n - 1 < self.slots_of.guide.slot_limit(self.rank)
        full = self.slots_of.fullness(self._sums, n if one_each else self.slots, self.rank)
        self._sums.remove(work)
        return max(full - self.full, self._least(item))

    def _added_raised(self, item: Item) -> float:
        """The same where slots are then of its rank."""
        rank = max_lora_rank_for([item.load])
        sums = self._asked([*self.items, item], rank, self.scale * self.must)
        return self.slots_of.fullness(sums, sums.n_adapters, rank) - self.full

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
        """Takes an item in; slots are then of its rank at least."""
        each = self._one_each
        self.items.append(item)
        self._groups.update(apart(item))
        self._rate_rps += item.load.rate_rps
        if item.load.rank > self.rank:
            self._sum_up(max_lora_rank_for([item.load]))
        else:
            self._sums.add(self._work(item))
        self._change(one_each=each)

    def drop(self, item: Item) -> None:
        """Lets one of its items go; slots are then of the highest rank that is left."""
        each = self._one_each
        self.items.remove(item)
        self._groups.difference_update(apart(item))
        self._rate_rps -= item.load.rate_rps
        rank = max_lora_rank_for([own.load for own in self.items])
        if rank != self.rank:
            self._sum_up(rank)
        else:
            self._sums.remove(self._work(item))
        self._change(one_each=each)

    def moved(self) -> GpuPlacement:
        """The GPU as it is now."""
        return self.gpu.with_items(self.items, self.slots) if self.changed else self.gpu

    @property
    def _one_each(self) -> bool:
        return self.slots == self._sums.n_adapters

    def _change(self, *, one_each: bool) -> None:
        """Slots stay, as the twin knows them; one each stays one each."""
        self.changed = True
        n, limit = self._sums.n_adapters, self.slots_of.guide.slot_limit(self.rank)
        self.slots = min(n, limit) if one_each else max(min(self.slots, n), min(n, 1))
        self._settle()

    def _sum_up(self, rank: int) -> None:
        """What all items ask of slots of a rank, anew."""
        self.rank = rank
        self._sums = self._asked(self.items, rank, self.scale * self.must)

    def _asked(self, items: Sequence[Item], rank: int, factor: float) -> WorkSums:
        """What items ask of slots of a rank, with so many times their traffic."""
        return self.works.sums((i.load for i in items), self.gpu.kind.profile, rank, factor)

    def _settle(self) -> None:
        self.full = self.slots_of.fullness(self._sums, self.slots, self.rank)

    def _work(self, item: Item) -> Work:
        work = self.works.work(item.load, self.gpu.kind.profile, self.rank)
        return work.at_rate(self.scale * self.must)
