"""`production-stack`: vLLM production-stack's LoRA controller: the first pods by name.

Its `ordered` algorithm loads an adapter on the first `replicas` pods, sorted by name. With one
replica all adapters pile up on the first pod, so replicas are as many as pods: every adapter on
every GPU, each with an equal share of its requests.
"""

from __future__ import annotations

from lorapack.packer.baselines.ground import FIXED_SLOTS, Baseline, Ground, Groups
from lorapack.packer.placement import Item, replicas


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Everything everywhere."""
    shares = [
        replicas(adapter, n_gpus)[0] if n_gpus > 1 else Item(adapter)
        for adapter in ground.whole.values()
    ]
    return [list(shares) for _ in range(n_gpus)]


BASELINE = Baseline("production-stack", groups, lambda _: FIXED_SLOTS)
