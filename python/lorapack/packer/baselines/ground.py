"""What every baseline is given, and what turns its choice of GPUs into placements with slots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import SlotSearch, max_lora_rank_for, slot_rules
from lorapack.packer.placement import GpuPlacement, Item, compatible, item_order
from lorapack.twin.trial import n_adapters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.problem import GpuKind
    from lorapack.twin.service_level import ServiceLevel

FIXED_SLOTS = 16
"""Slots of those who never look: a setting often seen, where vLLM's own default would be 1."""


@dataclass(frozen=True)
class Ground:
    """What a baseline may look at.

    Attributes:
        kind: The GPU.
        items: What is to be placed, by name: an order nobody chose.
        whole: The adapters before any split, by name, for methods that make replicas themselves.
        evaluator: Judges trials.
        slo: By which level.
        seed: Of everything drawn.
    """

    kind: GpuKind
    items: tuple[Item, ...]
    whole: Mapping[str, Adapter]
    evaluator: Evaluator
    slo: ServiceLevel
    seed: int

    def load_tps(self, item: Item) -> float:
        """Tokens per second an item asks for: what these methods call its load."""
        own = self.kind.profile.lengths
        prompt = item.load.prompt_tokens or own.prompt.mean_tokens
        output = item.load.output_tokens or own.output.mean_tokens
        return item.load.rate_rps * (prompt + output)


Groups = list[list[Item]]
"""The items of each GPU; empty ones are left out of the plan."""


@dataclass(frozen=True)
class Baseline:
    """One method.

    Attributes:
        name: As users say it.
        groups: Places the items on so many GPUs.
        own_slots: The method's own slots for a GPU with so many adapters.
        n_gpus: How many GPUs the method itself would take; None: as many as it is told.
    """

    name: str
    groups: Callable[[Ground, int], Groups]
    own_slots: Callable[[int], int]
    n_gpus: Callable[[Ground], int] | None = None

    def place(self, ground: Ground, n_gpus: int, *, our_slots: bool) -> list[GpuPlacement]:
        """The GPUs with their slots.

        Args:
            ground: What is to be placed.
            n_gpus: On how many.
            our_slots: Choose slots per GPU as `greedy` does, in place of the method's own.
        """
        choose = best_slots if our_slots else self._fixed
        groups = [sorted(group, key=item_order) for group in self.groups(ground, n_gpus) if group]
        return [GpuPlacement(ground.kind, tuple(group), choose(ground, group)) for group in groups]

    def _fixed(self, ground: Ground, group: Sequence[Item]) -> int:
        return min(self.own_slots(len(group)), most_slots(ground, group))


def best_slots(ground: Ground, group: Sequence[Item]) -> int:
    """Slots with which the group waits least; one each, as memory allows, where none holds."""
    loads = tuple(item.load for item in group)
    search = SlotSearch(ground.evaluator, ground.kind.profile, list(slot_rules(ground.slo)))
    verdict = search.best(loads)
    return most_slots(ground, group) if verdict is None else verdict.trial.max_loras


def most_slots(ground: Ground, group: Sequence[Item]) -> int:
    """One each, as far as memory allows."""
    loads = [item.load for item in group]
    limit = ground.evaluator.slot_limit(ground.kind.profile, max_lora_rank_for(loads))
    return min(n_adapters(loads), limit)


def deal(items: Sequence[Item], places: Sequence[int], n_gpus: int) -> Groups:
    """Puts each item where it was sent, or on the next GPU that may hold it.

    Two replicas of one adapter, or two members of a group to be kept apart, never meet.
    """
    groups: Groups = [[] for _ in range(n_gpus)]
    for item, place in zip(items, places, strict=True):
        tries = [(place + step) % n_gpus for step in range(n_gpus)]
        free = next((i for i in tries if compatible(groups[i], [item])), None)
        if free is None:
            groups.append([item])
            n_gpus += 1
        else:
            groups[free].append(item)
    return groups


def least_loaded(items: Sequence[Item], loads: Sequence[float], n_gpus: int) -> Groups:
    """Each item in turn to the GPU with the least load that may hold it."""
    groups: Groups = [[] for _ in range(n_gpus)]
    totals = [0.0] * n_gpus
    for item, load in zip(items, loads, strict=True):
        order = sorted(range(len(groups)), key=lambda i: (totals[i], i))
        free = next((i for i in order if compatible(groups[i], [item])), None)
        if free is None:
            groups.append([])
            totals.append(0.0)
            free = len(groups) - 1
        groups[free].append(item)
        totals[free] += load
    return groups
