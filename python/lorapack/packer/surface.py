"""What fits on a GPU, as sizes that add up: the predicted surface that dual bounds are taken on.

A GPU of the plan that breaks at t times its traffic is filled to 1/t, which its items share by the
load that each adds to it, by physics, when it is full. In slots of another rank, or on another kind
of GPU, an item's share is as much larger or smaller as the load it adds there. A set fits if its
sizes sum to 1 at most, which describes mixed sets to a few per cent; every GPU of the plan fits, so
no bound on this surface exceeds the plan's own number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from lorapack.packer.bound import law_of
from lorapack.packer.evaluate import max_lora_rank_for, slot_rules
from lorapack.packer.guide import Guide, first_load

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from lorapack.packer.evaluate import Evaluator
    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.problem import GpuKind
    from lorapack.twin.service_level import ServiceLevel

    Floats = NDArray[np.float64]

RATES_A_LAW = 12
"""Items of one kind of request whose sizes are reckoned; others lie between, by rate."""

LEAST_SIZE = 1e-9
"""Of any item."""


@dataclass(frozen=True)
class Full:
    """A GPU of a plan, and at how much traffic it breaks.

    Attributes:
        gpu: The placement.
        factor: On its planned traffic; None: it is far from full, or nobody asked.
    """

    gpu: GpuPlacement
    factor: float | None


def sizes_on_surface(
    items: Sequence[Item],
    kinds: Sequence[GpuKind],
    full: Sequence[Full],
    evaluator: Evaluator,
    slo: ServiceLevel,
) -> Floats:
    """The share that each item takes of each class of GPU (a kind and a rank of its slots).

    Args:
        items: All that must be placed, GPU by GPU as `full` has them.
        kinds: GPUs to be had.
        full: The GPUs of a plan of these items.
        evaluator: For what memory allows.
        slo: The service level.

    Returns:
        A row a class and a column an item, endless where it does not fit at all.
    """
    ranks = sorted({max_lora_rank_for([item.load]) for item in items})
    guides = {id(kind): Guide(kind.profile, evaluator, slot_rules(slo)) for kind in kinds}
    classes = [(kind, rank) for kind in kinds for rank in ranks]
    loads = np.concatenate([_loads_of_gpu(entry, classes, guides) for entry in full], axis=1)
    return loads * _shares(full, classes, loads, 1.0 / first_load(slo))


def _loads_of_gpu(
    entry: Full, classes: Sequence[tuple[GpuKind, int]], guides: Mapping[int, Guide]
) -> Floats:
    """What the items of a GPU add to it, were it of each class."""
    items = entry.gpu.items
    groups = _by_law(items)
    return np.array(
        [
            _loads(guides[id(kind)], items, groups, rank, _at_the_edge(entry, rank))
            for kind, rank in classes
        ]
    )


def _shares(
    full: Sequence[Full], classes: Sequence[tuple[GpuKind, int]], loads: Floats, usual: float
) -> Floats:
    """What part of a GPU a load of 1 is, item by item, as the GPUs of the plan show."""
    ends = accumulate(len(entry.gpu.items) for entry in full)
    spans = [slice(end - len(entry.gpu.items), end) for entry, end in zip(full, ends, strict=True)]
    rows = {(id(kind), rank): row for row, (kind, rank) in enumerate(classes)}
    totals = [
        float(loads[rows[id(entry.gpu.kind), max_lora_rank_for(entry.gpu.loads)], span].sum())
        for entry, span in zip(full, spans, strict=True)
    ]
    told = [i for i, entry in enumerate(full) if entry.factor is not None]
    if told:
        usual = sum(1.0 / (full[i].factor or 1.0) for i in told) / sum(totals[i] for i in told)
    shares = np.empty(loads.shape[1])
    for entry, span, total in zip(full, spans, totals, strict=True):
        fills = min(usual * total, 1.0) if entry.factor is None else 1.0 / entry.factor
        shares[span] = fills / total
    return shares


def _loads(
    guide: Guide,
    items: Sequence[Item],
    groups: Mapping[object, list[int]],
    rank: int,
    beside: Sequence[Item],
) -> Floats:
    """What each item adds to the load of a full GPU with slots of a rank."""
    before = guide.load_of(beside, rank)
    loads: Floats = np.full(len(items), np.inf)
    for places in groups.values():
        if items[places[0]].load.rank > rank:
            continue
        rates = np.array([items[place].load.rate_rps for place in places])
        order = np.argsort(rates, kind="stable")
        chosen = order[np.unique(np.linspace(0, len(order) - 1, RATES_A_LAW).astype(int))]
        known = [guide.load_beside(beside, items[places[i]], rank) - before for i in chosen]
        loads[places] = np.interp(rates, rates[chosen], np.maximum(known, LEAST_SIZE))
    return loads


def _at_the_edge(full: Full, rank: int) -> list[Item]:
    """The items of a GPU at the traffic it breaks at, of ranks that slots of a rank can take."""
    factor = full.factor or 1.0
    return [
        replace(
            item,
            load=replace(
                item.load, rate_rps=item.load.rate_rps * factor, rank=min(item.load.rank, rank)
            ),
        )
        for item in full.gpu.items
    ]


def _by_law(items: Sequence[Item]) -> dict[object, list[int]]:
    """Places of items whose requests are alike but for their rate."""
    groups: dict[object, list[int]] = {}
    for place, item in enumerate(items):
        key = (law_of(item.load), item.load.cv, item.load.rank)
        groups.setdefault(key, []).append(place)
    return groups
