"""KV capacity by LoRA slots, near enough for a search: the exact rule takes a tenth of one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lorapack.packer.evaluate import Evaluator
    from lorapack.profile.profile import Profile

FINE, COARSE, MANY = 8, 32, 64
"""Slots from one exact KV capacity to the next: few slots, many, and where many begin."""


@dataclass
class KvCapacity:
    """What memory allows on the GPUs of one profile.

    Attributes:
        profile: Of the GPUs.
        evaluator: Who knows exactly.
    """

    profile: Profile
    evaluator: Evaluator
    _limits: dict[int, int] = field(default_factory=dict, repr=False)
    _tokens: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)

    def slot_limit(self, rank: int) -> int:
        """The most slots of a rank with which the engine starts."""
        if rank not in self._limits:
            self._limits[rank] = self.evaluator.slot_limit(self.profile, rank)
        return self._limits[rank]

    def tokens(self, slots: int, rank: int) -> int:
        """KV capacity: exact at every so many slots, straight between."""
        step = FINE if slots < MANY else COARSE
        below = slots - slots % step
        low = self._exact(below or min(slots, 1), rank)
        if slots == below or below + step > self.slot_limit(rank):
            return low if slots == below else self._exact(slots, rank)
        high = self._exact(below + step, rank)
        return low + (high - low) * (slots - below) // step

    def table(self, rank: int) -> NDArray[np.uint32]:
        """KV capacity by slots, from none to the most with which the engine starts."""
        slots = range(self.slot_limit(rank) + 1)
        return np.array([self.tokens(each, rank) for each in slots], np.uint32)

    def _exact(self, slots: int, rank: int) -> int:
        key = (slots, rank)
        if key not in self._tokens:
            self._tokens[key] = max(
                self.evaluator.kv_cache_tokens(self.profile, slots, rank),
                2 * self.profile.engine.block_size,
            )
        return self._tokens[key]
