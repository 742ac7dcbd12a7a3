"""Where to look first: what physics says of a set of adapters, in microseconds.

The steady state of :mod:`lorapack.twin.physics` gives the load of a GPU (offered over what it can
complete) and the pressure on its slots. Neither decides anything: they say how many adapters to try
first, with which slots, and which small ones may fill a gap; the evaluator has the last word, and
the load at which it says no is where the next GPU's search begins.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.kv_capacity import KvCapacity
from lorapack.packer.placement import apart
from lorapack.packer.works import Works
from lorapack.twin.physics import FEATURE_INDEX, Physics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.evaluate import Evaluator, SlotRule
    from lorapack.packer.placement import Item
    from lorapack.profile.profile import Profile
    from lorapack.twin.physics import Fullness, WorkSums
    from lorapack.twin.service_level import ServiceLevel

LOAD, PRESSURE = FEATURE_INDEX["load"], FEATURE_INDEX["slot_pressure"]

MOST_PRESSURE = 1.0
"""Slots wanted over slots there are, beyond which some adapter waits for its turn."""

SHORT_OF_SLOTS = 10.0
"""Loads from here on are not loads: too few slots."""

PATIENCE = 12
"""Items in a row that do not fit, after which a gap is left as it is."""


def first_load(slo: ServiceLevel) -> float:
    """The load at which the first GPU is looked at: at the cliff, or past it by what may starve."""
    return 0.93 if slo.ttft_p99_ms is not None else 1.0 / slo.min_served


@dataclass
class Guide:
    """Predictions for one profile.

    Attributes:
        profile: Of the GPUs.
        evaluator: For what memory allows.
        rules: Slot rules to choose among.
    """

    profile: Profile
    evaluator: Evaluator
    rules: Sequence[SlotRule]
    _physics: dict[int, Physics] = field(default_factory=dict)
    _beside: tuple[Sequence[Item], int, WorkSums, int] | None = None
    _works: Works = field(default_factory=Works)
    _capacity: KvCapacity = field(init=False)

    def __post_init__(self) -> None:
        self._capacity = KvCapacity(self.profile, self.evaluator)

    def rank(self, items: Sequence[Item]) -> int:
        """The rank that slots for these items are made for."""
        return max_lora_rank_for([item.load for item in items])

    def best(self, sums: WorkSums, n: int, rank: int) -> tuple[float, SlotRule]:
        """The least load over the rules whose slots suffice, and the rule.

        Args:
            sums: What the adapters ask for.
            n: How many of them take a slot.
            rank: The rank that slots are made for.
        """
        found = [(self._figure(sums, rule, n, rank), i) for i, rule in enumerate(self.rules)]
        figure, index = min(found)
        return figure, self.rules[index]

    def order(self, items: Sequence[Item]) -> list[SlotRule]:
        """The rules, the likeliest to hold first."""
        rank = self.rank(items)
        sums, n = self.sums(items, rank)
        scored = [(self._figure(sums, rule, n, rank), i) for i, rule in enumerate(self.rules)]
        return [self.rules[index] for _, index in sorted(scored)]

    def load(self, items: Sequence[Item]) -> float:
        """The least load of a set over the rules."""
        return self.load_of(items, self.rank(items)) if items else 0.0

    def load_of(self, items: Sequence[Item], rank: int) -> float:
        """The same with slots of a rank."""
        sums, n = self.sums(items, rank)
        return self.best(sums, n, rank)[0]

    def load_beside(self, beside: Sequence[Item], item: Item, rank: int) -> float:
        """The least load of an item with others, in slots of a given rank."""
        if self._beside is None or self._beside[0] is not beside or self._beside[1] != rank:
            self._beside = (beside, rank, *self.sums(beside, rank))
        _, _, sums, n = self._beside
        work = self._works.work(item.load, self.profile, max(rank, item.load.rank))
        sums.add(work)
        figure, _ = self.best(sums, n + (not item.load.is_base), rank)
        sums.remove(work)
        return figure

    def take(
        self,
        fixed: Sequence[Item],
        items: Sequence[Item],
        limit: float,
        rank: int | None = None,
    ) -> list[int]:
        """Places in `items` of what one GPU takes besides `fixed`, up to a load.

        Items are taken in order; one that does not fit, or may not join, is passed over, as are
        those of its rank too busy for the room there is; after so many in a row the rest is left.

        Args:
            fixed: What is on the GPU already.
            items: What may join.
            limit: The load not to be passed.
            rank: The rank slots are made for; None: that of `fixed` and the first item.
        """
        if rank is None:
            rank = self.rank([*fixed, *items[:1]])
        sums, n = self.sums(fixed, rank)
        groups = {group for item in fixed for group in apart(item)}
        held, rule = self.best(sums, n, rank) if fixed else (0.0, self.rules[0])
        taken: list[int] = []
        missed, too_large = 0, (-1, 0.0)
        for place, item in enumerate(items):
            own = apart(item)
            if item.load.rank == too_large[0] and item.load.rate_rps > too_large[1]:
                continue
            if not groups.isdisjoint(own):
                continue
            work = self._works.work(item.load, self.profile, rank)
            sums.add(work)
            more = n + (not item.load.is_base)
            figure = self._figure(sums, rule, more, rank)
            if figure > limit:
                figure, rule = self.best(sums, more, rank)
            if figure > limit:
                sums.remove(work)
                missed += 1
                if missed >= PATIENCE:
                    break
                room = (limit - held) / (figure - held) if figure < SHORT_OF_SLOTS else 1.0
                too_large = (item.load.rank, item.load.rate_rps * min(room, 1.0))
                continue
            n, missed, held = more, 0, figure
            groups.update(own)
            taken.append(place)
        return taken

    def sums(self, items: Sequence[Item], rank: int) -> tuple[WorkSums, int]:
        """What items ask for in all, and how many of them take a slot."""
        sums = self._works.sums((item.load for item in items), self.profile, rank)
        return sums, sum(not item.load.is_base for item in items)

    def load_and_pressure(
        self, sums: WorkSums, slots: int, n: int, rank: int
    ) -> tuple[float, float]:
        """The load with so many slots, and the pressure on them: none with a slot each."""
        row = self._physics_at(rank).features(
            sums, max_loras=slots, kv_cache_tokens=self._capacity.tokens(slots, rank)
        )[0]
        # With a slot each nobody waits for one, however busy they are.
        return float(row[LOAD]), float(row[PRESSURE]) if slots < n else 0.0

    def _figure(self, sums: WorkSums, rule: SlotRule, n: int, rank: int) -> float:
        """The load; where slots do not suffice, by how much, past any limit on loads."""
        slots = rule.slots(n, self.slot_limit(rank)) if n else 0
        load, pressure = self.load_and_pressure(sums, slots, n, rank)
        return load if pressure <= MOST_PRESSURE else SHORT_OF_SLOTS * pressure

    def fullness(self, rank: int, load: float) -> Fullness:
        """How full GPUs with slots of a rank are, such a load being full."""
        return self._physics_at(rank).fullness(
            load=load, kv_cache_tokens=self._capacity.table(rank)
        )

    def _physics_at(self, rank: int) -> Physics:
        if rank not in self._physics:
            self._physics[rank] = Physics.of(self.profile, max_lora_rank=rank)
        return self._physics[rank]

    def slot_limit(self, rank: int) -> int:
        """The most slots of a rank with which the engine starts."""
        return self._capacity.slot_limit(rank)
