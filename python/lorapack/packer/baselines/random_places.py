"""`random`: every adapter on a GPU drawn at random."""

from __future__ import annotations

import numpy as np

from lorapack.packer.baselines.ground import FIXED_SLOTS, Baseline, Ground, Groups, deal


def groups(ground: Ground, n_gpus: int) -> Groups:
    """Draws a GPU for each item."""
    draws = np.random.default_rng(ground.seed).integers(n_gpus, size=len(ground.items))
    return deal(ground.items, [int(draw) for draw in draws], n_gpus)


BASELINE = Baseline("random", groups, lambda _: FIXED_SLOTS)
