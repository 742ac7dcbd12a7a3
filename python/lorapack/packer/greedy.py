"""`greedy`, the default: each GPU filled to its limit, then the load spread evenly.

Items are taken by rank, then rate, both descending, so that GPUs are near to rank classes of their
own (rank sets the price of every slot) and the order of sizes is the one bin packing likes. A GPU
takes the longest start of the list that holds with some number of slots, found by galloping and
bisection from a guess: sizes are nearly additive, so the work that filled the last GPU fills this
one. Every trial is made at rates a few per cent higher, or a third of GPUs filled to their limit
fail on another seed. When the count is known, the slack of the last GPU is shared out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from lorapack.errors import Infeasible
from lorapack.packer.bound import request_prices_s
from lorapack.packer.evaluate import SlotRule, SlotSearch, max_lora_rank_for, slot_rules
from lorapack.packer.fill import PrefixFill
from lorapack.packer.placement import GpuPlacement, Item, compatible, item_order
from lorapack.packer.spread import settle, spread
from lorapack.packer.top_up import top_up
from lorapack.twin.trial import n_adapters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.problem import GpuKind
    from lorapack.twin.service_level import ServiceLevel

SEED_MARGIN = 0.03
"""Trials while placing are made at rates this much higher."""

FIRST_GUESS = 0.55
"""Work at which the first GPU is looked at first: bounds are about this loose."""

COARSE = 0.02
"""Where the item that broke a GPU is larger than this share of it, smaller ones fill the gap."""

FULL = 0.985
"""Sharing out slack is not tried when GPUs are fuller than this on average."""


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
        exempt: Whether the items are exempt clients.
        advance: Told how many items were just placed.
    """

    kinds: Sequence[GpuKind]
    evaluator: Evaluator
    slo: ServiceLevel
    margin: float = SEED_MARGIN
    exempt: bool = False
    advance: Callable[[int], None] = lambda _: None
    _work_held: dict[str, float] = field(default_factory=dict)
    _rules: dict[str, list[SlotRule]] = field(default_factory=dict)
    _works: dict[int, dict[tuple[str, float], float]] = field(default_factory=dict)
    _rows: dict[int, int] = field(default_factory=dict)

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
                raise _too_few(max_gpus, len(left), len(items))
            gpu = self._fill_one(None, left, gpus)
            gpus.append(gpu)
            left = _without(left, gpu.items)
            self.advance(len(gpu.items))
        return gpus

    def level(self, gpus: list[GpuPlacement]) -> list[GpuPlacement] | None:
        """The same items on as many GPUs, evenly filled; None if that does not hold.

        Only where all GPUs are of one kind and nothing pins: others keep their filling.
        """
        plain = all(gpu.label is None and gpu.kind is gpus[0].kind for gpu in gpus)
        if len(gpus) < 2 or not plain:
            return settle(gpus, lambda gpu: self._search(gpu.kind))
        sized = sorted(
            (
                pair
                for gpu, sizes in zip(gpus, self._sizes(gpus), strict=True)
                for pair in zip(gpu.items, sizes, strict=True)
            ),
            key=lambda pair: item_order(pair[0]),
        )
        sizes = [size for _, size in sized]
        if sum(sizes) / len(gpus) > FULL:
            return None
        items = [item for item, _ in sized]
        kind = gpus[0].kind
        return spread(items, sizes, len(gpus), kind, self._search(kind), exempt=self.exempt)

    def over(self, items: Sequence[Item], at_least: int = 1) -> list[GpuPlacement]:
        """All items spread evenly over the fewest GPUs that so hold; if none do, the best tried.

        For exempt clients: a GPU with few of them is no safer than one with many, since one clump
        late in the window is then a large part of what was offered.
        """
        ordered = sorted(items, key=item_order)
        kind = self.kinds[0]
        sizes = self._work(kind, ordered)
        search = self._search(kind)
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
        items = (*fixed, *free)
        work = self._work(kind, items)
        totals = list(accumulate(work))
        aim = self._work_held.get(kind.profile.name, FIRST_GUESS)
        guess = max(int(np.searchsorted(totals, aim)), len(fixed), 1)
        search = self._search(kind)
        fill = PrefixFill(tuple(i.load for i in items), search, least=max(1, len(fixed)))
        verdict = fill.longest(guess)
        if verdict is None:
            return None
        chosen, rest = list(items[: fill.held]), list(items[fill.held :])
        if rest:
            self._work_held[kind.profile.name] = totals[fill.held - 1]
            if work[fill.held] > COARSE * totals[fill.held - 1]:
                verdict = top_up(chosen, rest[1:], search, verdict)
        return GpuPlacement(
            kind,
            tuple(sorted(chosen, key=item_order)),
            verdict.trial.max_loras,
            exempt=self.exempt,
            label=label,
        )

    def _value(self, gpu: GpuPlacement) -> float:
        """Work held for its price, the measure by which kinds compete."""
        work = sum(self._work(self.kinds[0], gpu.items))
        return work / (gpu.kind.price_per_hour or 1.0)

    def _kinds_left(self, gpus: Sequence[GpuPlacement]) -> list[GpuKind]:
        """The kinds of which one is left."""
        return [
            kind
            for kind in self.kinds
            if kind.count is None or sum(gpu.kind is kind for gpu in gpus) < kind.count
        ]

    def _work(self, kind: GpuKind, items: Sequence[Item]) -> list[float]:
        """Engine-seconds a second that each item asks for at least: the shape of its size."""
        known = self._works.setdefault(id(kind), {})
        unknown = [item for item in items if (item.name, item.share) not in known]
        if unknown:
            loads = [item.load for item in unknown]
            rates = np.array([load.rate_rps for load in loads])
            prices = request_prices_s(kind.profile, loads, self.evaluator, self.slo.min_served)
            row = self._rows.setdefault(id(kind), int(np.argmax(prices @ rates)))
            works = prices[row] * rates
            for item, work in zip(unknown, works, strict=True):
                known[item.name, item.share] = float(work)
        return [known[item.name, item.share] for item in items]

    def _sizes(self, gpus: Sequence[GpuPlacement]) -> list[list[float]]:
        """Sizes such that every filled GPU sums to one; the last is measured by the one before."""
        sizes = []
        held = 0.0
        for index, gpu in enumerate(gpus):
            work = self._work(gpu.kind, gpu.items)
            if index < len(gpus) - 1:
                held = sum(work)
            sizes.append([size / held for size in work])
        return sizes

    def _search(self, kind: GpuKind) -> SlotSearch:
        rules = self._rules.setdefault(kind.profile.name, list(slot_rules(self.slo)))
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


def _too_few(n_gpus: int, n_left: int, n_items: int) -> Infeasible:
    placed = n_items - n_left
    return Infeasible(
        f"{n_gpus} GPUs do not suffice: {n_left} of {n_items} adapters are left over",
        f"{n_gpus} GPUs hold the first {placed} in packing order",
    )
