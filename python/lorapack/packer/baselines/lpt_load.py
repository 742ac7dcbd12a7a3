"""`lpt-load`: the busiest adapter first, each to the GPU with the fewest tokens per second."""

from __future__ import annotations

from lorapack.packer.baselines.ground import Baseline, Ground, Groups, least_loaded


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Longest processing time first."""
    items = sorted(ground.items, key=lambda item: (-ground.load_tps(item), item.name))
    return least_loaded(items, [ground.load_tps(item) for item in items], n_gpus)


BASELINE = Baseline("lpt-load", groups, lambda n: n)
