"""What adapters ask of GPUs, each reckoned once and then only scaled."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from lorapack.twin.physics import Asking, WorkList, WorkSums

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

    _asked: dict[tuple[int, int], _Asked] = field(default_factory=dict, repr=False)

    def work(self, load: Adapter, profile: Profile, rank: int) -> Work:
        """What an adapter asks of a GPU with slots of a rank."""
        return self._of(profile, rank).works([load])[0]

    def sums(
        self, loads: Iterable[Adapter], profile: Profile, rank: int, factor: float = 1.0
    ) -> WorkSums:
        """What adapters ask for together, with so many times their traffic."""
        sums = WorkSums()
        sums.add_all(self._of(profile, rank).works(list(loads)), factor)
        return sums

    def _of(self, profile: Profile, rank: int) -> _Asked:
        key = (id(profile), rank)
        if key not in self._asked:
            self._asked[key] = _Asked(profile, Asking.of(profile, rank))
        return self._asked[key]


@dataclass
class _Asked:
    """What adapters ask of GPUs of one profile with slots of one rank.

    Attributes:
        profile: Kept, for it is known by its identity.
        asking: What does not depend on the adapter.
    """

    profile: Profile
    asking: Asking
    _known: dict[int, Work] = field(default_factory=dict, repr=False)
    _kinds: dict[tuple[object, ...], Work] = field(default_factory=dict, repr=False)
    _kept: list[Sequence[Adapter]] = field(default_factory=list, repr=False)

    def works(self, loads: Sequence[Adapter]) -> list[Work]:
        """What each of some adapters asks for."""
        known = self._known
        try:
            return [known[id(load)] for load in loads]
        except KeyError:
            self._kept.append(loads)
            known.update((id(load), self._work(load)) for load in loads)
            return [known[id(load)] for load in loads]

    def _work(self, load: Adapter) -> Work:
        kind = _kind_of(load)
        if kind not in self._kinds:
            self._kinds[kind] = self.asking.work(load)
        return self._kinds[kind].sending(load.rate_rps)


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
