"""Items moved between GPUs until each holds what its proof asks, as the verifying twin says itself.

A GPU is to hold some more than its traffic on every verifying seed, since another seed may be
worse. Most hold more than they must, so that fewer fail on a fourth seed than would at the edge.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lorapack.packer.balance import ROUGHLY
from lorapack.packer.fullness import LoadSlots
from lorapack.packer.margins import (
    CROWDED_HEADROOM,
    HEADROOM,
    LADDER,
    TOP,
    WITHIN,
    WORST_OF_SEEDS,
    breaks_at,
    hold_at,
    most_traffic,
)
from lorapack.packer.rooms import JUST_FULL, Room, relieve
from lorapack.packer.verify import short_of_slots
from lorapack.twin.trial import n_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.verify import Judges

ROUNDS = 10
"""Times items are moved."""

FAILED = 1.002
"""A GPU that failed is this full at least."""

EMPTIEST = 0.97
"""Items are never moved off a GPU that is less full."""

ABOVE_MEAN = 0.004
"""GPUs are relieved to so much above the mean."""

OTHER_SLOTS = (1.15, 1.3, 1.6, 2.2)
"""Times as many slots that a failing GPU short of them is tried with."""


@dataclass(frozen=True)
class Evened:
    """What came of it.

    Attributes:
        gpus: The placement in the end.
        holds: Whether every GPU holds what it must.
        need: How many full GPUs they come to, each as full as what it must hold makes it.
    """

    gpus: list[GpuPlacement]
    holds: bool
    need: float


@dataclass
class EvenOut:
    """Moves items until the verifying judges are content.

    Attributes:
        steer: Who placed the GPUs, and what they saw.
        judges: The verifying ones.
    """

    steer: Judges
    judges: Judges
    _physics: dict[int, LoadSlots] = field(default_factory=dict, repr=False)

    def even(self, gpus: Sequence[GpuPlacement]) -> Evened:
        """Moves items off GPUs that fail until none does, or no more can be moved."""
        rooms = self._judged(self._rooms(gpus))
        failing = self._failing(rooms)
        for _ in range(ROUNDS):
            if not failing or _need(rooms) > ROUGHLY * len(rooms):
                break
            for i in failing:
                rooms[i].full = max(rooms[i].full, FAILED)
            mean = sum(min(room.full, 1.0) for room in rooms) / len(rooms)
            relieve(rooms, failing, min(max(mean + ABOVE_MEAN, EMPTIEST), JUST_FULL))
            if not any(room.changed for room in rooms):
                break
            rooms = self._judged(rooms)
            failing = self._failing(rooms)
        return Evened([room.gpu for room in rooms], not failing, _need(rooms))

    def _failing(self, rooms: Sequence[Room]) -> list[int]:
        """Those that moves can mend: what is alone on a GPU was tried there, and may stay."""
        return [
            i for i, room in enumerate(rooms) if len(room.items) > 1 and not self._holds(room.gpu)
        ]

    def _rooms(self, gpus: Sequence[GpuPlacement]) -> list[Room]:
        """The GPUs as those who placed them saw them, on one seed."""
        most_traffic(gpus, self.steer, within=WITHIN)
        rooms = [self._room(gpu) for gpu in gpus]
        for room in rooms:
            broke = breaks_at(room.gpu, self.steer)
            room.breaks_at((LADDER[TOP] if broke is None else broke) / (1.0 + WORST_OF_SEEDS))
        return rooms

    def _judged(self, rooms: Sequence[Room]) -> list[Room]:
        """The GPUs as they are now, and how full they are by the verifying judges."""
        gpus = [room.moved() for room in rooms]
        held = hold_at(gpus, self.judges, [self._must(gpu) for gpu in gpus])
        gpus = [
            gpu if holds else self._with_other_slots(gpu)
            for gpu, holds in zip(gpus, held, strict=True)
        ]
        failing = [gpu for gpu in gpus if not self._holds(gpu)]
        most_traffic(failing, self.judges, within=WITHIN)
        return [self._as_judged(room, gpu) for room, gpu in zip(rooms, gpus, strict=True)]

    def _as_judged(self, before: Room, gpu: GpuPlacement) -> Room:
        more_slots = gpu.max_loras / before.slots if before.slots else 1.0
        room = self._room(gpu, before.scale, before.more_slots * more_slots)
        if not self._holds(gpu):
            room.breaks_at(breaks_at(gpu, self.judges) or LADDER[TOP])
        elif room.full > 1.0:
            room.breaks_at(room.must)
        return room

    def _with_other_slots(self, gpu: GpuPlacement) -> GpuPlacement:
        """The GPU with more slots, if that makes it hold."""
        n, limit = n_adapters(gpu.loads), self._slots_of(gpu).guide.slot_limit(gpu.max_lora_rank)
        for more in OTHER_SLOTS if short_of_slots(gpu) else ():
            other = replace(gpu, max_loras=min(n, limit, round(more * gpu.max_loras)))
            if other != gpu and all(hold_at([other], self.judges, [self._must(gpu)])):
                return other
        return gpu

    def _room(self, gpu: GpuPlacement, scale: float = 1.0, more_slots: float = 1.0) -> Room:
        works = self.steer.lessons.works
        return Room(gpu, self._slots_of(gpu), works, self._must(gpu), scale, more_slots)

    def _slots_of(self, gpu: GpuPlacement) -> LoadSlots:
        """Physics of a kind of GPU."""
        known = self._physics.get(id(gpu.kind))
        if known is None:
            known = LoadSlots.of(gpu.kind.profile, self.steer.level, self.steer.slo)
            self._physics[id(gpu.kind)] = known
        return known

    def _must(self, gpu: GpuPlacement) -> float:
        """Times its traffic that a GPU is to hold."""
        return 1.0 + (CROWDED_HEADROOM if short_of_slots(gpu) else HEADROOM)

    def _holds(self, gpu: GpuPlacement) -> bool:
        return LADDER[max(self.judges.rungs[gpu][0], 0)] >= self._must(gpu)


def _need(rooms: Sequence[Room]) -> float:
    """How many full GPUs the GPUs come to: sizes are nearly additive."""
    return sum(room.size for room in rooms)
