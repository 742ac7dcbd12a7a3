"""`round-robin`: adapters dealt to GPUs in turn, by name."""

from __future__ import annotations

from lorapack.packer.baselines.ground import FIXED_SLOTS, Baseline, Ground, Groups, deal


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Deals the items in turn."""
    return deal(ground.items, [i % n_gpus for i in range(len(ground.items))], n_gpus)


BASELINE = Baseline("round-robin", groups, lambda _: FIXED_SLOTS)
