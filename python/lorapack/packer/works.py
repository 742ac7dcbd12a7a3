"""What adapters ask of GPUs, each reckoned once and then only scaled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lorapack.twin.physics import Asking, WorkSums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lorapack._native import Work
    from lorapack.fleet.adapter import Adapter
    from lorapack.profile.profile import Profile


@dataclass
class Works:
    """Remembers by the adapter itself, which it keeps: comparing adapters would take longer."""

    _asking: dict[tuple[int, int], tuple[Profile, Asking]] = field(default_factory=dict, repr=False)
    _known: dict[tuple[int, int, int], tuple[Adapter, Work]] = field(
        default_factory=dict, repr=False
    )

    def work(self, load: Adapter, profile: Profile, rank: int) -> Work:
        """What an adapter asks of a GPU with slots of a rank."""
        key = (id(load), id(profile), rank)
        known = self._known.get(key)
        if known is not None:
            return known[1]
        asking = self._asking.get(key[1:])
        if asking is None:
            asking = self._asking[key[1:]] = (profile, Asking.of(profile, rank))
        work = asking[1].work(load)
        self._known[key] = (load, work)
        return work

    def sums(
        self, loads: Iterable[Adapter], profile: Profile, rank: int, factor: float = 1.0
    ) -> WorkSums:
        """What adapters ask for together, with so many times their traffic."""
        sums = WorkSums()
        for load in loads:
            work = self.work(load, profile, rank)
            sums.add(work if factor == 1.0 else work.at_rate(factor))
        return sums
