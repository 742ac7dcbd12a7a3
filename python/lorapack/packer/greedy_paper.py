"""`greedy-paper`: the greedy of arXiv 2508.08343, each of its test points answered by the twin.

Adapters are grouped by rank, descending, and within a rank taken zigzag by rate (largest, smallest,
second largest, ...). A server is filled up to fixed counts; at each, the slots it has and the next
larger value are tried, those over the memory limit dropped, and the one with the higher throughput
kept; a starvation check commits the step or closes the server at the last count committed. A server
that cannot hold even the first count takes the most of 4, 2, 1 that it can: there the paper's
method has no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.greedy import HoldsNowhere
from lorapack.packer.placement import GpuPlacement, compatible, item_order
from lorapack.twin.trial import Trial, n_adapters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.placement import Item
    from lorapack.packer.problem import GpuKind
    from lorapack.twin.trial import Verdict

COUNTS = (8, 16, 32, 64, 96, 128, 160, 192, 256, 320, 384, 448, 512, 576)
"""Test points, and the values slots may take."""

FEW = (4, 2, 1)
"""Counts tried where the first test point fails."""


@dataclass
class GreedyPaper:
    """The paper's greedy on one kind of GPU.

    Attributes:
        kind: Of every server.
        evaluator: Stands in for the learned models.
    """

    kind: GpuKind
    evaluator: Evaluator

    def place(self, items: Sequence[Item]) -> list[GpuPlacement]:
        """Server after server.

        Raises:
            HoldsNowhere: An item does not hold even alone.
        """
        left = zigzag(items)
        gpus = []
        while left:
            eligible = compatible([], left)
            gpu = self._server(eligible)
            gpus.append(gpu)
            taken = list(gpu.items)
            left = [item for item in left if not _take(taken, item)]
        return gpus

    def _server(self, items: Sequence[Item]) -> GpuPlacement:
        committed: tuple[int, int] | None = None
        slots = COUNTS[0]
        for count in COUNTS:
            verdict = self._test(items[:count], slots)
            if verdict is None or not verdict.holds:
                break
            slots = max(slots, verdict.trial.max_loras)
            committed = (min(count, len(items)), verdict.trial.max_loras)
            if count >= len(items):
                break
        committed = committed or self._few(items)
        count, max_loras = committed
        chosen = sorted(items[:count], key=item_order)
        return GpuPlacement(self.kind, tuple(chosen), max_loras)

    def _few(self, items: Sequence[Item]) -> tuple[int, int]:
        for count in FEW:
            verdict = self._test(items[:count], COUNTS[0])
            if verdict is not None and verdict.holds:
                return min(count, len(items)), verdict.trial.max_loras
        raise HoldsNowhere(items[0])

    def _test(self, items: Sequence[Item], slots: int) -> Verdict | None:
        """The better of two slot values by throughput; None where memory allows neither."""
        loads = tuple(item.load for item in sorted(items, key=item_order))
        n, rank = n_adapters(loads), max_lora_rank_for(loads)
        limit = self.evaluator.slot_limit(self.kind.profile, rank)
        larger = next((value for value in COUNTS if value > slots), slots)
        values = dict.fromkeys(min(n, value) for value in (slots, larger) if value <= limit)
        trials = [Trial(self.kind.profile, loads, value, rank) for value in values]
        return max(self.evaluator.judge(trials), key=lambda v: v.throughput_tps, default=None)


def zigzag(items: Sequence[Item]) -> list[Item]:
    """By rank, descending; within a rank the busiest, the idlest, the second busiest, ..."""
    ordered = sorted(items, key=item_order)
    dealt: list[Item] = []
    for _, run in groupby(ordered, key=lambda item: item.load.rank):
        group = list(run)
        while group:
            dealt.append(group.pop(0))
            if group:
                dealt.append(group.pop())
    return dealt


def _take(taken: list[Item], item: Item) -> bool:
    if item in taken:
        taken.remove(item)
        return True
    return False
