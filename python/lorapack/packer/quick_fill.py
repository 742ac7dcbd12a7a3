"""Filling GPUs by prediction, for fleets of any size: some log n questions a GPU.

Each GPU takes the longest start of what is left that is expected to hold; where a large item broke
it, it goes on with the first smaller one that fits. The sums that physics needs are kept for every
start, so that a question costs the same for ten adapters as for a thousand. Whom to ask is the
caller's: the model that the twin taught, or physics as the twin set it right.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lorapack.fleet.adapter import at_rates
from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.greedy import HoldsNowhere, too_few
from lorapack.packer.placement import GpuPlacement, Item, apart, item_order
from lorapack.twin.physics import Asking, WorkSums

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.problem import GpuKind, Problem

MOST_LEVELLED = 16
"""Plans of more GPUs are left as filled: one GPU's slack is nothing to so many."""

LEVELLINGS = 2
"""Halvings to the most traffic that the same number of GPUs holds."""

MOST_MORE = 0.25
"""Traffic above the margin that is looked for, at most."""

LARGE = 0.02
"""An item of more than this share of a GPU's traffic leaves a gap that is worth a look."""

GAPS = 6
"""Times such a gap is looked into, a GPU."""


class Chooser(Protocol):
    """Says with which slots a GPU may be expected to hold."""

    def slots(self, sums: WorkSums, n: int, rank: int) -> int | None:
        """The best number of slots; None where it is expected to hold with none.

        Args:
            sums: What its adapters ask for.
            n: How many of them take a slot.
            rank: The rank that slots are made for.
        """
        ...


def is_plain(problem: Problem, kinds: Sequence[GpuKind], items: Sequence[Item]) -> bool:
    """Whether nothing but the service level says who goes where."""
    return (
        len(kinds) == 1
        and kinds[0].count is None
        and problem.host_memory_gib is None
        and all(item.load.pin is None for item in items)
    )


@dataclass
class QuickFill:
    """Packs items on GPUs of one kind.

    Attributes:
        kind: The GPU.
        chooser: Whom to ask.
        margin: Questions are asked at rates this much higher.
        believed: By how much more, or less, each item's rate counts; left out: as it is.
    """

    kind: GpuKind
    chooser: Chooser
    margin: float
    believed: Mapping[tuple[str, float], float] = field(default_factory=dict)

    def place(
        self, items: Sequence[Item], max_gpus: int | None = None, more: int = 0
    ) -> list[GpuPlacement]:
        """All items on as few GPUs as this finds, the slack of the last one shared out.

        Args:
            items: In any order; the result does not depend on it.
            max_gpus: Stop when more would be needed.
            more: GPUs beyond the fewest, over which all are spread.

        Raises:
            HoldsNowhere: An item holds on no GPU.
            Infeasible: The GPUs do not suffice.
        """
        ordered = sorted(items, key=item_order)
        gpus = self.fill(ordered, 1.0 + self.margin) or []
        n_gpus = min(len(gpus) + more, len(ordered))
        if max_gpus is not None and n_gpus > max_gpus:
            placed = sum(len(gpu.items) for gpu in gpus[:max_gpus])
            raise too_few(max_gpus, len(ordered) - placed, len(ordered))
        if n_gpus == len(gpus) and not 1 < n_gpus <= MOST_LEVELLED:
            return gpus
        least = 1.0 + self.margin
        most = least * (n_gpus / len(gpus)) * (1.0 + MOST_MORE)
        found = self.level(ordered, n_gpus, (least, most), LEVELLINGS + bool(more))
        return gpus if found is None else found[0]

    def level(
        self, ordered: Sequence[Item], n_gpus: int, between: tuple[float, float], halvings: int
    ) -> tuple[list[GpuPlacement], float] | None:
        """The items on so many GPUs with about the most traffic that they are expected to hold.

        Args:
            ordered: In packing order.
            n_gpus: At most.
            between: Factors on traffic between which the most is looked for.
            halvings: Of what is between.

        Returns:
            The GPUs and the factor; None where not even the least does.
        """
        low, high = between
        gpus = self._filled(ordered, low, n_gpus)
        if gpus is None:
            return None
        best = (gpus, low)
        for _ in range(halvings):
            middle = (low * high) ** 0.5
            gpus = self._filled(ordered, middle, n_gpus)
            if gpus is None:
                high = middle
            else:
                low, best = middle, (gpus, middle)
        return best

    def _filled(
        self, ordered: Sequence[Item], factor: float, most: int
    ) -> list[GpuPlacement] | None:
        """As `fill`; None, too, where an item holds nowhere with so much traffic."""
        try:
            return self.fill(ordered, factor, most)
        except HoldsNowhere:
            return None

    def fill(
        self, ordered: Sequence[Item], factor: float, most: int | None = None
    ) -> list[GpuPlacement] | None:
        """GPU after GPU, each to its limit; None if more than `most` are needed."""
        left = deque(zip(ordered, self.loads(ordered, factor), strict=True))
        gpus: list[GpuPlacement] = []
        guess = 1
        while left:
            if len(gpus) == most:
                return None
            start = _Start(self, left)
            guess = start.longest(guess)
            gpus.append(GpuPlacement(self.kind, start.take(), start.slots))
        return gpus

    def loads(self, ordered: Sequence[Item], factor: float) -> Sequence[Adapter]:
        """The loads at the rates that are asked about, in order."""
        if not self.believed:
            return at_rates([item.load for item in ordered], factor)
        alike: dict[float, list[int]] = {}
        for place, item in enumerate(ordered):
            alike.setdefault(self.believed.get(item.key, 1.0), []).append(place)
        loads: dict[int, Adapter] = {}
        for belief, places in alike.items():
            raised = at_rates([ordered[place].load for place in places], factor * belief)
            loads.update(zip(places, raised, strict=True))
        return [loads[place] for place in range(len(ordered))]


@dataclass
class _Start:
    """How much of what is left one GPU takes.

    Attributes:
        fill: Who asks.
        left: Items not yet looked at, and their loads at the rates that are asked about.
        seen: Those looked at, in order.
        chosen: Places in `seen` of those that are to share the GPU.
        sums: What the first 1, 2, ... of the chosen ask for.
        takes_slot: How many of the first 1, 2, ... take a slot.
        slots: With which the longest start known holds.
    """

    fill: QuickFill
    left: deque[tuple[Item, Adapter]]
    seen: list[tuple[Item, Adapter]] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)
    sums: list[WorkSums] = field(default_factory=list)
    takes_slot: list[int] = field(default_factory=list)
    slots: int = 0
    _held: int = 0
    _next: int = 0
    _groups: set[str] = field(default_factory=set)
    _rank: int = field(init=False)
    _asking: Asking = field(init=False)

    def __post_init__(self) -> None:
        self._rank = max_lora_rank_for([self.left[0][1]])
        self._asking = Asking.of(self.fill.kind.profile, self._rank)

    def longest(self, guess: int) -> int:
        """How many hold together.

        Raises:
            HoldsNowhere: Not even the first does.
        """
        self._gallop(guess)
        for _ in range(GAPS):
            if not self._skip_large():
                break
            self._gallop(self._held + 1)
        return self._held

    def take(self) -> tuple[Item, ...]:
        """Those that hold; the others go back where they came from."""
        taken = self.chosen[: self._held]
        items = tuple(self.seen[place][0] for place in taken)
        gone = set(taken)
        rest = [pair for place, pair in enumerate(self.seen) if place not in gone]
        self.left.extendleft(reversed(rest))
        return items

    def _gallop(self, guess: int) -> None:
        """Galloping from a guess, then bisection."""
        broke: int | None = None
        count, step = self._look(max(guess, self._held + 1)), max(1, guess // 16)
        if count == self._held:
            return
        while broke is None or broke - self._held > 1:
            if self._holds(count):
                self._held = count
            else:
                broke = count
            if broke is None:
                count, step = self._look(self._held + step), 2 * step
                if count == self._held:
                    break
            elif self._held == 0:
                count, step = max(1, broke - step), 2 * step
                if broke == 1:
                    raise HoldsNowhere(self.left[0][0] if not self.seen else self.seen[0][0])
            else:
                count = (self._held + broke) // 2

    def _skip_large(self) -> bool:
        """Whether the next item, that broke, was a large one and a smaller one still fits.

        All between the two are left for the next GPU.
        """
        if self._held == len(self.chosen):
            return False
        broke = self.chosen[self._held]
        traffic = sum(self.seen[place][1].rate_rps for place in self.chosen[: self._held])
        if self.seen[broke][1].rate_rps <= LARGE * traffic:
            return False
        found = self._first_that_fits(broke + 1)
        if found is None:
            return False
        kept = self.chosen[: self._held]
        self.chosen[self._held :] = []
        self.sums[self._held :] = []
        self.takes_slot[self._held :] = []
        self._groups = {group for place in kept for group in apart(self.seen[place][0])}
        while len(self.seen) <= found:
            self.seen.append(self.left.popleft())
        self._next = found
        return True

    def _first_that_fits(self, start: int) -> int | None:
        """The first place of an item that fits beside what is held: rank by rank, by bisection."""
        n_all = len(self.seen) + len(self.left)
        while start < n_all:
            end = self._end_of_rank(start, n_all)
            if self._fits(end - 1):
                low, high = start - 1, end - 1
                while high - low > 1:
                    middle = (low + high) // 2
                    low, high = (low, middle) if self._fits(middle) else (middle, high)
                return high
            start = end
        return None

    def _end_of_rank(self, start: int, n_all: int) -> int:
        """One past the last item of the rank of the one at `start`."""
        rank = self._at(start)[1].rank
        low, high = start, n_all
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._at(middle)[1].rank == rank else (low, middle)
        return high

    def _at(self, place: int) -> tuple[Item, Adapter]:
        n_seen = len(self.seen)
        return self.seen[place] if place < n_seen else self.left[place - n_seen]

    def _fits(self, place: int) -> bool:
        """Whether one more item is expected to hold beside what is held."""
        _, load = self._at(place)
        sums = self.sums[self._held - 1].copy()
        sums.add(self._asking.work(load))
        n = self.takes_slot[self._held - 1] + (not load.is_base)
        return self.fill.chooser.slots(sums, n, self._rank) is not None

    def _look(self, count: int) -> int:
        """Looks at so many that may share a GPU; returns how many there are, at most that."""
        while len(self.chosen) < count:
            if self._next == len(self.seen):
                if not self.left:
                    break
                self.seen.append(self.left.popleft())
            item, load = self.seen[self._next]
            self._next += 1
            groups = apart(item)
            if not self._groups.isdisjoint(groups):
                continue
            self._groups.update(groups)
            sums = self.sums[-1].copy() if self.sums else WorkSums()
            sums.add(self._asking.work(load))
            self.chosen.append(self._next - 1)
            self.sums.append(sums)
            before = self.takes_slot[-1] if self.takes_slot else 0
            self.takes_slot.append(before + (not load.is_base))
        return min(count, len(self.chosen))

    def _holds(self, count: int) -> bool:
        """Whether the first so many hold with some slots, of which the best are kept."""
        n, sums = self.takes_slot[count - 1], self.sums[count - 1]
        slots = self.fill.chooser.slots(sums, n, self._rank)
        if slots is not None:
            self.slots = slots
        return slots is not None
