"""Local search aimed at closing a GPU: its adapters moved, one by one, to where there is room.

The emptiest GPU is the candidate. Its items go, the largest first, to the GPUs that prediction says
have the most room, each move judged; only if all of them find a place is the GPU closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorapack.packer.evaluate import slot_rules
from lorapack.packer.guide import Guide
from lorapack.packer.placement import may_join, with_one_more

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lorapack.packer.placement import GpuPlacement, Item
    from lorapack.packer.verify import Judges

TRIES = 5
"""GPUs on which each item is tried."""

FULL_LOAD = 0.97
"""Predicted load up to which a GPU is thought to have room."""


def close_gpus(
    gpus: Sequence[GpuPlacement], judges: Judges, rate_factor: float, at_most: int | None = None
) -> list[GpuPlacement]:
    """The same items on fewer GPUs, if moving them one by one gets there.

    Args:
        gpus: A placement.
        judges: Say whether a GPU holds with an item more.
        rate_factor: The margin that moves are judged with.
        at_most: GPUs closed at most; None: as many as can be.
    """
    current = list(gpus)
    guides: dict[int, Guide] = {}
    fewest = 1 if at_most is None else max(1, len(current) - at_most)
    while len(current) > fewest:
        loads = [_load(gpu, guides, judges) for gpu in current]
        open_ = [i for i, gpu in enumerate(current) if not gpu.exempt and gpu.label is None]
        if not open_:
            return current
        smallest = min(open_, key=lambda i: (loads[i], i))
        room = sum(max(0.0, FULL_LOAD - load) for i, load in enumerate(loads) if i != smallest)
        if loads[smallest] > room:
            return current
        closed = _close(current, smallest, loads, judges, rate_factor)
        if closed is None:
            return current
        current = closed
    return current


def _close(
    gpus: Sequence[GpuPlacement],
    which: int,
    loads: Sequence[float],
    judges: Judges,
    rate_factor: float,
) -> list[GpuPlacement] | None:
    others = list(gpus)
    room = list(loads)
    room[which] = float("inf")
    for item in sorted(gpus[which].items, key=lambda item: (-item.load.rate_rps, item.name)):
        places = sorted(range(len(others)), key=lambda i: (room[i], i))
        tries = [i for i in places if i != which and _may_take(others[i], item)][:TRIES]
        joined = ((i, with_one_more(others[i], item)) for i in tries)
        found = next(
            (
                (i, gpu)
                for i, gpu in joined
                if judges.of(gpu).judge([gpu.trial(rate_factor)])[0].holds
            ),
            None,
        )
        if found is None:
            return None
        others[found[0]] = found[1]
        room[found[0]] += item.load.rate_rps / max(_rate(gpus[found[0]]), 1e-9) * loads[found[0]]
    return [gpu for i, gpu in enumerate(others) if i != which]


def _may_take(gpu: GpuPlacement, item: Item) -> bool:
    return not gpu.exempt and item.load.rank <= gpu.max_lora_rank and may_join(gpu, item)


def _load(gpu: GpuPlacement, guides: dict[int, Guide], judges: Judges) -> float:
    guide = guides.setdefault(
        id(gpu.kind), Guide(gpu.kind.profile, judges.level, slot_rules(judges.slo))
    )
    return guide.load(gpu.items)


def _rate(gpu: GpuPlacement) -> float:
    return sum(load.rate_rps for load in gpu.loads)
