"""`dlora-proactive`: dLoRA's placement ahead of time (OSDI 2024), as far as it is about places.

Adapters in the order of their load with its bursts (mean plus one standard deviation of the
requests of a minute), each to the replica whose load so counted is least and that has memory left
for it. dLoRA's migrations at run time are no part of a plan.
"""

from __future__ import annotations

import math

from lorapack.packer.baselines.ground import FIXED_SLOTS, Baseline, Ground, Groups, least_loaded
from lorapack.packer.placement import Item

MINUTE_S = 60.0


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Least loaded, bursts counted."""

    def burst_tps(item: Item) -> float:
        requests = item.load.rate_rps * MINUTE_S
        if requests == 0.0:
            return 0.0
        spread = item.load.cv * math.sqrt(requests)
        return ground.load_tps(item) * (1.0 + spread / requests)

    items = sorted(ground.items, key=lambda item: (-burst_tps(item), item.name))
    return least_loaded(items, [burst_tps(item) for item in items], n_gpus)


BASELINE = Baseline("dlora-proactive", groups, lambda _: FIXED_SLOTS)
