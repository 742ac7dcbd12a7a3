"""What adapters ask of GPUs, each reckoned once and then only scaled."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from lorapack._native import WorkList
from lorapack.twin.physics import Asking, WorkSums

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from lorapack._native import Work
    from lorapack.fleet.adapter import Adapter
    from lorapack.profile.profile import Profile

_kind_of = attrgetter(
    "rank",
    "cv",
    "prompt_tokens",
    "output_tokens",
    "lengths",
    "prompt_sigma",
    "output_sigma",
    "correlation",
)
"""All that what an adapter asks for depends on, but for its rate."""


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


class WorkTable:
    """What each of many adapters asks for: few kinds of them, at rates of their own.

    Attributes:
        rates_rps: Their rates, requests per second.
    """

    def __init__(self, loads: Sequence[Adapter]) -> None:
        kinds: dict[tuple[object, ...], int] = {}
        keys = map(_kind_of, loads)
        self._kind = np.fromiter(
            (kinds.setdefault(key, len(kinds)) for key in keys), np.int64, len(loads)
        )
        _, first = np.unique(self._kind, return_index=True)
        self._examples = [loads[place] for place in first.tolist()]
        self.rates_rps: NDArray[np.float64] = np.array([load.rate_rps for load in loads])

    def works(self, profile: Profile, rank: int, factors: NDArray[np.float64] | float) -> WorkList:
        """What they ask of a GPU with slots of a rank, with so many times their traffic.

        Of one that such slots cannot hold it is what it would ask of slots of its own rank.
        """
        of_kinds = [
            Asking.of(profile, max(rank, example.rank)).work(example) for example in self._examples
        ]
        return WorkList(of_kinds, self._kind, self.rates_rps * factors)
