"""`aibrix-binpack`: AIBrix's bin packing scheduler, which counts adapters: ten a pod.

Pods are filled one after the other to that constant, whatever the adapters' rates.
"""

from __future__ import annotations

import math

from lorapack.packer.baselines.ground import Baseline, Ground, Groups, deal

ADAPTERS_PER_POD = 10


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Ten by ten, by name."""
    places = [i // ADAPTERS_PER_POD for i in range(len(ground.items))]
    return deal(ground.items, [place % n_gpus for place in places], n_gpus)


def n_gpus_of(ground: Ground) -> int:
    """As many as ten a pod make."""
    return math.ceil(len(ground.items) / ADAPTERS_PER_POD)


BASELINE = Baseline("aibrix-binpack", groups, lambda _: ADAPTERS_PER_POD, n_gpus_of)
