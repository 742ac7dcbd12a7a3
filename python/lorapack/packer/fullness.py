"""How full a GPU is by physics: by its engine's time or by its slots, whichever binds."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import slot_rules
from lorapack.packer.guide import Guide, first_load
from lorapack.packer.verify import starves

if TYPE_CHECKING:
    from collections.abc import Callable

    from lorapack.packer.evaluate import Evaluator
    from lorapack.profile.profile import Profile
    from lorapack.twin.physics import Fullness, WorkSums
    from lorapack.twin.service_level import ServiceLevel

STEEPEST = 2.0
"""A count is at most multiplied by this from one question to the next."""

DOUBLINGS, HALVINGS = 10, 9
"""What makes a GPU just full is looked for up to so many doublings away, then to 0.1 %."""

BISECTED = 3
"""Every so many questions the middle is asked about, wherever the edge is expected."""


@dataclass(frozen=True)
class LoadSlots:
    """Says by physics with which slots a GPU is least full.

    Attributes:
        guide: Physics of the GPU.
        limit: The load at which it is full.
        may_queue: Whether requests may wait for slots for as long as it takes: only the engine's
            time then fills a GPU whose slots are given.
    """

    guide: Guide
    limit: float
    may_queue: bool = False
    _known: dict[int, Fullness] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, profile: Profile, evaluator: Evaluator, slo: ServiceLevel) -> LoadSlots:
        """Physics of a GPU at a service level.

        Args:
            profile: Of the GPU.
            evaluator: For what memory allows.
            slo: The service level.
        """
        return cls(Guide(profile, evaluator, slot_rules(slo)), first_load(slo), starves(slo))

    def holds(self, sums: WorkSums, rank: int) -> bool:
        """Whether a GPU is full at most."""
        return self.slots(sums, rank) is not None

    def expected(self, sums: WorkSums, rank: int) -> float:
        """How full it is with the best slots."""
        return self.least_full(sums, rank)[0]

    def learn(self, sums: WorkSums, rank: int) -> None:
        """Nothing: what physics says of a full GPU is 1."""

    def slots(self, sums: WorkSums, rank: int) -> int | None:
        """The best number of slots; an adapter alone was tried by the twin and may stay."""
        if sums.n_adapters and not self.guide.slot_limit(rank):
            return None
        fullness, slots = self.least_full(sums, rank)
        return slots if fullness <= 1.0 or len(sums) == 1 else None

    def fullness(self, sums: WorkSums, slots: int, rank: int) -> float:
        """How full a GPU is by what binds it, its engine's time or its slots; 1 is full."""
        if self.may_queue:
            load, _ = self.guide.load_and_pressure(sums, slots, sums.n_adapters, rank)
            return load / self.limit
        return self._at(rank).of(sums, slots)

    def least_full(self, sums: WorkSums, rank: int) -> tuple[float, int]:
        """The fullness with the best number of slots, and that number."""
        return self._at(rank).least(sums)

    def _at(self, rank: int) -> Fullness:
        if rank not in self._known:
            self._known[rank] = self.guide.fullness(rank, self.limit)
        return self._known[rank]


def full_at(fullness: Callable[[float], float]) -> float:
    """What traffic must be multiplied with for a GPU to be just full.

    By bisection, since a GPU short of slots fills up steeply: half as much again may take it from
    ample to hopeless.

    Args:
        fullness: With so many times the traffic; grows with it.
    """
    factor, grows = 1.0, fullness(1.0) < 1.0
    for _ in range(DOUBLINGS):
        factor *= 2.0 if grows else 0.5
        if (fullness(factor) < 1.0) != grows:
            break
    low, high = (factor / 2.0, factor) if grows else (factor, factor * 2.0)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fullness(middle) < 1.0 else (low, middle)
    return math.sqrt(low * high)


def largest_count(
    fullness: Callable[[int], float], guess: int, most: int, within: float = 0.0
) -> tuple[int, float]:
    """The largest count, up to a limit, that is not more than full.

    Args:
        fullness: Of a count, 1 or more; grows with it.
        guess: Asked about first.
        most: The limit.
        within: How near it is looked for, as a share of the count.

    Returns:
        The count (0: none) and, past it by a fraction, where between it and the next one the
        fullness passes 1.
    """
    held, held_at, broke, broke_at = 0, 0.0, most + 1, 0.0
    count, asked = min(max(guess, 1), most), 0
    while broke - held > max(1.0, within * held):
        full = fullness(count)
        asked += 1
        if full <= 1.0:
            held, held_at = count, full
        else:
            broke, broke_at = count, full
        if not broke_at:
            aim = int(min(held / max(held_at, 1e-6), STEEPEST * held)) + 1
        elif asked % BISECTED == 0:
            aim = (held + broke) // 2
        else:
            aim = held + int((broke - held) * (1.0 - held_at) / (broke_at - held_at))
        count = min(max(aim, held + 1), broke - 1)
    if not broke_at:
        return held, float(held)
    return held, held + (broke - held) * (1.0 - held_at) / (broke_at - held_at)
