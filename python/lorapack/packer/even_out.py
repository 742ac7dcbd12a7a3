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
    LADDER,
    TOP,
    WITHIN,
    breaks_at,
    hold_at,
    most_traffic,
    must_hold,
    worse_on_all,
)
from lorapack.packer.relieve import JUST_FULL, relieve, vacate
from lorapack.packer.rooms import Room
from lorapack.packer.verify import short_of_slots, verify
from lorapack.twin.trial import n_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.placement import GpuPlacement
    from lorapack.packer.verify import Judges

ROUNDS = 10
"""Times items are moved."""

STUCK = 3
"""Rounds in which no fewer GPUs fail, after which more would be in vain."""

FAILED = 1.002
"""A GPU that failed is this full at least."""

EMPTIEST = 0.97
"""Items are never moved off a GPU that is less full."""

ABOVE_MEAN = 0.004
"""GPUs are relieved to so much above the mean."""

MOST_VACATED = 2
"""GPUs that are tried to be emptied."""

AS_PLANNED = LADDER.index(1.0)
"""The rung of the traffic that is planned for."""

OTHER_SLOTS = (1.15, 0.87, 1.3, 0.75, 1.6, 2.2)
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
        return self._even(self._judged(self._rooms(gpus)))

    def even_one_fewer(self, gpus: Sequence[GpuPlacement]) -> Evened | None:
        """The same with a GPU less, whose items find room elsewhere; None where they do not."""
        rooms = self._judged(self._rooms(gpus))
        level = sum(room.full for room in rooms) / (len(rooms) - 1)
        emptiest = sorted(range(len(rooms)), key=lambda i: (rooms[i].full, i))
        for place in emptiest[:MOST_VACATED]:
            if vacate(rooms, place, min(level, JUST_FULL)):
                return self._even(self._judged(rooms))
        return None

    def _even(self, rooms: list[Room]) -> Evened:
        failing = self._failing(rooms) or self._failing_as_planned(rooms)
        fewest, since = len(failing), 0
        for _ in range(ROUNDS):
            if not failing or since == STUCK or _need(rooms) > ROUGHLY * len(rooms):
                break
            for i in failing:
                rooms[i].full = max(rooms[i].full, FAILED)
            mean = sum(min(room.full, 1.0) for room in rooms) / len(rooms)
            relieve(rooms, failing, min(max(mean + ABOVE_MEAN, EMPTIEST), JUST_FULL))
            if not any(room.changed for room in rooms):
                break
            rooms = self._judged(rooms)
            failing = self._failing(rooms) or self._failing_as_planned(rooms)
            since = 0 if len(failing) < fewest else since + 1
            fewest = min(fewest, len(failing))
        return Evened([room.gpu for room in rooms], not failing, _need(rooms))

    def _failing(self, rooms: Sequence[Room]) -> list[int]:
        """Those that moves can mend: what is alone on a GPU was tried there, and may stay."""
        return [
            i for i, room in enumerate(rooms) if len(room.items) > 1 and not self._holds(room.gpu)
        ]

    def _failing_as_planned(self, rooms: Sequence[Room]) -> list[int]:
        """Those that hold with more traffic than planned but not with that: it is another draw."""
        verdicts = verify([room.gpu for room in rooms], self.judges).verdicts
        failing = [
            i
            for i, (room, verdict) in enumerate(zip(rooms, verdicts, strict=True))
            if len(room.items) > 1 and not verdict.holds
        ]
        for i in failing:
            self.judges.rungs[rooms[i].gpu] = (AS_PLANNED - 1, AS_PLANNED)
        return failing

    def _rooms(self, gpus: Sequence[GpuPlacement]) -> list[Room]:
        """The GPUs as those who placed them saw them, on one seed."""
        most_traffic(gpus, self.steer, within=WITHIN)
        rooms = [self._room(gpu) for gpu in gpus]
        for room in rooms:
            broke = breaks_at(room.gpu, self.steer)
            room.breaks_at(
                (LADDER[TOP] if broke is None else broke) / worse_on_all(room.gpu, self.judges.slo)
            )
        return rooms

    def _judged(self, rooms: Sequence[Room]) -> list[Room]:
        """The GPUs that hold anything now, and how full they are by the verifying judges."""
        rooms = [room for room in rooms if room.items]
        gpus = [room.moved() for room in rooms]
        held = self._hold_enough(gpus)
        failing = [gpu for gpu, holds in zip(gpus, held, strict=True) if not holds]
        most_traffic(failing, self.judges, within=WITHIN)
        better = {gpu: self._with_other_slots(gpu) for gpu in failing if short_of_slots(gpu)}
        return [
            self._as_judged(room, better.get(gpu, gpu))
            for room, gpu in zip(rooms, gpus, strict=True)
        ]

    def _hold_enough(self, gpus: Sequence[GpuPlacement]) -> list[bool]:
        """Whether each GPU holds what it must."""
        return hold_at(gpus, self.judges, [must_hold(gpu, self.judges.slo) for gpu in gpus])

    def _as_judged(self, before: Room, gpu: GpuPlacement) -> Room:
        room = self._room(gpu, before.scale)
        if not self._holds(gpu):
            room.breaks_at(breaks_at(gpu, self.judges) or LADDER[TOP])
        elif room.full > 1.0:
            room.breaks_at(room.must)
        return room

    def _with_other_slots(self, gpu: GpuPlacement) -> GpuPlacement:
        """A failing GPU with slots that make it hold, or at least hold more; else as it is."""
        n, limit = n_adapters(gpu.loads), self._slots_of(gpu).guide.slot_limit(gpu.max_lora_rank)
        numbers = {max(1, min(n, limit, round(more * gpu.max_loras))) for more in OTHER_SLOTS}
        others = [replace(gpu, max_loras=slots) for slots in sorted(numbers - {gpu.max_loras})]
        broke = self.judges.rungs[gpu][1]
        more = hold_at(others, self.judges, [LADDER[broke]] * len(others))
        better = [other for other, holds in zip(others, more, strict=True) if holds]
        enough = [o for o, holds in zip(better, self._hold_enough(better), strict=True) if holds]
        if enough:
            return enough[0]
        most_traffic(better[:1], self.judges, within=WITHIN)
        return (better or [gpu])[0]

    def _room(self, gpu: GpuPlacement, scale: float = 1.0) -> Room:
        works = self.steer.lessons.works
        return Room(gpu, self._slots_of(gpu), works, must_hold(gpu, self.judges.slo), scale)

    def _slots_of(self, gpu: GpuPlacement) -> LoadSlots:
        """Physics of a kind of GPU."""
        known = self._physics.get(id(gpu.kind))
        if known is None:
            known = LoadSlots.of(gpu.kind.profile, self.steer.level, self.steer.slo)
            self._physics[id(gpu.kind)] = known
        return known

    def _holds(self, gpu: GpuPlacement) -> bool:
        return LADDER[max(self.judges.rungs[gpu][0], 0)] >= must_hold(gpu, self.judges.slo)


def _need(rooms: Sequence[Room]) -> float:
    """How many full GPUs the GPUs come to: sizes are nearly additive."""
    return sum(room.size for room in rooms)
