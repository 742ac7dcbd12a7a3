"""`latency`: each adapter to the least loaded GPU that the model says still holds.

A baseline of arXiv 2508.08343. Where the model says that none holds, the least loaded gets it.
"""

from __future__ import annotations

from lorapack.packer.baselines.ground import Baseline, Ground, Groups, most_slots
from lorapack.packer.evaluate import max_lora_rank_for
from lorapack.packer.placement import Item, compatible, item_order
from lorapack.twin.trial import Trial

CHECKED_SHARE = 0.3
"""A GPU with less than this share of the bare model's throughput is not asked about."""


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Least loaded first, checked by the model."""
    from lorapack.packer.baselines.max_backbone import bare_throughput_tps

    unchecked = CHECKED_SHARE * bare_throughput_tps(ground)
    placed: Groups = [[] for _ in range(n_gpus)]
    totals = [0.0] * n_gpus
    for item in sorted(ground.items, key=lambda item: (-ground.load_tps(item), item.name)):
        order = sorted(range(len(placed)), key=lambda i: (totals[i], i))
        free = [i for i in order if compatible(placed[i], [item])] or [order[0]]
        load = ground.load_tps(item)
        chosen = next(
            (i for i in free if totals[i] + load < unchecked or _holds(ground, [*placed[i], item])),
            free[0],
        )
        placed[chosen].append(item)
        totals[chosen] += load
    return placed


def _holds(ground: Ground, items: list[Item]) -> bool:
    loads = tuple(item.load for item in sorted(items, key=item_order))
    slots = most_slots(ground, items)
    trial = Trial(ground.kind.profile, loads, slots, max_lora_rank_for(loads))
    return ground.evaluator.judge([trial])[0].holds


BASELINE = Baseline("latency", groups, lambda n: n)
