"""`dynamo-hrw`: NVIDIA Dynamo's frontend: rendezvous hashing, replicas by share of the load.

Each adapter goes to the workers with the highest hash of (adapter, worker), on as many as its share
of all load is of the workers, rounded up.
"""

from __future__ import annotations

import hashlib
import math

from lorapack.packer.baselines.ground import FIXED_SLOTS, Baseline, Ground, Groups
from lorapack.packer.placement import Item, compatible, replicas


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Hashes each adapter to its workers."""
    whole = [Item(adapter) for adapter in ground.whole.values()]
    total = sum(ground.load_tps(item) for item in whole)
    placed: Groups = [[] for _ in range(n_gpus)]
    for item in whole:
        share = ground.load_tps(item) / total if total else 0.0
        n = max(1, math.ceil(share * n_gpus - 1e-9))
        order = sorted(range(n_gpus), key=lambda i: _weight(item.name, i), reverse=True)
        for share_item in replicas(item.load, n) if n > 1 else [item]:
            free = next((i for i in order if compatible(placed[i], [share_item])), None)
            if free is None:
                placed.append([])
                free = len(placed) - 1
            placed[free].append(share_item)
    return placed


def _weight(adapter: str, worker: int) -> bytes:
    return hashlib.blake2b(f"{adapter}\0{worker}".encode(), digest_size=8).digest()


BASELINE = Baseline("dynamo-hrw", groups, lambda _: FIXED_SLOTS)
