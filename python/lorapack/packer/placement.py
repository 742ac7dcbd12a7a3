"""Who goes where: items (adapters, or shares of one) on GPUs with slots. What a method decides.

A placement says nothing of whether it holds; `verify` does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.problem import packing_order, serves
from lorapack.twin.trial import Trial, n_adapters

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lorapack.fleet.adapter import Adapter
    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.problem import GpuKind, Problem


@dataclass(frozen=True)
class Item:
    """An adapter, or the share of its requests that one replica takes.

    Attributes:
        load: The adapter as the GPU sees it: its rate times the share, its burstiness thinned.
        share: Of the adapter's requests, over 0 and up to 1.
    """

    load: Adapter
    share: float = 1.0

    @property
    def name(self) -> str:
        """The adapter's name; replicas of one adapter have the same."""
        return self.load.adapter

    @property
    def key(self) -> tuple[str, float]:
        """Name and share, by which items are remembered: equal replicas are alike."""
        return (self.load.adapter, self.share)


@dataclass(frozen=True)
class Running:
    """What only a restart changes of an engine.

    Attributes:
        gpu: Its name in the plan it was started by.
        max_lora_rank: The rank its slots are made for.
        max_cpu_loras: Adapters its CPU cache holds.
    """

    gpu: str
    max_lora_rank: int
    max_cpu_loras: int


@dataclass(frozen=True)
class GpuPlacement:
    """One GPU: its kind, what it holds, its slots.

    Attributes:
        kind: Which GPU of the pool.
        items: What it holds, in packing order.
        max_loras: LoRA slots; 0 switches LoRA off.
        exempt: Whether it holds exempt clients (and only those), judged as `batch`.
        label: The name pins refer to, if any does.
        running: An engine that runs already: its slots and their rank stay as they are.
    """

    kind: GpuKind
    items: tuple[Item, ...]
    max_loras: int
    exempt: bool = False
    label: str | None = None
    running: Running | None = None

    @property
    def max_lora_rank(self) -> int:
        """The rank its slots are made for."""
        if self.running is not None:
            return self.running.max_lora_rank
        return max_lora_rank_for([item.load for item in self.items])

    @property
    def loads(self) -> tuple[Adapter, ...]:
        """Its adapters as it sees them."""
        return tuple(item.load for item in self.items)

    def trial(self, rate_factor: float = 1.0) -> Trial:
        """The question whether it holds."""
        return Trial(self.kind.profile, self.loads, self.max_loras, self.max_lora_rank, rate_factor)

    def with_items(self, items: Iterable[Item], max_loras: int | None = None) -> GpuPlacement:
        """The same GPU with other items, in packing order; slots no more than adapters."""
        ordered = tuple(sorted(items, key=item_order))
        if self.running is not None:
            return replace(self, items=ordered)
        slots = self.max_loras if max_loras is None else max_loras
        n = n_adapters(item.load for item in ordered)
        return replace(self, items=ordered, max_loras=min(max(slots, min(n, 1)), n))


Placement = tuple[GpuPlacement, ...]
"""All the GPUs of a plan."""


def whole(adapters: Iterable[Adapter]) -> list[Item]:
    """Adapters as items that are not split, in packing order."""
    return sorted((Item(adapter) for adapter in adapters), key=item_order)


def replicas(adapter: Adapter, n: int) -> list[Item]:
    """An adapter split into `n` equal shares.

    A router deals requests at random, so each replica's gaps are sums of geometrically many of the
    adapter's own: their variance coefficient falls to share x cv^2 + (1 - share), towards Poisson.
    """
    share = 1.0 / n
    cv = math.sqrt(share * adapter.cv**2 + (1.0 - share))
    load = replace(adapter, rate_rps=adapter.rate_rps * share, cv=cv)
    return [Item(load, share)] * n


def item_order(item: Item) -> tuple[int, float, str]:
    """The packing order of adapters, by the load of the item."""
    return packing_order(item.load)


def dealt(items: Sequence[Item], hands: int) -> list[Item]:
    """Items dealt into so many hands, one after the other: each hand goes from hot to cold."""
    return [item for hand in range(hands) for item in items[hand::hands]]


def apart(item: Item) -> tuple[str, ...]:
    """Names of the groups of which no two members may share a GPU: its own replicas, its group."""
    group = item.load.keep_apart
    own = () if item.share == 1.0 else (f"replica of {item.name}",)
    return own if group is None else (*own, f"group {group}")


def compatible(base: Sequence[Item], items: Sequence[Item]) -> list[Item]:
    """Of `items`, in order, those that may join `base` and each other."""
    taken = {group for item in base for group in apart(item)}
    chosen = []
    for item in items:
        groups = apart(item)
        if not taken.intersection(groups):
            taken.update(groups)
            chosen.append(item)
    return chosen


def may_join(gpu: GpuPlacement, item: Item) -> bool:
    """Whether an item may be put on a GPU: base model, pins, groups, the rank of running slots."""
    if not serves(gpu.kind, item.load):
        return False
    if gpu.running is not None and item.load.rank > gpu.max_lora_rank:
        return False
    pinned = item.load.pin is None or item.load.pin == gpu.label
    return pinned and bool(compatible(gpu.items, [item]))


def alone_holding(items: Sequence[Item], kind: GpuKind, evaluator: Evaluator) -> list[Item]:
    """Those that hold alone on a GPU."""
    alone = [GpuPlacement(kind, (item,), 0 if item.load.is_base else 1) for item in items]
    verdicts = evaluator.judge([gpu.trial() for gpu in alone])
    return [item for item, verdict in zip(items, verdicts, strict=True) if verdict.holds]


def with_one_more(gpu: GpuPlacement, item: Item) -> GpuPlacement:
    """The GPU with an item more, and a slot more if it had one each."""
    each = gpu.max_loras == n_adapters(gpu.loads)
    return gpu.with_items([*gpu.items, item], gpu.max_loras + each)


def counted(n_gpus: int) -> str:
    """A number of GPUs in words: `1 GPU`, `2 GPUs`."""
    return "1 GPU" if n_gpus == 1 else f"{n_gpus} GPUs"


def by_kinds(
    problem: Problem, items: Sequence[Item]
) -> list[tuple[tuple[GpuKind, ...], list[Item]]]:
    """Items grouped by the kinds of GPU that serve their base model."""
    by_model: dict[str | None, list[Item]] = {}
    groups: dict[tuple[int, ...], tuple[tuple[GpuKind, ...], list[Item]]] = {}
    for item in items:
        model = item.load.model
        if model not in by_model:
            kinds = problem.kinds_for(item.load)
            key = tuple(id(kind) for kind in kinds)
            by_model[model] = groups.setdefault(key, (kinds, []))[1]
        by_model[model].append(item)
    return list(groups.values())
