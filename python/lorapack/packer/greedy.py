"""`greedy`, the default: each GPU filled to its limit, then the slack shared out.

Items are taken by rank, then rate, both descending, so that GPUs are near to rank classes of their
own (rank sets the price of every slot) and the order of sizes is the one bin packing likes; what
does not fit is passed over for smaller ones. Physics says what a GPU takes (`guide`), the evaluator
how many of those really hold, and the load at which it says no is where the next GPU is begun.
Every trial is made at rates a few per cent higher, or a third of GPUs filled to their limit fail on
another seed. When the count is known, all GPUs are filled again to the least share of their limits
with which so many suffice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lorapack.errors import Infeasible
from lorapack.packer.evaluate import SlotSearch, max_lora_rank_for, slot_rules
from lorapack.packer.fill import PrefixFill
from lorapack.packer.guide import SHORT_OF_SLOTS, Guide, first_load
from lorapack.packer.placement import (
    GpuPlacement,
    Item,
    alone_holding,
    compatible,
    counted,
    item_order,
    may_join,
    with_one_more,
)
from lorapack.packer.settings import SEED_MARGIN
from lorapack.packer.spread import settle, spread
from lorapack.twin.trial import n_adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.problem import GpuKind
    from lorapack.twin.service_level import ServiceLevel
    from lorapack.twin.trial import Verdict

GAPS = 6
"""Times a gap is looked at that a large item left."""

NEARLY = 0.98
"""A gap is looked into up to this share of the load that broke."""

LEARNT = 0.9
"""Where the limit is put between a load that held and one below it that did not."""

SMALL_STEP = 0.05
"""A limit that proved too low is raised by no more than this at a time."""

FULL = 0.985
"""Slack is not shared out where GPUs would still be fuller than this."""

LEAST_SHARE = 0.02
"""GPUs are never filled less than this share of their limit: below, waits are all the same."""

SHARINGS = 9
"""Halvings to the least share of the limits with which the GPUs suffice."""

MOST_LEVELLED = 64
"""Plans of more GPUs are left as filled: one GPU's slack is nothing to so many."""


class HoldsNowhere(Infeasible):
    """An item that does not hold even alone: it may have to be split, or exempted.

    Args:
        item: The item.
    """

    def __init__(self, item: Item) -> None:
        self.item = item
        super().__init__(
            f"adapter {item.name} holds on no GPU that is left in the pool",
            "raise the pool's counts, or relax the service level",
        )
        self.args = (item,)


@dataclass
class Greedy:
    """Packs items on GPUs of given kinds.

    Attributes:
        kinds: GPUs to choose from.
        evaluator: Judges trials.
        slo: What they are judged by.
        margin: Trials are made at rates this much higher.
        by_price: Whether kinds compete by load per price, not per GPU.
        exempt: Whether the items are exempt clients.
        advance: Told how many items were just placed.
    """

    kinds: Sequence[GpuKind]
    evaluator: Evaluator
    slo: ServiceLevel
    margin: float = SEED_MARGIN
    by_price: bool = False
    exempt: bool = False
    advance: Callable[[int], None] = lambda _: None
    _guides: dict[int, Guide] = field(default_factory=dict)
    _limits: dict[int, float] = field(default_factory=dict)
    _limit_of: dict[tuple[str, float], float] = field(default_factory=dict)

    def place(self, items: Sequence[Item], max_gpus: int | None = None) -> list[GpuPlacement]:
        """All items on as few GPUs as this method finds.

        Args:
            items: In any order; the result does not depend on it.
            max_gpus: Stop when more would be needed.

        Raises:
            HoldsNowhere: An item holds on no GPU.
            Infeasible: The GPUs do not suffice.
        """
        full = self.fill(sorted(items, key=item_order), max_gpus)
        return self.level(full) or full

    def fill(self, items: list[Item], max_gpus: int | None = None) -> list[GpuPlacement]:
        """GPU after GPU, each to its limit."""
        left = list(items)
        gpus: list[GpuPlacement] = []
        for label in _pins(left):
            gpu = self._fill_one(label, left, gpus)
            gpus.append(gpu)
            left = _without(left, gpu.items)
        while left:
            if max_gpus is not None and len(gpus) >= max_gpus:
                raise too_few(max_gpus, len(left), len(items))
            gpu = self._fill_one(None, left, gpus)
            gpus.append(gpu)
            left = _without(left, gpu.items)
            self.advance(len(gpu.items))
        return gpus

    def level(
        self, gpus: list[GpuPlacement], n_gpus: int | None = None
    ) -> list[GpuPlacement] | None:
        """The same items on as many GPUs, each as far from its limit; None if one does not hold.

        Only where all GPUs are of one kind and nothing pins: others keep their filling.

        Args:
            gpus: Filled one after the other.
            n_gpus: On how many to spread the items; None: as many as there are.
        """
        wanted = len(gpus) if n_gpus is None else n_gpus
        plain = all(gpu.label is None and gpu.kind is gpus[0].kind for gpu in gpus)
        if wanted < 2 or not plain:
            return settle(gpus, lambda gpu: self._search(gpu.kind, gpu.items))
        if wanted > MOST_LEVELLED and n_gpus is None:
            return None
        kind = gpus[0].kind
        items = sorted((item for gpu in gpus for item in gpu.items), key=item_order)
        low, high = LEAST_SHARE, 1.0
        groups: list[list[Item]] | None = None
        for _ in range(SHARINGS):
            middle = (low + high) / 2
            cut = self._cut(kind, items, middle, wanted)
            low, high, groups = (low, middle, cut) if cut else (middle, high, groups)
        if groups is None or high > FULL:
            return None
        even = [GpuPlacement(kind, tuple(group), 0, exempt=self.exempt) for group in groups]
        return settle(even, lambda gpu: self._search(kind, gpu.items))

    def _cut(
        self, kind: GpuKind, items: list[Item], share: float, n_gpus: int
    ) -> list[list[Item]] | None:
        """The items on so many GPUs at that share of their limits, by prediction; None: too few."""
        guide = self._guide(kind)
        left = items
        groups: list[list[Item]] = []
        while left:
            if len(groups) == n_gpus:
                return None
            first = left[0]
            limit = share * self._limit_of.get((first.name, first.share), self._limit(kind))
            taken = set(guide.take([first], left[1:], limit))
            groups.append([first, *(left[i + 1] for i in sorted(taken))])
            left = [item for i, item in enumerate(left[1:]) if i not in taken]
        return groups

    def over(self, items: Sequence[Item], at_least: int = 1) -> list[GpuPlacement]:
        """All items spread evenly over the fewest GPUs that so hold; if none do, the best tried.

        For exempt clients: a GPU with few of them is no safer than one with many, since one clump
        late in the window is then a large part of what was offered. Whoever does not even hold
        alone holds nowhere: they join the GPUs that are found for the others.
        """
        ordered = sorted(items, key=item_order)
        holding = alone_holding(ordered, self.kinds[0], self.evaluator)
        gpus = self._fewest_over(holding or ordered, at_least)
        for item in _without(ordered, [item for gpu in gpus for item in gpu.items]):
            self._join_emptiest(gpus, item)
        return gpus

    def _fewest_over(self, ordered: list[Item], at_least: int) -> list[GpuPlacement]:
        kind = self.kinds[0]
        sizes = [self._guide(kind).load([item]) + 1e-9 for item in ordered]
        search = self._search(kind, ordered)
        for n_gpus in range(min(at_least, len(ordered)), len(ordered) + 1):
            gpus = spread(ordered, sizes, n_gpus, kind, search, exempt=self.exempt)
            if gpus is not None:
                return gpus
        gpus, left = [], ordered
        while left:
            part = compatible([], left)
            gpus.append(self._unproven(kind, part))
            left = _without(left, part)
        return gpus

    def _join_emptiest(self, gpus: list[GpuPlacement], item: Item) -> None:
        """Puts an item on the GPU with most room that may take it, or on one of its own."""
        kind = self.kinds[0]
        may = [i for i, gpu in enumerate(gpus) if may_join(gpu, item)]
        if not may:
            gpus.append(self._unproven(kind, [item]))
            return
        emptiest = min(may, key=lambda i: (self._guide(kind).load(gpus[i].items), i))
        joined = with_one_more(gpus[emptiest], item)
        limit = self.evaluator.slot_limit(kind.profile, joined.max_lora_rank)
        gpus[emptiest] = replace(joined, max_loras=min(joined.max_loras, limit))

    def _unproven(self, kind: GpuKind, items: Sequence[Item]) -> GpuPlacement:
        """A GPU with a slot each, as far as memory goes, that no trial stands for."""
        loads = [item.load for item in items]
        limit = self.evaluator.slot_limit(kind.profile, max_lora_rank_for(loads))
        slots = min(n_adapters(loads), limit)
        return GpuPlacement(kind, tuple(items), slots, exempt=self.exempt)

    def _fill_one(
        self, label: str | None, left: Sequence[Item], gpus: Sequence[GpuPlacement]
    ) -> GpuPlacement:
        fixed = [item for item in left if label is not None and item.load.pin == label]
        free = compatible(fixed, [item for item in left if item.load.pin is None])
        filled = [
            (gpu, self._value(gpu))
            for kind in self._kinds_left(gpus)
            if (gpu := self._fill_kind(kind, label, fixed, free)) is not None
        ]
        if not filled:
            raise _holds_nowhere((fixed or free)[0], label)
        return max(filled, key=lambda pair: pair[1])[0]

    def _fill_kind(
        self, kind: GpuKind, label: str | None, fixed: Sequence[Item], free: Sequence[Item]
    ) -> GpuPlacement | None:
        held, verdict, broke_at = self._start(kind, fixed, free)
        if verdict is None:
            return None
        held, verdict, broke_at = self._fill_gaps(kind, held, free, verdict, broke_at)
        self._learn(kind, self._guide(kind).load(held), broke_at)
        limit = self._limit(kind)
        self._limit_of.update({(item.name, item.share): limit for item in held})
        items = tuple(sorted(held, key=item_order))
        return GpuPlacement(kind, items, verdict.trial.max_loras, exempt=self.exempt, label=label)

    def _start(
        self, kind: GpuKind, fixed: Sequence[Item], free: Sequence[Item]
    ) -> tuple[list[Item], Verdict | None, float]:
        """What prediction would put on the GPU, and beyond, as far as it holds.

        Returns:
            The items, the verdict on them, and the predicted load with the next, which broke.
        """
        first = list(fixed) or list(free[:1])
        rest = compatible(first, free if fixed else free[1:])
        taken = set(self._guide(kind).take(first, rest, self._limit(kind)))
        chosen = [*first, *(rest[i] for i in sorted(taken))]
        passed = [item for i, item in enumerate(rest) if i not in taken]
        items = [*chosen, *compatible(chosen, passed)]
        fill = PrefixFill(
            tuple(item.load for item in items),
            self._search(kind, chosen),
            least=max(1, len(fixed)),
        )
        verdict = fill.longest(len(chosen))
        return items[: fill.held], verdict, self._load_with_next(kind, items, fill.held)

    def _fill_gaps(
        self,
        kind: GpuKind,
        held: list[Item],
        free: Sequence[Item],
        verdict: Verdict,
        broke_at: float,
    ) -> tuple[list[Item], Verdict, float]:
        """Where the item that broke was a large one, smaller ones join what is held."""
        guide = self._guide(kind)
        for _ in range(GAPS):
            limit = NEARLY * broke_at
            if guide.load(held) > limit or broke_at >= SHORT_OF_SLOTS:
                break
            inside = {(item.name, item.share) for item in held}
            rest = [item for item in free if (item.name, item.share) not in inside]
            more = [rest[i] for i in guide.take(held, rest, limit)]
            if not more:
                break
            items = [*held, *more]
            fill = PrefixFill(
                tuple(item.load for item in items), self._search(kind, items), least=len(held) + 1
            )
            found = fill.longest(len(items), all_rules=False)
            if found is None:
                broke_at = guide.load([*held, more[0]])
                continue
            broke_at = min(broke_at, self._load_with_next(kind, items, fill.held))
            held, verdict = items[: fill.held], found
        return held, verdict, broke_at

    def _load_with_next(self, kind: GpuKind, items: Sequence[Item], n: int) -> float:
        """The predicted load of the first `n` and one more; endless where there is no more."""
        return self._guide(kind).load(items[: n + 1]) if n < len(items) else math.inf

    def _learn(self, kind: GpuKind, held_at: float, broke_at: float) -> None:
        """Moves the limit between the load that held and the one that broke, if it is outside."""
        limit = self._limit(kind)
        if held_at >= SHORT_OF_SLOTS or held_at < limit < broke_at:
            return
        room = broke_at - held_at
        between = LEARNT * room if broke_at <= limit else min(room, SMALL_STEP) / 2
        self._limits[id(kind)] = held_at + between

    def _value(self, gpu: GpuPlacement) -> float:
        """Load held for its price, by the first kind's measure: how kinds compete."""
        load = self._guide(self.kinds[0]).load(gpu.items)
        price = gpu.kind.price_per_hour if self.by_price else None
        return load / (price or 1.0)

    def _kinds_left(self, gpus: Sequence[GpuPlacement]) -> list[GpuKind]:
        """The kinds of which one is left."""
        return [
            kind
            for kind in self.kinds
            if kind.count is None or sum(gpu.kind is kind for gpu in gpus) < kind.count
        ]

    def _guide(self, kind: GpuKind) -> Guide:
        if id(kind) not in self._guides:
            self._guides[id(kind)] = Guide(kind.profile, self.evaluator, slot_rules(self.slo))
        return self._guides[id(kind)]

    def _limit(self, kind: GpuKind) -> float:
        """The predicted load at which the last GPU of this kind was full."""
        return self._limits.get(id(kind), first_load(self.slo))

    def _search(self, kind: GpuKind, items: Sequence[Item]) -> SlotSearch:
        """A search over slots, in the order that prediction gives for these items."""
        rules = self._guide(kind).order(items)
        return SlotSearch(self.evaluator, kind.profile, rules, 1.0 + self.margin)


def _pins(items: Sequence[Item]) -> list[str]:
    return sorted({item.load.pin for item in items if item.load.pin is not None})


def _without(items: Sequence[Item], placed: Sequence[Item]) -> list[Item]:
    """What is left of `items`; equal replicas count one by one."""
    gone: dict[Item, int] = {}
    for item in placed:
        gone[item] = gone.get(item, 0) + 1
    left = []
    for item in items:
        if gone.get(item, 0):
            gone[item] -= 1
        else:
            left.append(item)
    return left


def _holds_nowhere(item: Item, label: str | None) -> Infeasible:
    if label is not None:
        return Infeasible(
            f"the adapters pinned to {label} do not hold together on one GPU",
            "pin fewer of them there",
        )
    return HoldsNowhere(item)


def too_few(n_gpus: int, n_left: int, n_items: int) -> Infeasible:
    """What is said where more GPUs would be needed than may be used."""
    placed = n_items - n_left
    return Infeasible(
        f"{counted(n_gpus)} will not suffice: {n_left} of {n_items} adapters are left over",
        f"{counted(n_gpus)} can hold the first {placed} in packing order",
    )
